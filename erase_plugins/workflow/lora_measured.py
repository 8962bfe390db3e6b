"""What a LoRA does where a concept is named and elsewhere, before and after it was taken out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from erase_plugins.artifacts.artifact import Artifact
from erase_plugins.engine.words import own_words
from erase_plugins.errors import Unsupported

if TYPE_CHECKING:
    from torch import Tensor

#: prompts on which a LoRA's effect elsewhere is measured, those with a word of the concept left out
_OTHERS = ("a photo of a dog", "a house", "a red flower", "a man on a road", "a boat at night", "two books")


@dataclass
class BareBase:
    """What a base does without any LoRA, by what it was asked: measured for the first LoRA, and known to the next.

    Attributes:
        target: the base; what was found is of this one, and another begins anew.
        found: by question.
    """

    target: Any = None
    found: dict[tuple[Any, ...], Any] = field(default_factory=dict)

    def answer(self, target: Any, question: tuple[Any, ...], look: Callable[[], Any]) -> Any:
        """What ``look`` gives, or gave for the same base and question."""
        if self.target is not target:
            self.target, self.found = target, {}
        if question not in self.found:
            self.found[question] = look()
        return self.found[question]


@contextmanager
def in_force(target: Any, artifact: Artifact | None) -> Iterator[None]:
    """Inside, the LoRA is in force on the target."""
    from erase_plugins.runtime.apply import apply_to

    if artifact is None:
        yield
        return
    with ExitStack() as undo:
        undo.callback(_forget, target)
        undo.callback(apply_to(target, artifact, 1.0).remove)
        _forget(target)
        yield


def _forget(target: Any) -> None:
    """Drops cached rows of prompts, which the LoRA may change."""
    getattr(target, "forget", lambda: None)()


def measured(
    target: Any, old: Artifact, new: Artifact, phrases: Sequence[str], keep: Sequence[str], images: int, seed: int,
    base: BareBase,
) -> tuple[dict[str, float], dict[str, float], dict[str, float]]:  # fmt: skip
    """(before, after, base) as in `workflow.cleaning.CleanedLora`."""
    from erase_plugins.evaluation.lora_effect import predictions, relative, shown

    named = [frame.format(phrase) for phrase in phrases for frame in ("a {}", "a photo of a {}", "a {} on a table")]
    own = own_words(phrases)
    others = [f"a photo of {word}" for word in keep] + [text for text in _OTHERS if own.isdisjoint(text.split())]

    def look(state: Artifact | None) -> tuple[list[Tensor], float | None]:
        with in_force(target, state):
            seen = [predictions(target, prompts, seed) for prompts in (named, others)]
            return seen, shown(target, _judge(target, phrases[0]), phrases[0], images, seed) if images else None

    question = (*phrases, None, *keep, None, images, seed)
    found = {"base": base.answer(target, question, lambda: look(None)), "before": look(old), "after": look(new)}
    states, rates = ({name: parts[place] for name, parts in found.items()} for place in (0, 1))
    bare = states["base"]
    told = {
        name: {
            "effect": relative(states[name][0], bare[0]), "elsewhere": relative(states[name][1], bare[1]),
            "moved": relative(states[name][1], states["before"][1]),
        }
        for name in ("before", "after")
    }  # fmt: skip
    told["base"] = {}
    for name, rate in rates.items():
        if rate is not None:
            told[name]["rate"] = rate
    return told["before"], told["after"], told["base"]


def _judge(target: Any, concept: str) -> Any:
    """A registered judge that knows the concept; None without."""
    from erase_plugins.workflow.measure import pick_judge

    try:
        judge = pick_judge(target, None, [concept])
    except Unsupported:
        return None
    return judge if any(concept in labels for labels in judge.axes.values()) else None
