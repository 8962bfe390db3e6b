"""The lines of a ledger of requests: which there are, what they hold, and that they hold nothing else."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from erase_plugins.artifacts.chain_fields import (
    Check,
    check_fields,
    count,
    is_hash,
    is_name,
    list_of,
    matches,
    one_of,
    or_none,
    whole,
)
from erase_plugins.requests.deadlines import RULES
from erase_plugins.requests.states import IDENTITY, KINDS, REASONS

SCHEMA = 1
KIND = "erase-plugins requests"
is_case = matches(re.compile(r"q[0-9a-f]{12}\Z"))
is_day = matches(re.compile(r"\d{4}-\d\d-\d\d\Z"))
is_record = matches(re.compile(r"r[0-9a-f]{16}\Z"))
_ID = matches(re.compile(r"[a-z][a-z0-9_-]{0,39}\Z"))
#: a sentence of this program
_TEXT = matches(re.compile(r"[ -~]{1,240}\Z"))
#: name of a metric or of what it was measured on
_METRIC = matches(re.compile(r"[A-Za-z0-9][A-Za-z0-9_ @.-]{0,59}\Z"))
_KEY = matches(re.compile(r"[0-9a-f]{16}\Z"))
_bool = one_of(True, False)


def _number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) < 1e300


def _remedies(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(
        isinstance(item, dict) and set(item) == {"id", "level", "why"} and _ID(item["id"]) and _TEXT(item["why"])
        and item["level"] in LEVELS
        for item in value
    )  # fmt: skip


def _rows(value: Any) -> bool:
    return isinstance(value, list) and all(
        isinstance(row, list) and len(row) == 6 and _METRIC(row[0]) and _METRIC(row[1]) and _number(row[2])
        and all(item is None or _number(item) for item in row[3:5]) and count(row[5])
        for row in value
    )  # fmt: skip


#: what a remedy changes: nothing but what is let through, the weights, or the data and the weights
LEVELS = ("prompt", "weights", "data")
_CASE: dict[str, Check] = {"case": is_case, "role": _ID}
#: event -> field -> check of its value; no other field is allowed
FIELDS: dict[str, dict[str, Check]] = {
    "open": {
        "schema": one_of(SCHEMA), "kind": one_of(KIND), "ledger": matches(re.compile(r"[0-9a-f]{32}\Z")),
        "version": is_name, "key": _KEY,
    },
    "received": {
        "what": one_of(*KINDS), "subjects": list_of(is_hash, 1), "data": or_none(is_hash), "day": is_day,
        "rule": one_of(*RULES, "days"), "days": count, "due": is_day, "evidence": or_none(is_name), "public": _bool,
    },
    "verified": {"identity": one_of(*IDENTITY)},
    "triaged": {
        "model": is_name, "family": _ID, "offers": list_of(_ID), "remedies": _remedies,
    },
    "held": {"reason": one_of(*REASONS["held"])},
    "resumed": {},
    "rejected": {"reason": one_of(*REASONS["rejected"])},
    "extended": {"reason": one_of(*REASONS["extended"]), "due": is_day},
    "started": {"attempt": whole, "remedy": _ID, "seed": count, "records": list_of(is_record)},
    "refused": {"attempt": whole},
    "made": {"attempt": whole, "artifact": is_hash, "base": is_hash, "guard": or_none(is_hash)},
    "evaluated": {
        "attempt": whole, "suite": _ID, "rows": _rows, "left": _number, "loss": _number, "passed": _bool,
        "reasons": list_of(_TEXT),
    },
    "deployed": {"attempt": whole, "artifact": is_hash, "override": or_none(one_of(*REASONS["override"]))},
    "revoked": {"reason": one_of(*REASONS["revoked"]), "identity": one_of(*IDENTITY)},
    "closed": {},
}  # fmt: skip
_ALL = {event: fields if event == "open" else {**_CASE, **fields} for event, fields in FIELDS.items()}


def check_shape(entry: Mapping[str, Any], number: int) -> str:
    """The event of a line whose fields are exactly those of that event.

    Raises:
        CorruptArtifact: names line and field.
    """
    return check_fields(entry, number, _ALL)
