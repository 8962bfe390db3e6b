"""The lines of a ledger: which there are, what they hold, and that they hold nothing else."""

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
    now,
    one_of,
    or_none,
    positive,
    whole,
)
from erase_plugins.artifacts.reference import REPO, SCHEME
from erase_plugins.errors import CorruptArtifact, RequestError

__all__ = ["KIND", "SCHEMA", "check_id", "check_shape", "is_id", "is_name", "now"]

SCHEMA = 1
KIND = "erase-plugins records"
_ID = re.compile(r"r[0-9a-f]{16}\Z")
#: places where weights went; names of files and folders are not among them
_WHERE = re.compile(rf"file\Z|{SCHEME}{REPO}\Z", re.ASCII)
#: names under which a start of a random generator is usually kept
SEEDS = frozenset({"seed", "seeds", "rng", "rng_state", "random_state", "generator", "generator_state", "test_seed"})


def is_id(value: Any) -> bool:
    """Whether this is a record's name: random, and no hash of what the record holds, which would betray it."""
    return isinstance(value, str) and bool(_ID.match(value))


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


_ids = list_of(is_id)


def _pairs(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, list) and len(item) == 2 and _ids(item) for item in value)


#: event -> field -> check of its value; no other field is allowed
FIELDS: dict[str, dict[str, Check]] = {
    "open": {
        "schema": one_of(SCHEMA),
        "kind": one_of(KIND),
        "ledger": matches(re.compile(r"[0-9a-f]{32}\Z")),
        "version": is_name,
        "base": is_name,
        "head": one_of("full", "low-rank"),
        "rank": count,
        "fixed": or_none(is_hash),
        "n": whole,
        "outputs": whole,
        "dim": whole,
        "loss": one_of("softmax", "logistic", "huber"),
        "threshold": positive,
        "norm": positive,
        "scale": positive,
        "bias": one_of(True, False),
        "lipschitz": positive,
        "smoothness": positive,
        "lam": positive,
        "eta": positive,
        "sigma2": positive,
        "contraction": positive,
        "group": whole,
        "rho_dp": positive,
        "rho_dd": positive,
        "delta": lambda value: positive(value) and value < 1,
        "max_releases": count,
        "learn_steps": whole,
        "edit_steps": whole,
        "mode": one_of("warm", "fresh"),
        "preset": one_of("default", "paper"),
        "dtype": one_of("float64"),
        "noise": one_of("system", "repeatable"),
        "ids": _ids,
    },
    "learn": {"steps": whole},
    "edit": {"removed": _ids, "added": _ids, "replaced": _pairs, "steps": whole, "fresh": one_of(True, False)},
    "release": {"n": whole, "where": matches(_WHERE), "sha256": is_hash},
    "budget": {"max_releases": count},
    "refused": {"what": one_of("release")},
}  # fmt: skip


def check_shape(entry: Mapping[str, Any], number: int) -> str:
    """The event of a line, if its fields are exactly those of that event and each is of its kind.

    Raises:
        CorruptArtifact: names line and field.
    """
    if set(entry) & SEEDS:
        raise CorruptArtifact(
            f"line {number} of the ledger holds a seed; whoever knows the noise can subtract it: no certificate"
        )
    return check_fields(entry, number, FIELDS)
