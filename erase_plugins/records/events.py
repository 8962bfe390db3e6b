"""The lines of a ledger: which there are, what they hold, and that they hold nothing else."""

from __future__ import annotations

import datetime
import re
from collections.abc import Callable, Mapping
from typing import Any

from erase_plugins.errors import CorruptArtifact, RequestError

SCHEMA = 1
KIND = "erase-plugins records"
_ID = re.compile(r"r[0-9a-f]{16}\Z")
_HASH = re.compile(r"[0-9a-f]{64}\Z")
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ\Z")
#: places where weights went; names of files and folders are not among them
_WHERE = re.compile(r"file\Z|hub:[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}\Z", re.ASCII)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._/:+-]{0,119}\Z", re.ASCII)
#: names under which a start of a random generator is usually kept
SEEDS = frozenset({"seed", "seeds", "rng", "rng_state", "random_state", "generator", "generator_state", "test_seed"})


def is_id(value: Any) -> bool:
    """Whether this is a record's name: random, and no hash of what the record holds, which would betray it."""
    return isinstance(value, str) and bool(_ID.match(value))


def is_name(value: Any) -> bool:
    """Whether this may stand in a ledger as a name."""
    return isinstance(value, str) and bool(_NAME.match(value))


def check_id(value: Any) -> str:
    """The id, if it is one.

    Raises:
        RequestError: anything else; a hash of the content would let anybody test whether a record was there.
    """
    if not is_id(value):
        raise RequestError(
            f"{str(value)[:80]!r} is not the id of a record; ids are drawn at random when a record comes in "
            "('r' and 16 digits), never made from its content"
        )
    return str(value)


def now() -> str:
    """The time, to the second, UTC."""
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _count(value: Any) -> bool:
    return type(value) is int and value >= 0


def _positive(value: Any) -> bool:
    return type(value) in (int, float) and 0 < value < 1e30


def _ids(value: Any) -> bool:
    return isinstance(value, list) and all(map(is_id, value)) and len(set(value)) == len(value)


def _pairs(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, list) and len(item) == 2 and _ids(item) for item in value)


def _one_of(*allowed: Any) -> Callable[[Any], bool]:
    return lambda value: any(type(value) is type(item) and value == item for item in allowed)


def _matches(pattern: re.Pattern[str]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, str) and bool(pattern.match(value))


_COMMON: dict[str, Callable[[Any], bool]] = {
    "seq": _count,
    "time": _matches(_TIME),
    "prev": _matches(_HASH),
    "hash": _matches(_HASH),
}
#: event -> field -> check of its value; no other field is allowed
FIELDS: dict[str, dict[str, Callable[[Any], bool]]] = {
    "open": {
        "schema": _one_of(SCHEMA),
        "kind": _one_of(KIND),
        "ledger": _matches(re.compile(r"[0-9a-f]{32}\Z")),
        "version": _matches(_NAME),
        "base": _matches(_NAME),
        "head": _one_of("full", "low-rank"),
        "rank": _count,
        "fixed": lambda value: value is None or bool(_matches(_HASH)(value)),
        "n": _positive,
        "outputs": _positive,
        "dim": _positive,
        "loss": _one_of("softmax", "logistic", "huber"),
        "threshold": _positive,
        "norm": _positive,
        "scale": _positive,
        "bias": _one_of(True, False),
        "lipschitz": _positive,
        "smoothness": _positive,
        "lam": _positive,
        "eta": _positive,
        "sigma2": _positive,
        "contraction": _positive,
        "group": _positive,
        "rho_dp": _positive,
        "rho_dd": _positive,
        "delta": lambda value: _positive(value) and value < 1,
        "max_releases": _count,
        "learn_steps": _positive,
        "edit_steps": _positive,
        "mode": _one_of("warm", "fresh"),
        "preset": _one_of("default", "paper"),
        "dtype": _one_of("float64"),
        "noise": _one_of("system", "repeatable"),
        "ids": _ids,
    },
    "learn": {"steps": _positive},
    "edit": {"removed": _ids, "added": _ids, "replaced": _pairs, "steps": _positive, "fresh": _one_of(True, False)},
    "release": {"n": _positive, "where": _matches(_WHERE), "sha256": _matches(_HASH)},
    "budget": {"max_releases": _count},
    "refused": {"what": _one_of("release")},
}  # fmt: skip
_WHOLE = ("n", "outputs", "dim", "group", "learn_steps", "edit_steps", "steps")


def check_shape(entry: Mapping[str, Any], number: int) -> str:
    """The event of a line, if its fields are exactly those of that event and each is of its kind.

    Raises:
        CorruptArtifact: names line and field.
    """
    event = entry.get("event")
    if not isinstance(event, str) or event not in FIELDS:
        raise CorruptArtifact(f"line {number} of the ledger: unknown event {str(event)[:40]!r}")
    fields = {**_COMMON, **FIELDS[event]}
    names = set(entry) - {"event"}
    if names & SEEDS:
        raise CorruptArtifact(
            f"line {number} of the ledger holds a seed; whoever knows the noise can subtract it: no certificate"
        )
    if event == "open" and entry.get("schema") != SCHEMA:
        raise CorruptArtifact(
            f"line {number} of the ledger: schema {str(entry.get('schema'))[:20]}, this version reads {SCHEMA}"
        )
    odd = sorted(names ^ set(fields))
    if odd:
        what = "lacks" if odd[0] in fields else "has an unknown field"
        raise CorruptArtifact(f"line {number} of the ledger {what} '{odd[0][:40]}'")
    for name, fits in fields.items():
        if not fits(entry[name]) or (name in _WHOLE and type(entry[name]) is not int):
            raise CorruptArtifact(f"line {number} of the ledger: '{name}' of {event} is {str(entry[name])[:40]!r}")
    return event
