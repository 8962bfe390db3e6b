"""Chooses what is done about a request: which model, which remedies, in which order and why."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from erase_plugins.errors import RequestError
from erase_plugins.families.capabilities import LANGUAGE
from erase_plugins.families.source import public_name
from erase_plugins.manager import get_manager
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


def next_remedy(case: Case, wanted: str | None = None) -> str:
    """The remedy of the next attempt: the first of the plan that was not tried on this model yet, else the last.

    Args:
        case: one that was planned.
        wanted: the remedy that somebody chose instead; None if nobody did.

    Raises:
        RequestError: the plan has none of that name.
    """
    known = [item["id"] for item in case.remedies if item["level"] != "prompt"]
    if wanted is not None:
        if wanted not in known:
            raise RequestError(
                f"'{wanted[:40]}' is not in the plan of request {case.id}; choose one of {', '.join(known)}"
            )
        return wanted
    refused = {line["attempt"] for line in case.lines if line["event"] == "refused"}  # they say nothing of the remedy
    model, tried = "", set()
    for line in case.lines:
        if line["event"] == "triaged":
            model = line["model"]
        elif line["event"] == "started" and model == case.last["triaged"]["model"] and line["attempt"] not in refused:
            tried.add(line["remedy"])
    return next((item for item in known if item not in tried), known[-1])


def data_for(case: Case, step: str) -> tuple[str, ...]:
    """Which data a step asks for: "forget" and "retain".

    Args:
        case: the request.
        step: name of the command.
    """
    came = ("forget",) if case.last["received"]["data"] is not None and step in ("run", "evaluate") else ()
    if step != "run" or LANGUAGE not in case.last["triaged"]["offers"]:
        return came  # pictures with labels may lie beside a classifier
    remedy = case.remedy if case.state == "running" else next_remedy(case)
    known = (entry.item for entry in get_manager().methods() if entry.item.id == remedy)
    return ("forget", "retain") if any(getattr(method, "reads_data", False) for method in known) else came
