"""Where a request stands, and what may happen next."""

from __future__ import annotations

#: a request is given up after so many failed attempts, and a person has to decide
ATTEMPTS = 3
#: the person has had no answer yet, and nothing passed its measurement
_OPEN = (
    "received", "identity_verified", "triaged", "on_hold", "running", "refused", "made", "failed", "escalated",
)  # fmt: skip
#: event -> states in which it may happen; the state that follows is `AFTER` or depends on the event
BEFORE: dict[str, tuple[str, ...]] = {
    "verified": ("received",),
    "triaged": ("identity_verified", "triaged", "running", "refused", "made", "failed"),
    "held": ("received", "identity_verified", "triaged", "refused", "failed"),
    "resumed": ("on_hold",),
    "rejected": tuple(state for state in _OPEN if state != "made"),
    "extended": _OPEN,
    "started": ("triaged", "refused", "failed"),
    "refused": ("running",),
    "made": ("running",),
    "evaluated": ("made", "passed", "failed", "escalated"),
    "deployed": ("passed", "failed", "escalated"),
    "revoked": ("deployed",),
    "closed": ("rejected", "deployed", "revoked", "escalated"),
}
AFTER = {
    "received": "received", "verified": "identity_verified", "triaged": "triaged", "held": "on_hold",
    "rejected": "rejected", "started": "running", "refused": "refused", "made": "made", "deployed": "deployed",
    "revoked": "revoked", "closed": "closed",
}  # fmt: skip
#: states in which the person has had an answer
ANSWERED = ("deployed", "revoked", "rejected", "closed")
#: state -> the command that takes it further
NEXT = {
    "received": "verify", "identity_verified": "plan", "triaged": "run", "on_hold": "decide", "running": "run",
    "refused": "run", "made": "evaluate", "passed": "deploy", "failed": "run", "escalated": "decide",
    "deployed": "export", "revoked": "export", "rejected": "export", "closed": "",
}  # fmt: skip

#: kinds of requests; those of `PRIVATE` are about somebody, and what is made for them never leaves the house
KINDS = ("person", "fact", "document", "record", "style", "object", "class")
PRIVATE = ("person", "fact", "document", "record")
IDENTITY = ("account", "document", "in-person", "representative", "not-needed")
#: reasons are chosen from a list: a free text would sooner or later hold a name
REASONS: dict[str, tuple[str, ...]] = {
    "held": ("clarification", "identity", "legal-review", "waiting-for-data"),
    "rejected": (
        "identity-not-shown", "not-found", "expression", "legal-duty", "archives", "legal-claims", "unfounded",
        "withdrawn", "duplicate", "mistake",
    ),
    "extended": ("complexity", "number-of-requests"),
    "revoked": ("damage", "mistake", "superseded", "withdrawn", "court-order"),
    "override": ("risk-accepted", "no-better-remedy", "guardrail-in-force"),
}  # fmt: skip
