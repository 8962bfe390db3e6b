"""A stage that trains in milliseconds, also for a child process."""

from __future__ import annotations

import torch
from torch import nn

from tools.pocket.loop import Draw, Stage
from tools.pocket.recipe import Recipe

RECIPE = Recipe(checkpoint_every=3)


def toy(steps: int = 10, ema: float | None = 0.9, bad_at: int | None = None) -> Stage:
    """A regression with a batch norm (so that buffers matter) and a frozen part."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 1))
    frozen = nn.Linear(4, 1).requires_grad_(False)
    calls = []

    def loss(draw: Draw) -> torch.Tensor:
        calls.append(1)
        x = torch.randn(16, 4, generator=draw.noise) + float(draw.rng.random())
        value = (net(x) - frozen(x)).square().mean()
        return value * float("nan") if bad_at is not None and len(calls) > bad_at else value

    return Stage("toy", steps, {"net": net, "frozen": frozen}, {"net": 1e-2}, loss, ema)
