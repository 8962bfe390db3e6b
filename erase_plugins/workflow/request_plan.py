"""Chooses what is done about a request: which model, which remedies, in which order and why."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from erase_plugins.families.source import public_name
from erase_plugins.requests.case import Case, Ledger
from erase_plugins.requests.store import Desk
from erase_plugins.workflow.models import find_model
from erase_plugins.workflow.remedies import Remedy, for_head, is_head, remedies


@dataclass(frozen=True)
class Choice:
    """What was chosen for a model.

    Attributes:
        model: how the ledger calls it.
        family: id of its family; "head" for a head with records.
        offers: what it can do.
        remedies: in the order in which they are tried.
    """

    model: str
    family: str
    offers: tuple[str, ...]
    remedies: tuple[Remedy, ...]

    @property
    def body(self) -> dict[str, object]:
        """As the ledger holds it."""
        return {
            "event": "triaged", "model": self.model, "family": self.family, "offers": list(self.offers),
            "remedies": [item.to_dict() for item in self.remedies],
        }  # fmt: skip


def choose(case: Case, model: str, revision: str | None = None) -> Choice:
    """What can be done about a request on a model, from configuration only.

    Args:
        case: the request.
        model: what `find_model` takes, or the private folder of a head (`erase_plugins.records`).
        revision: of a model on the Hub.

    Raises:
        Unsupported: nothing registered forgets this on such a model.
        RequestError, HubError: the model cannot be found.
    """
    if is_head(model):
        return Choice(Path(model).resolve().name, "head", ("records",), tuple(for_head()))
    found = find_model(model, revision)
    info = found.info
    return Choice(public_name(model), info.family.id, tuple(sorted(info.offers)), tuple(remedies(case.what, info)))


def plan_case(
    desk: Desk, name: str, model: str, *, revision: str | None = None, role: str = "operator", dry_run: bool = False
) -> tuple[Choice, Ledger]:
    """Chooses, and enters the choice; see `choose`."""
    case = desk.ledger().case(name)
    choice = choose(case, model, revision)
    return choice, desk.append(lambda _: [{**choice.body, "case": case.id}], role, dry_run)
