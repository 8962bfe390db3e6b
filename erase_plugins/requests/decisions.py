"""What a person decides about a request. Reasons are words from a list, so that no name slips into the ledger."""

from __future__ import annotations

import shutil
from typing import Any

from erase_plugins.errors import RequestError
from erase_plugins.hints import Hint
from erase_plugins.requests.case import Case, Ledger
from erase_plugins.requests.deadlines import date, due, rule_of
from erase_plugins.requests.states import IDENTITY, REASONS
from erase_plugins.requests.store import Desk

#: word of the command -> event
DECISIONS = {"hold": "held", "resume": "resumed", "reject": "rejected", "extend": "extended", "close": "closed"}


def verify_identity(desk: Desk, name: str, identity: str, role: str = "operator", dry_run: bool = False) -> Ledger:
    """Enters how it was checked who asks."""
    return _enter(desk, name, {"event": "verified", "identity": _one(identity, IDENTITY)}, role, dry_run)


def decide(
    desk: Desk, name: str, what: str, reason: str | None = None, role: str = "operator", dry_run: bool = False
) -> Ledger:
    """Holds, resumes, rejects, extends or closes a request.

    Raises:
        RequestError: it cannot be done now, or the reason is missing or none of the list.
    """
    event = DECISIONS[_one(what, tuple(DECISIONS))]
    body: dict[str, Any] = {"event": event}
    if event in REASONS:
        body["reason"] = _one(reason or "", REASONS[event])
    elif reason is not None:
        raise RequestError(f"'{what}' takes no reason")
    if event == "extended":
        received = desk.ledger().case(name).last["received"]
        body["due"] = due(date(received["day"]), rule_of(received["rule"], received["days"]), True).isoformat()
    ledger = _enter(desk, name, body, role, dry_run)
    if event in ("rejected", "closed") and not dry_run:
        _forget_work(desk, ledger.case(name))
    return ledger


def _forget_work(desk: Desk, case: Case) -> None:
    """Removes the checkpoints of interrupted runs, which hold the name."""
    for place in desk.folder.glob(f".{case.id}-*.work"):
        shutil.rmtree(place, ignore_errors=True)


def deploy(
    desk: Desk, name: str, override: str | None = None, role: str = "operator", dry_run: bool = False
) -> Ledger:  # fmt: skip
    """Enters that what was made is in use from now on.

    Raises:
        RequestError: nothing passed, and no reason says why it is used anyway.
    """
    case = desk.ledger().case(name)
    if case.state in ("failed", "escalated") and override is None:
        raise RequestError(
            f"request {case.id} did not pass its evaluation; run it again, or give ",
            Hint("override"),
            f" with one of {', '.join(REASONS['override'])}",
        )
    body = {"event": "deployed", "attempt": max(case.attempt, 1), "artifact": case.artifact or "0" * 64,
            "override": None if override is None else _one(override, REASONS["override"])}  # fmt: skip
    return _enter(desk, name, body, role, dry_run)


def revoke(
    desk: Desk, name: str, reason: str, identity: str, role: str = "operator", dry_run: bool = False
) -> Ledger:  # fmt: skip
    """Enters that what was made is no longer in use; who asks for that is checked as at the intake."""
    body = {"event": "revoked", "reason": _one(reason, REASONS["revoked"]), "identity": _one(identity, IDENTITY)}
    return _enter(desk, name, body, role, dry_run)


def in_force(ledger: Ledger) -> list[Case]:
    """The requests whose artifacts have to be loaded, in the order in which they were deployed."""
    found = [case for case in ledger.cases.values() if "deployed" in case.last and "revoked" not in case.last]
    return sorted(found, key=lambda case: int(case.last["deployed"]["seq"]))


def _enter(desk: Desk, name: str, body: dict[str, Any], role: str, dry_run: bool) -> Ledger:
    return desk.append(lambda ledger: [{**body, "case": ledger.case(name).id}], role, dry_run)


def _one(value: str, allowed: tuple[str, ...]) -> str:
    if value not in allowed:
        raise RequestError(f"no reason was given or none of the list; choose one of {', '.join(allowed)}")
    return value
