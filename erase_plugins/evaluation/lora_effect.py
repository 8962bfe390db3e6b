"""What a LoRA that is in force makes of prompts: change of the prediction, and how often a judge sees the concept."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from erase_plugins.evaluation.draw import draw
from erase_plugins.evaluation.prompts import find_axis, quick_prompts, texts_and_seeds

#: where on the schedule predictions are compared, as shares of it
_TIMES = (0.25, 0.5, 0.75)


@torch.no_grad()
def predictions(target: Any, prompts: Sequence[str], seed: int) -> Tensor:
    """Predictions (times * prompts, channels, height, width) float32 for noise that depends on the seed only."""
    cond = target.encode_live(target.tokens(list(prompts)))
    steps = len(target.scheduler(1, "ddim").alphas_cumprod)
    noise = torch.randn((len(prompts), *target.info.latent_shape), generator=torch.Generator().manual_seed(seed))
    noise = noise.to(target.device, target.dtype)
    times = [torch.full((len(prompts),), int(share * (steps - 1)), device=target.device) for share in _TIMES]
    return torch.cat([target.predict(noise, time, cond).float().cpu() for time in times])


def relative(one: Tensor, other: Tensor) -> float:
    """Size of the difference over the size of ``other``."""
    return round(float((one - other).norm() / other.norm().clamp_min(1e-12)), 4)


def shown(target: Any, judge: Any, concept: str, images: int, seed: int) -> float | None:
    """Share of pictures by the concept's name in which the judge sees it; None without a judge."""
    if judge is None:
        return None
    axis = find_axis(judge, concept)
    prompts = quick_prompts(judge, [concept], images, seed)["target"]
    pictures = draw(target.host, *texts_and_seeds(prompts))
    best = judge.score(pictures)[axis].argmax(-1).tolist()
    return sum(judge.axes[axis][place] == concept for place in best) / images
