"""Which remedies a request may get on a model, in order and with reasons. Asks the registry what fits the model."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from erase_plugins.errors import EraseError, Unsupported
from erase_plugins.families.capabilities import LANGUAGE, TEXT
from erase_plugins.manager import get_manager
from erase_plugins.needs import changes_weights, lacks
from erase_plugins.records.state import STATE
from erase_plugins.types import EraseRequest, ForgetItem

#: the remedy of a head on features from which records are deleted (`erase_plugins.records`)
RECORDS = "records"
#: what stands in front of a model at once (`erase_plugins.artifacts.keyword_guard`)
GUARD = "keyword-guard"
#: kind of a request -> kinds of what is forgotten, the first that a method names is taken
_ITEMS = {
    "person": ("person",), "fact": ("fact",), "document": ("dataset", "fact"), "style": ("style",),
    "object": ("object",), "class": ("class",), "record": (),
}  # fmt: skip
#: for a language model, by kind of request: methods to try first, each with its reason
_FIRST = {
    "fact": {
        "memit": "one fact is a change of rank one, solved in seconds without training data",
        "alphaedit": "as memit, with what stays projected out",
        "rome": "as memit, one fact at a time",
        "npo": "a bounded push away from the texts, retained ones beside it",
    },
    "person": {
        "npo": "a bounded push away from the texts, retained ones beside it",
        "simnpo": "as npo, by likelihood per token and without a reference",
        "rmu": "if fluency on the topic does not matter",
    },
    "document": {
        "npo": "a bounded push away from the texts; needs no questions and answers",
        "simnpo": "as npo, by likelihood per token and without a reference",
    },
}  # fmt: skip
#: methods to try last, each with what speaks against it
_LAST = {
    "task-vector": "cheap, and often without effect on what is known by heart",
    "graddiff": "has no bound: it can destroy the model",
    "dpo-idk": "hides the answer and erases least",
    "idk": "hides the answer and erases least",
    "whp": "often without effect on what is known by heart",
}


@dataclass(frozen=True)
class Remedy:
    """A remedy: id of the method, what it changes (prompt, weights, data), and why it stands where it does."""

    id: str
    level: str
    why: str

    def to_dict(self) -> dict[str, str]:
        """As the ledger holds it."""
        return {"id": self.id, "level": self.level, "why": self.why}


def is_head(model: str) -> bool:
    """Whether a model is the private folder of a head from which records can be deleted."""
    return (Path(model) / STATE).is_file()


def for_head() -> list[Remedy]:
    """What is done about records of a head."""
    why = "the records are taken out and noisy steps follow: the only remedy here with a bound that is proven"
    return [Remedy(RECORDS, "data", why)]


def remedies(what: str, info: Any) -> list[Remedy]:
    """The remedies for a request on a model, the one to try first in front.

    Args:
        what: kind of the request.
        info: `ModelSpec`, from configuration only.

    Raises:
        Unsupported: no registered method forgets this on such a model.
    """
    methods = [entry.item for entry in get_manager().methods() if changes_weights(entry.item)]
    fit = [method for method in methods if not lacks(method, info) and item_kind(what, method) is not None]
    if not fit:
        able = sorted({method.id for method in methods if item_kind(what, method) is not None})
        raise Unsupported(
            f"no method fits a request of kind {what} on {info.model} (family {info.family.id}); methods for it: "
            f"{', '.join(able) or 'none, but a head of erase-plugins records'}"
        )
    first = _FIRST.get(what, {}) if LANGUAGE in info.offers else {}
    costs = {method.id: _seconds(method, what, info) for method in fit}

    def place(method: Any) -> tuple[int, bool, int, float]:
        last = list(_LAST).index(method.id) + 1 if method.id in _LAST else 0
        hangs = set(method.produces) <= {"addon"}  # acts beside the weights, in this program only
        turn = list(first).index(method.id) if method.id in first else len(first)
        return last, hangs, turn, costs[method.id]

    front = [Remedy(GUARD, "prompt", "up at once, before the run; the weights stay what they were")]
    return (front if {TEXT, LANGUAGE} & info.offers else []) + [
        Remedy(item.id, "weights", first.get(item.id) or _LAST.get(item.id) or _cost(costs[item.id]))
        for item in sorted(fit, key=place)
    ]


def _seconds(method: Any, what: str, info: Any) -> float:
    """What a method would take for something on this model; infinite where it cannot say without data."""
    item = ForgetItem("subject", item_kind(what, method) or "object")
    try:
        plan = method.plan(EraseRequest(info.model, (item,), method.id), info)
    except EraseError:
        return math.inf
    return math.inf if plan.seconds is None else float(plan.seconds)


def _cost(seconds: float) -> str:
    if math.isinf(seconds):
        return "fits the model; how long it takes depends on the data"
    return f"fits the model; estimated at {seconds:.0f} s" if seconds >= 1 else "fits the model; estimated at below 1 s"


def item_kind(what: str, method: Any) -> str | None:
    """Kind of what a method forgets for a kind of request; None if it does not."""
    return next((kind for kind in _ITEMS[what] if kind in method.kinds), None)
