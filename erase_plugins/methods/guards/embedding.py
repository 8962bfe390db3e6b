"""Embedding guard: refuses prompts whose meaning, as the model's own text encoder has it, is close to the concept.

A prompt is the mean of its content rows less that of common prompts, at unit length; so are rows of eight words in it.
It is hit if its cosine with an anchor (the concept in a few frames, and every phrasing given in ``prompts``) reaches
tau. tau is calibrated: the lowest value that no common prompt and at most ``neighbours`` of the kept prompts (--keep)
reach, halfway to the next prompt about the concept where there is room. The sets are in the file with their rates, and
frames and words of the calibration are used for nothing else.

It finds descriptions and synonyms that the encoder knows; it does not tell a style from its neighbours, reads the
encoder's language only, and broken spellings are a matter for ``keyword-guard``. The file holds vectors from which a
name can be guessed: it is no guard for persons, who are refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from erase_plugins.artifacts import policy
from erase_plugins.errors import RequestError
from erase_plugins.families.capabilities import TEXT
from erase_plugins.hookspecs import hookimpl
from erase_plugins.methods.guards.guardrail import Guardrail, LookingOptions, names
from erase_plugins.options import option
from erase_plugins.types import EraseRequest

if TYPE_CHECKING:
    from torch import Tensor

    from erase_plugins.engine.context import RunContext
    from erase_plugins.families.base import ModelSpec

ANCHORS = ("{}", "a picture of {}", "a {} in the middle")
#: frames of calibration prompts
FRAMES = ("{} on a table", "a drawing with {}", "two {} side by side", "a close view of a {}")
COMMON = ("a drawing with {}", "{} on a table", "{}")


@dataclass(frozen=True)
class EmbeddingOptions(LookingOptions):
    """Options of the embedding guard."""

    tau: float | None = option(None, "cosine from which a prompt is hit; none: calibrated", low=-0.999, high=0.999)
    words: int = option(100, "words of the encoder's vocabulary in common prompts of the calibration", low=8, high=5000)
    neighbours: float = option(0.05, "share of the kept prompts that may be hit", low=0.0, high=1.0)


class Embedding(Guardrail):
    """Refuses prompts about a concept."""

    id = "embedding-guard"
    title = "Embedding guard"
    paper = "https://arxiv.org/abs/2307.03941"
    summary = "guard, no erasure: refuses prompts that mean the concept, by the text encoder's own embeddings"
    needs = frozenset({TEXT})
    packages = frozenset({"diffusers", "transformers"})
    kinds = frozenset({"object", "style", "explicit"})
    Options = EmbeddingOptions

    def prepared(self, request: EraseRequest, options: EmbeddingOptions, info: ModelSpec) -> EraseRequest:
        """The request, if it is about nobody."""
        if any(item.kind == "person" for item in request.forget):
            raise RequestError(
                "the vectors of an embedding guard tell a name to whoever tries names; for a person take keyword-guard "
                "with a key"
            )
        return request

    def policies(
        self, request: EraseRequest, options: EmbeddingOptions, target: Any, ctx: RunContext
    ) -> Sequence[dict[str, Any]]:
        from erase_plugins.families.sentences import embedded, means

        all_names = [name.lower() for name in names(request)]
        words = [word for word in target.vocabulary() if not any(word in name or name in word for name in all_names)]
        common = [frame.format(word) for word in words[: options.words] for frame in COMMON[:1]]
        common += [frame.format(word) for word in words[: options.words // 2] for frame in COMMON[1:]]
        center = means(target, common).mean(0)
        found = []
        for item in request.forget:
            phrases = [item.text, *item.prompts]
            anchors = embedded(target, [form.format(text) for text in phrases for form in ANCHORS], center)
            about = [frame.format(text) for text in phrases for frame in FRAMES]
            kept = [text for text in request.preserve if text]
            scores = {name: best(target, texts, center, anchors)
                      for name, texts in (("about", about), ("common", common), ("kept", kept))}  # fmt: skip
            tau = threshold(scores, options.neighbours) if options.tau is None else options.tau
            rates = {name: share(values, tau) for name, values in scores.items()}
            ctx.numbers |= {f"{item.text}: {name} hit": rate for name, rate in rates.items() if scores[name]}
            if rates["about"] < 1.0:
                ctx.warn(
                    f"the embedding guard hits {rates['about']:.0%} of the calibration prompts about {item.text}: this "
                    "encoder does not tell it from what is common or kept"
                )
            stage = {"type": "embedding", "tau": float(tau), "center": policy.packed(center),
                     "anchors": policy.packed(anchors)}  # fmt: skip
            record = {"set_by": "calibration" if options.tau is None else "user",
                      "sizes": {name: len(values) for name, values in scores.items()},
                      "rates": {name: round(rate, 4) for name, rate in rates.items()}}  # fmt: skip
            found.append(policy.make(item.text, [stage], options.action, options.message, calibration=record))
        return found


def best(target: Any, texts: Sequence[str], center: Tensor, anchors: Tensor) -> list[float]:
    """Largest cosine of every text with an anchor."""
    from erase_plugins.families.sentences import embedded

    return (embedded(target, texts, center) @ anchors.T).max(1).values.tolist() if texts else []


def threshold(scores: dict[str, list[float]], allowed: float) -> float:
    """The lowest tau that nothing common and no more than a share of what is kept reaches; see the module."""
    kept = sorted(scores["kept"], reverse=True)
    floor = max([*scores["common"], *kept[int(allowed * len(kept)) :]], default=-0.999)
    above = [value for value in scores["about"] if value > floor]
    tau = (floor + min(above)) / 2 if above else floor + 1e-3
    return max(-0.999, min(0.999, tau))


def share(values: Sequence[float], tau: float) -> float:
    """Share of values that reach tau."""
    return sum(value >= tau for value in values) / len(values) if values else 0.0


@hookimpl
def erase_methods() -> list[Embedding]:
    return [Embedding()]
