"""What the package hands down to its lower rooms when it is imported, so that none of them imports a room above it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

#: functions of upper rooms: those that data classes offer as methods too (save, apply, card, family), and
#: attacks, suites and erase, which ask the registry
FUNCTIONS: dict[str, Callable[..., Any]] = {}
#: version of the package
VERSION = ""
