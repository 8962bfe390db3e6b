"""Embedding guard: refuses prompts whose meaning, as the model itself has it, is close to the concept.

A prompt, and every row of a few words in it, is a vector less that of common prompts, at unit length. A text encoder
gives the mean of its end and padding rows; a language model the state in which it would say what the text means in one
word (PromptEOL, arXiv 2307.16645). It is hit if the cosine of one of them with an anchor (the concept in a few frames,
and every phrasing given in ``prompts``) reaches tau. tau is calibrated: just above what is reached by all but a share
``common`` of everyday prompts and prompts with words of the model's vocabulary, and by all but a share ``neighbours``
of the kept prompts (--keep). Sizes of the sets (``embedding.toml``) and rates on them are in the file; what is measured
later must not be among them. Behind a language model answers are looked at, too.

It finds synonyms and descriptions that the model knows; it does not tell a style from its neighbours, reads the model's
language only, and broken spellings are a matter for ``keyword-guard``. The file holds vectors from which a name can be
guessed: it is no guard for persons, who are refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from erase_plugins.artifacts import policy
from erase_plugins.errors import RequestError
from erase_plugins.families.capabilities import LANGUAGE, TEXT, reads_prompts
from erase_plugins.families.model import TRANSPOSED
from erase_plugins.hookspecs import hookimpl
from erase_plugins.methods.guards.guardrail import Guardrail, LookingOptions, names
from erase_plugins.options import option
from erase_plugins.presets import parse
from erase_plugins.training.plan import seconds_of
from erase_plugins.types import EditPlan, EraseRequest

if TYPE_CHECKING:
    from erase_plugins.engine.context import RunContext
    from erase_plugins.families.base import ModelSpec
    from erase_plugins.families.target import TargetInfo

#: prompts of anchors and calibration, by what the model does with them
SETS = Path(__file__).with_name("embedding.toml")
#: pieces of a text that a text encoder reads, each padded, and tokens of one with its question
_PIECES, _TOKENS = 8, 28


@dataclass(frozen=True)
class EmbeddingOptions(LookingOptions):
    """Options of the embedding guard."""

    tau: float | None = option(None, "cosine from which a prompt is hit; none: calibrated", low=-0.999, high=0.999)
    common: float = option(0.02, "share of the common prompts that may be hit", low=0.0, high=1.0)
    words: int = option(100, "words of the model's vocabulary in common prompts of the calibration", low=8, high=5000)
    neighbours: float = option(0.05, "share of the kept prompts that may be hit", low=0.0, high=1.0)


class Embedding(Guardrail):
    """Refuses prompts about a concept."""

    id = "embedding-guard"
    title = "Embedding guard"
    paper = "https://arxiv.org/abs/2307.03941"
    summary = "guard, no erasure: refuses prompts that mean the concept, by the model's own embeddings"
    kinds = frozenset({"object", "style", "explicit"})
    Options = EmbeddingOptions

    def plan(self, request: EraseRequest, info: ModelSpec) -> EditPlan:
        """The plan, with the time that the model takes to read what the guard is calibrated with."""
        found = super().plan(request, info)
        does = reads_prompts(info)
        sets, phrases = prompts(does), len(names(found.request))
        texts = found.options["words"] + len(sets["everyday"]) + phrases * (len(sets["anchors"]) + len(sets["frames"]))
        rows = texts * (_PIECES * cast("TargetInfo", info).tokens if does == TEXT else _TOKENS)
        # the head of a language model is not asked; a family of somebody else need not tell it from the rest
        own = info.modules("linear") if does == LANGUAGE and "linear" in info.family.groups else info.refs
        refs = [ref for ref in own if ref.component in info.components(does) and ref.kind in ("linear", TRANSPOSED)]
        work = 2.0 * sum(prod(ref.shape) for ref in refs) * rows
        return replace(found, seconds=round(seconds_of(work, request.device, refs), 1))

    def prepared(self, request: EraseRequest, options: EmbeddingOptions, info: ModelSpec) -> EraseRequest:
        """The request, if it is about nobody."""
        options.check(info)
        if any(item.kind == "person" for item in request.forget):
            raise RequestError(
                "the vectors of an embedding guard tell a name to whoever tries names; for a person take keyword-guard "
                "with a key"
            )
        return request

    def policies(
        self, request: EraseRequest, options: EmbeddingOptions, target: Any, ctx: RunContext
    ) -> Sequence[dict[str, Any]]:
        from erase_plugins.engine.words import real_words
        from erase_plugins.families.sentences import Remembered, embedded, score, windows

        sets = prompts(reads_prompts(target.info))
        all_names = [name.lower() for name in names(request)]
        words = [word for word in real_words(target) if not any(word in name or name in word for name in all_names)]
        words = words[:: max(1, len(words) // options.words)][: options.words]
        frames = sets["common"]
        common = [frames[place % len(frames)].format(word) for place, word in enumerate(words)]
        common += [text for text in sets["everyday"] if not any(name in text.lower() for name in all_names)]
        asked = Remembered(target)
        center = asked.meanings([piece for text in common for piece in windows(text, asked.windows)]).mean(0)
        found = []
        for item in request.forget:
            phrases = [item.text, *item.prompts]
            anchors = embedded(asked, [form.format(text) for text in phrases for form in sets["anchors"]], center)
            about = [frame.format(text) for text in phrases for frame in sets["frames"]]
            kept = [text for text in request.preserve if text]
            scores = {name: [score(asked, text, center, anchors) for text in texts]
                      for name, texts in (("about", about), ("common", common), ("kept", kept))}  # fmt: skip
            tau = threshold(scores, options.common, options.neighbours) if options.tau is None else options.tau
            rates = {name: share(values, tau) for name, values in scores.items()}
            ctx.numbers |= {f"{item.text}: {name} hit": rate for name, rate in rates.items() if scores[name]}
            if rates["about"] < 1.0:
                ctx.warn(
                    f"the embedding guard hits {rates['about']:.0%} of the calibration prompts about {item.text}: this "
                    "model does not tell it from what is common or kept"
                )
            stage = {"type": "embedding", "tau": float(tau), "center": policy.packed(center),
                     "anchors": policy.packed(anchors)}  # fmt: skip
            record = {"set_by": "calibration" if options.tau is None else "user",
                      "sizes": {name: len(values) for name, values in scores.items()},
                      "rates": {name: round(rate, 4) for name, rate in rates.items()}}  # fmt: skip
            found.append(policy.make(item.text, [stage], options.action, options.message, calibration=record))
        return found


def prompts(does: str) -> dict[str, list[str]]:
    """Anchors, frames, common frames and everyday prompts for models that draw ("text") or answer ("language")."""
    found = parse(SETS.read_text(encoding="utf-8"), SETS.name)[does]
    return {**found, "everyday": found["everyday"].split("\n")[:-1]}


def threshold(scores: dict[str, list[float]], common: float, neighbours: float) -> float:
    """A tenth of the way from what may not be hit to the concept's own prompts; see the module."""
    floor = max(least(scores["common"], common), least(scores["kept"], neighbours))
    above = [value for value in scores["about"] if value > floor]
    tau = floor + 0.1 * (min(above) - floor) if above else floor + 1e-3
    return max(-0.999, min(0.999, tau))


def least(values: Sequence[float], allowed: float) -> float:
    """The largest value when a share of the largest is left out; -0.999 of none."""
    found = sorted(values, reverse=True)[int(allowed * len(values)) :]
    return found[0] if found else -0.999


def share(values: Sequence[float], tau: float) -> float:
    """Share of values that reach tau."""
    return sum(value >= tau for value in values) / len(values) if values else 0.0


@hookimpl
def erase_methods() -> list[Embedding]:
    return [Embedding()]
