"""The base class of methods that train an adapter on what stays, so that forgetting is known beforehand.

What is forgotten is left out, what is retained is what the adapter learns, on the base alone. The unit is the person:
rows with the same ``subject`` belong together, a row without one stands for itself. No torch at import.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from erase_plugins.errors import EraseError, RequestError
from erase_plugins.families.facts import asked, tells_of_others
from erase_plugins.families.texts import (
    Pair,
    Texts,
    apart,
    apart_by_subject,
    canonical,
    encoded,
    tokenizer_of,
)
from erase_plugins.hints import Hint
from erase_plugins.options import option
from erase_plugins.training.asked import Asked
from erase_plugins.training.language import LanguageMethod
from erase_plugins.training.language_options import TextOptions
from erase_plugins.training.method import TrainingRun
from erase_plugins.training.text_requests import check_texts
from erase_plugins.types import EraseRequest

if TYPE_CHECKING:
    from torch import Tensor

    from erase_plugins.families.base import ModelSpec


@dataclass(frozen=True)
class LearnedOptions(TextOptions):
    """How the rows that stay are learned."""

    parameters: str = option("lora", "what is trained", choices=("lora",))
    #: the texts to forget are not trained on, so nothing weighs them
    retain_weight: ClassVar[float] = 0.0


@dataclass(frozen=True)
class People:
    """The rows that stay, by person.

    Attributes:
        names: canonical subject of each person, or the row itself; for keys, never shown.
        pairs: the rows of each.
        lone: how many of them are rows without a subject.
    """

    names: tuple[str, ...]
    pairs: tuple[tuple[Pair, ...], ...]
    lone: int

    def __repr__(self) -> str:  # a traceback shows no name
        return f"People({len(self.names)})"


class LearnedMethod(LanguageMethod):
    """Trains an adapter on the rows that stay."""

    def settle(self, options: Any, request: EraseRequest, info: ModelSpec) -> Any:
        check_texts(self.id, request, info, answers=False)
        if not request.retain_data and not tells_of_others(request):
            raise RequestError(
                f"{self.id} trains an adapter on the rows that stay; give them: ",
                Hint("retain", "staying.jsonl"),
                ", with a subject in every row",
            )
        return options

    def read(self, request: EraseRequest, options: Any) -> list[list[Pair]]:
        try:
            return [asked(request)[1]]
        except EraseError:  # as for other methods
            return [[]]

    def people(self, request: EraseRequest) -> People:
        """The rows that stay.

        Raises:
            RequestError: a row or a subject is on both sides.
        """
        gone, kept = asked(request)
        apart(gone, kept)
        apart_by_subject(gone, kept)
        found: dict[str, list[Pair]] = {}
        for pair in kept:
            name = f"subject {canonical(pair.subject)}" if pair.subject else "\0".join(pair.canonical)
            found.setdefault(name, []).append(pair)
        lone = sum(not pair.subject for pair in kept)
        return People(tuple(found), tuple(map(tuple, found.values())), lone)

    def texts(self, run: TrainingRun, pairs: tuple[Pair, ...] | list[Pair]) -> Texts:
        """Rows as token numbers."""
        return encoded(run.target, tokenizer_of(run.target), pairs, run.options.max_tokens)

    def forget_loss(self, run: TrainingRun, forget: Asked, answers: Asked | None) -> Tensor:
        """Not used: nothing is trained on what is forgotten."""
        raise NotImplementedError
