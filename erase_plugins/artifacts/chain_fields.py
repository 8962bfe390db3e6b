"""What a line of a hash chain may hold: fields with a check each, and nothing else. Shared by all ledgers."""

from __future__ import annotations

import datetime
import re
from collections.abc import Callable, Mapping
from typing import Any

from erase_plugins.errors import CorruptArtifact

Check = Callable[[Any], bool]
_HASH = re.compile(r"[0-9a-f]{64}\Z")
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ\Z")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._/:+-]{0,119}\Z", re.ASCII)


def now() -> str:
    """The time, to the second, UTC."""
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def matches(pattern: re.Pattern[str]) -> Check:
    """Check: a text of this form."""
    return lambda value: isinstance(value, str) and bool(pattern.match(value))


def one_of(*allowed: Any) -> Check:
    """Check: one of these values, of the same type."""
    return lambda value: any(type(value) is type(item) and value == item for item in allowed)


def list_of(check: Check, least: int = 0) -> Check:
    """Check: a list without repetitions of at least ``least`` values that pass."""
    return lambda value: (
        isinstance(value, list) and len(value) >= least and all(map(check, value)) and len(set(value)) == len(value)
    )


def or_none(check: Check) -> Check:
    """Check: nothing, or what passes."""
    return lambda value: value is None or check(value)


def count(value: Any) -> bool:
    """Whether this is a whole number, 0 or more."""
    return type(value) is int and value >= 0


def whole(value: Any) -> bool:
    """Whether this is a whole number above 0 that a computer may have to count to."""
    return type(value) is int and 0 < value < 1e30


def positive(value: Any) -> bool:
    """Whether this is a number above 0."""
    return type(value) in (int, float) and 0 < value < 1e30


is_hash, is_time, is_name = matches(_HASH), matches(_TIME), matches(_NAME)
#: in every line, besides ``event``
COMMON: dict[str, Check] = {"seq": count, "time": is_time, "prev": is_hash, "hash": is_hash}

_AGAIN = "update and check again, since this one can neither confirm nor refute it"
#: behind what a later version may have written, or somebody else
_NEWER = f"; a newer erase-plugins may know it: {_AGAIN}"


def check_schema(what: str, schema: Any, known: int) -> None:
    """Refuses what a later version made, before anything in it looks like a forgery.

    Raises:
        CorruptArtifact: says that it cannot be checked here.
    """
    if type(schema) is int and schema > known:
        raise CorruptArtifact(
            f"{what} has schema {schema}, this version reads up to {known}: a newer erase-plugins made it; {_AGAIN}"
        )


def check_fields(entry: Mapping[str, Any], number: int, events: Mapping[str, Mapping[str, Check]]) -> str:
    """The event of a line, if its fields are exactly those of that event and each is of its kind.

    Args:
        entry: the line.
        number: how messages count it, from 1.
        events: event -> field -> check of its value, without those that every line has.

    Raises:
        CorruptArtifact: names line and field.
    """
    event = entry.get("event")
    if not isinstance(event, str) or event not in events:
        raise CorruptArtifact(f"line {number} of the ledger: unknown event {str(event)[:40]!r}{_NEWER}")
    fields = {**COMMON, **events[event]}
    odd = sorted((set(entry) - {"event"}) ^ set(fields))
    if odd:
        what, more = ("lacks", "") if odd[0] in fields else ("has an unknown field", _NEWER)
        raise CorruptArtifact(f"line {number} of the ledger {what} '{odd[0][:40]}'{more}")
    for name, fits in fields.items():
        if not fits(entry[name]):
            more = _NEWER if name == "schema" else ""
            raise CorruptArtifact(
                f"line {number} of the ledger: '{name}' of {event} is {str(entry[name])[:40]!r}{more}"
            )
    return event
