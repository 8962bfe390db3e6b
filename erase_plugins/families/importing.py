"""Importing the model libraries without looking for garbage meanwhile."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager

#: so many new modules are libraries, which stay until the process ends
_MANY = 200


@contextmanager
def without_collections() -> Iterator[None]:
    """No garbage collection for the time of the block, or of a function that this decorates.

    The model libraries are half a million objects that stay. Looking through them again and again while they come is a
    fifth of the time that importing them takes, and finds nothing; once they are there they are not looked at any more.
    """
    before, collecting = len(sys.modules), gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if len(sys.modules) - before > _MANY:
            gc.freeze()
        if collecting:
            gc.enable()
