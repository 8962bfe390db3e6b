"""Chooses what is done about a request: which model, which remedies, in which order and why."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from erase_plugins.families.source import public_name
from erase_plugins.requests.case import Case, Ledger
from erase_plugins.requests.store import Desk
from erase_plugins.workflow.models import find_model
from erase_plugins.workflow.remedies import Remedy, for_head, is_head, remedies

#: stands for the family of a head with records
HEAD = "head"


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
        return Choice(called(model), HEAD, ("records",), tuple(for_head()))
    info = find_model(model, revision).info
    return Choice(called(model), info.family.id, tuple(sorted(info.offers)), tuple(remedies(case.what, info)))


def called(model: str) -> str:
    """How the ledger calls a model; nothing is looked up."""
    return Path(model).resolve().name if is_head(model) else public_name(model)


def family_of(model: str, revision: str | None = None) -> str:
    """Id of a model's family as the ledger holds it, from configuration only.

    Raises:
        RequestError, HubError, Unsupported: the model cannot be found, or no family fits it.
    """
    return HEAD if is_head(model) else str(find_model(model, revision).info.family.id)


def plan_case(
    desk: Desk, name: str, model: str, *, revision: str | None = None, role: str = "operator", dry_run: bool = False
) -> tuple[Choice, Ledger]:
    """Chooses, and enters the choice; see `choose`."""
    case = desk.ledger().case(name)
    case.require("triaged", "remedies are chosen for a request that is open and whose sender was checked")
    choice = choose(case, model, revision)
    return choice, desk.append(lambda _: [{**choice.body, "case": case.id}], role, dry_run)
