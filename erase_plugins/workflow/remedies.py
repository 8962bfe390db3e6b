"""Which remedies a request may get on a model, in order and with reasons. Asks the registry what fits the model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from erase_plugins.errors import Unsupported
from erase_plugins.families.capabilities import LANGUAGE
from erase_plugins.manager import get_manager
from erase_plugins.needs import lacks
from erase_plugins.records.state import STATE

#: the remedy of a head on features from which records are deleted (`erase_plugins.records`)
RECORDS = "records"
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
    "ga-kl": "has no bound: it can destroy the model",
    "dpo-idk": "hides the answer and erases least",
    "idk": "hides the answer and erases least",
    "whp": "changes decoding, not the weights",
}
_CLOSED = "closed form: seconds, no training"
_TRAINED = "trained: minutes and more, where a closed form is not enough"


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
    methods = [entry.item for entry in get_manager().methods()]
    fit = [method for method in methods if not lacks(method, info) and item_kind(what, method) is not None]
    if not fit:
        able = sorted({method.id for method in methods if item_kind(what, method) is not None})
        raise Unsupported(
            f"no method forgets a request of kind {what} on {info.model} (family {info.family.id}); methods for {what}: "
            f"{', '.join(able) or 'none, but a head of erase-plugins records'}"
        )
    first = _FIRST.get(what, {}) if LANGUAGE in info.offers else {}
    places = {name: place for place, name in enumerate(first)}

    def place(method: Any) -> tuple[int, bool, int]:
        last = list(_LAST).index(method.id) + 1 if method.id in _LAST else 0
        return last, "contextmap" not in method.produces, places.get(method.id, len(places))

    ordered = sorted(fit, key=place)
    return [Remedy(item.id, "weights", _why(item, first)) for item in ordered]


def _why(method: Any, first: dict[str, str]) -> str:
    said = first.get(method.id) or _LAST.get(method.id)
    return said or (_CLOSED if "contextmap" in method.produces else _TRAINED)


def item_kind(what: str, method: Any) -> str | None:
    """Kind of what a method forgets for a kind of request; None if it does not."""
    return next((kind for kind in _ITEMS[what] if kind in method.kinds), None)
