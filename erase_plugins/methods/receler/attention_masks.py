"""Where in each state a concept is, by the frozen model's own cross-attention."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from erase_plugins.engine.activations import looked_at
from erase_plugins.engine.adapters import Trainable
from erase_plugins.engine.attack import token_rows
from erase_plugins.engine.attention import (
    attention_refs,
    binary_mask,
    heat,
    nearest_level,
    over_heads,
    record_attention,
    resized,
)
from erase_plugins.engine.context import RunContext
from erase_plugins.engine.trajectories import States, ask
from erase_plugins.families.base import Conditioning, Target

_MASK = "mask"
_BATCH = 16


class Masks:
    """Masks of a concept's words, from the layers nearest to one resolution.

    Args:
        target: the model.
        trained: switched off while the maps are read.
        scale: latent side over side of the maps.
        threshold: share of the largest attention from which a place is inside, in 0..1.
        ctx: counts forward passes.
    """

    def __init__(self, target: Target, trained: Trainable, scale: float, threshold: float, ctx: RunContext) -> None:
        self.target, self.trained, self.threshold, self.ctx = target, trained, threshold, ctx
        channels, *size = target.info.latent_shape
        self.size: tuple[int, int] = (size[0], size[1])
        refs = attention_refs(target.info)
        probe = torch.zeros((1, channels, *size), device=target.device)
        with torch.no_grad(), trained.disabled(), record_attention(target, refs, over_heads) as maps:
            ask(target, probe, torch.zeros(1, device=probe.device), target.encode([""]), ctx)
        level = nearest_level(maps, size[0] * size[1] / scale**2)
        self.layers = [ref for ref in refs if ref.path in level]

    def on(self, states: States, cond: Conditioning, phrases: Sequence[str], key: str = "", name: str = "") -> States:
        """The states with their masks.

        Args:
            states: visited by some model.
            cond: prompts of the trajectories.
            phrases: for each state the words in its prompt that are looked for.
            key, name: of the run and of a file in the work folder, so that a resumed run need not ask again.

        Raises:
            NotFiniteError: attention that is the same everywhere.
            RequestError: a phrase that is not in its prompt.
        """
        mask = self.ctx.stash(name, key, lambda: self._make(states, cond, phrases)) if name else None
        mask = mask or self._make(states, cond, phrases)
        return replace(states, predictions={**states.predictions, _MASK: mask[_MASK].to(self.target.device)})

    @torch.no_grad()
    def _make(self, states: States, cond: Conditioning, phrases: Sequence[str]) -> dict[str, Tensor]:
        parts = []
        batch = min(_BATCH, looked_at(self.size))
        for start in range(0, len(states), batch):
            places = torch.arange(len(states))[start : start + batch]
            here = cond[states.row[places].tolist()]
            rows = [
                token_rows(self.target, prompt, phrases[place])
                for prompt, place in zip(here.prompts, places.tolist(), strict=True)
            ]
            with self.trained.disabled(), record_attention(self.target, self.layers, over_heads) as maps:
                ask(self.target, states.inputs[places], states.timestep[places], here, self.ctx)
            parts.append(binary_mask(heat(maps, rows, self.size), self.threshold)[:, None])
        return {_MASK: torch.cat(parts)}

    def at(self, states: States, pixels: int) -> Tensor:
        """The masks of ``states`` for a layer with so many places: (batch, pixels), 1 inside."""
        return resized(states.predictions[_MASK][:, 0], pixels, self.size)
