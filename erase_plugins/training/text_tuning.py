"""What methods that train the text encoder share: which modules, whose meaning counts as the same, what is held."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from erase_plugins.engine.context import RunContext
from erase_plugins.engine.loop import shuffled
from erase_plugins.engine.vocabulary import Vocabulary
from erase_plugins.errors import RequestError, Unsupported
from erase_plugins.families.base import ModuleRef, Target, TargetInfo
from erase_plugins.training.retain import keep_words
from erase_plugins.types import EraseRequest

#: scope -> (feed-forward layers, attention layers): "all" of them or the "last" one
SCOPES = {
    "mlp-final-attn": ("all", "last"),
    "mlp": ("all", ""),
    "attn": ("", "all"),
    "mlp-attn": ("all", "all"),
}
_LAYER = re.compile(r"\bencoder\.layers\.(\d+)\.")


def text_refs(info: TargetInfo, scope: str, layers: int | None = None) -> tuple[ModuleRef, ...]:
    """Linear modules of the text encoders that a scope trains, among the layers that reach the denoiser's context.

    Args:
        info: the model.
        scope: one of `SCOPES`.
        layers: only the first so many layers; None: all.

    Raises:
        Unsupported: the text encoder has no such modules (it is no CLIP text model).
    """
    wanted = dict(zip(("text_mlp", "text_attn"), SCOPES[scope], strict=True))
    found: list[ModuleRef] = []
    for group, which in wanted.items():
        for ref in info.modules(group) if which else ():
            depth = info.family.text_layers(info, ref.component)
            number = _LAYER.search(ref.path)
            if number is None:
                raise Unsupported(f"{ref.component} {ref.path} is in no numbered layer; only CLIP encoders are trained")
            layer, end = int(number[1]), depth if layers is None else min(layers, depth)
            if layer < end and (which == "all" or layer == depth - 1):
                found.append(ref)
    if not found:
        raise Unsupported(f"scope {scope} names no module of {info.model}'s text encoders")
    return tuple(found)


def same_meaning(target: Target, phrases: Sequence[str], threshold: float) -> tuple[str, ...]:
    """Vocabulary words at least as close to one of ``phrases`` as ``threshold``, the phrases themselves left out."""
    table = Vocabulary.whole(target)
    taken = {phrase.strip().lower() for phrase in phrases}
    return tuple(word for word in table.near(target.rows(list(phrases)), threshold) if word not in taken)


@dataclass(frozen=True)
class HeldStates:
    """Text states that must stay as they are: no denoiser is needed to hold them.

    Attributes:
        target: the model; encodes live.
        prompts: the first is the empty prompt and part of every batch, since guidance uses it in every picture.
        ctx: order of the batches.
    """

    target: Target
    prompts: tuple[str, ...]
    ctx: RunContext

    @classmethod
    def of(
        cls, target: Target, phrases: Sequence[str], request: EraseRequest, count: int, near: float,
        templates: Sequence[str], ctx: RunContext,
    ) -> HeldStates:  # fmt: skip
        """The empty prompt, what the user named, and ``count`` vocabulary words that mean something else.

        Words stand in the templates, and in pairs, so that what describes a picture stays usable.
        """
        words = keep_words(target, phrases, request.concepts, count, near, ctx.generator("keep words"))
        preserve = request.preserve
        order = torch.randperm(len(words), generator=ctx.generator("keep pairs")).tolist()
        framed = [templates[place % len(templates)].format(word) for place, word in enumerate((*preserve, *words))]
        pairs = [f"a {words[other]} {word}" for word, other in zip(words, order, strict=True) if words[other] != word]
        named = [*preserve, *framed, *words, *pairs]
        return cls(target, tuple(dict.fromkeys(["", *named])), ctx)

    def loss(self, size: int, step: int) -> Tensor:
        """Mean squared change of the states of ``size`` prompts and the empty one (pooled embedding included)."""
        rows = [0]
        if len(self.prompts) > 1:
            rows += (shuffled(self.ctx, "held states", len(self.prompts) - 1, size, step) + 1).tolist()
        prompts = [self.prompts[row] for row in rows]
        before, now = self.target.encode(prompts), self.target.encode_live(self.target.tokens(prompts))
        total = (now.embeds - before.embeds).square().mean()
        if now.pooled is not None and before.pooled is not None:
            total = total + (now.pooled - before.pooled).square().mean()
        return total

    def prepare(self) -> None:
        """Encodes everything once; to be called while the text encoder is the teacher's.

        Raises:
            RequestError: a kept prompt has no content.
        """
        cond = self.target.encode(self.prompts)
        empty = [prompt for prompt, last in zip(self.prompts[1:], cond.last[1:], strict=True) if last < 1]
        if empty:
            raise RequestError(f"'{empty[0]}' has no content tokens for this text encoder; it cannot be kept")
