"""JSON objects from files that others wrote: a name that occurs twice is refused."""

from __future__ import annotations

import json
from typing import Any


def parse(text: str) -> Any:
    """The value of a JSON text.

    Raises:
        ValueError: not JSON, or an object names something twice; the second one would silently win otherwise.
        RecursionError: nested too deeply.
    """
    return json.loads(text, object_pairs_hook=_unique)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name occurs twice")
    return found
