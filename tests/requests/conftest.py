"""Desks with requests that lived through everything, without any model: what a run would enter is entered by hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from erase_plugins.requests import decisions
from erase_plugins.requests.intake import receive
from erase_plugins.requests.store import Desk

#: names that may turn up nowhere
CANARY, OTHER = "Zorvane Ymbrook-Quillith", "Maribex Tressok"
ARTIFACT, BASE = "a" * 64, "b" * 64


def triaged(desk: Desk, case: str, remedies: tuple[str, ...] = ("uce", "esd")) -> None:
    items = [{"id": name, "level": "weights", "why": "fits the model"} for name in remedies]
    body = {"event": "triaged", "case": case, "model": "pocket", "family": "sd1", "offers": ["text"], "remedies": items}
    desk.append(lambda _: [body])


def attempted(desk: Desk, case: str, attempt: int, passed: bool, remedy: str = "uce") -> None:
    """One attempt, from its start to its evaluation."""
    rows = [["target_rate", "base", 1.0, 0.5, 1.0, 4], ["target_rate", "edited", 0.0 if passed else 0.9, 0.0, 1.0, 4]]
    common = {"case": case, "attempt": attempt}
    desk.append(lambda _: [
        {"event": "started", **common, "remedy": remedy, "seed": 0, "records": []},
        {"event": "made", **common, "artifact": ARTIFACT, "base": BASE, "guard": None},
        {"event": "evaluated", **common, "suite": "quick", "rows": rows, "left": 0.1, "loss": 0.1, "passed": passed,
         "reasons": [] if passed else ["target_rate fell from 1 to 0.9"]},
    ])  # fmt: skip


def lived(folder: Path) -> tuple[Desk, str, str]:
    """A desk with two requests: one deployed and revoked, one held, extended, failed, deployed all the same."""
    desk = Desk.create(folder)
    first, _ = receive(desk, "person", [CANARY], evidence="ticket 17")
    second, _ = receive(desk, "object", [OTHER], public=True, days=30)
    decisions.verify_identity(desk, first, "account")
    triaged(desk, first)
    attempted(desk, first, 1, True)
    decisions.deploy(desk, first)
    decisions.decide(desk, second, "hold", "clarification")
    decisions.decide(desk, second, "resume")
    decisions.verify_identity(desk, second, "not-needed")
    decisions.decide(desk, second, "extend", "complexity")
    triaged(desk, second)
    attempted(desk, second, 1, False)
    decisions.deploy(desk, second, "risk-accepted")
    decisions.revoke(desk, first, "damage", "account")
    decisions.decide(desk, first, "close")
    return desk, first, second


@pytest.fixture
def desk(tmp_path: Path) -> tuple[Desk, str, str]:
    return lived(tmp_path / "desk")
