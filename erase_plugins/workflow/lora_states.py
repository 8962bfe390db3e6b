"""States at which a model is asked, and lessons: states with prompts and with what is to be predicted there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from erase_plugins.engine.trajectories import ask, join

if TYPE_CHECKING:
    from erase_plugins.families.base import Target
    from erase_plugins.families.conditioning import Conditioning

#: prompts that are encoded at once, and states in one forward pass without gradient
CHUNK = 32


@dataclass(frozen=True)
class States:
    """Where a model can be asked.

    Attributes:
        inputs, times: (n, channels, height, width) and (n,).
        sizes: mean square of what the LoRA changes there (n,), a mean over the states of one time.
    """

    inputs: Tensor
    times: Tensor
    sizes: Tensor


@dataclass(frozen=True)
class Lessons(States):
    """States with prompts as the new LoRA's text encoders read them, and what is to be predicted there."""

    cond: Conditioning
    wanted: Tensor

    def __getitem__(self, rows: slice) -> Lessons:
        return Lessons(self.inputs[rows], self.times[rows], self.sizes[rows], self.cond[rows], self.wanted[rows])


def encoded(target: Target, prompts: Sequence[str]) -> Conditioning:
    """By the text encoders as they are now; equal prompts once."""
    different = list(dict.fromkeys(prompts))
    parts = [different[start : start + CHUNK] for start in range(0, len(different), CHUNK)]
    found = join([target.encode_live(target.tokens(part)) for part in parts])
    return found[[different.index(prompt) for prompt in prompts]]


def asked(target: Target, inputs: Tensor, times: Tensor, cond: Conditioning) -> Tensor:
    """Predictions of the model as it is now, float32."""
    parts = [slice(start, start + CHUNK) for start in range(0, len(times), CHUNK)]
    return torch.cat([ask(target, inputs[part], times[part], cond[part], None) for part in parts])


def by_time(values: Tensor, times: Tensor) -> Tensor:
    """Means over the states of one time, at least a thousandth of the largest: a LoRA can do nothing at some times."""
    _, place = times.unique(return_inverse=True)
    count = int(place.max()) + 1
    sums = torch.zeros(count, device=values.device).index_add(0, place, values)
    means = sums / torch.bincount(place, minlength=count)
    return means.clamp_min(max(1e-3 * float(means.max()), 1e-12))[place]


def joined(parts: Sequence[States]) -> States:
    return States(*(torch.cat([getattr(part, name) for part in parts]) for name in ("inputs", "times", "sizes")))
