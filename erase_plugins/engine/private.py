"""Differentially private steps: gradients clipped by person, noise, and what they cost.

A step draws every person with probability q on its own (Poisson sampling), clips the joint norm of each one's gradient
to C, adds N(0, (sigma C)^2) to the sum and divides by the expected number. What T such steps reveal of one person is
counted in Renyi divergence of integer orders (Mironov, Talwar and Zhang 2019) and turned into (epsilon, delta).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

#: Renyi orders that are tried
ORDERS = range(2, 257)


def renyi(order: int, rate: float, sigma: float) -> float:
    """Renyi divergence of one step of the sampled Gaussian mechanism.

    Args:
        order: an integer above 1.
        rate: probability q of being drawn, 0 to 1.
        sigma: noise in units of the clipping norm.
    """
    if rate == 0:
        return 0.0
    if rate == 1:
        return order / (2 * sigma**2)
    terms = [
        math.lgamma(order + 1) - math.lgamma(k + 1) - math.lgamma(order - k + 1)
        + (order - k) * math.log1p(-rate) + k * math.log(rate) + k * (k - 1) / (2 * sigma**2)
        for k in range(order + 1)
    ]  # fmt: skip
    top = max(terms)
    return (top + math.log(sum(math.exp(term - top) for term in terms))) / (order - 1)


def epsilon(rate: float, sigma: float, steps: int, delta: float) -> float:
    """The epsilon of (epsilon, delta) differential privacy after so many steps; 0 at least."""
    return max(0.0, min(
        steps * renyi(order, rate, sigma) + math.log1p(-1 / order) - (math.log(delta) + math.log(order)) / (order - 1)
        for order in ORDERS
    ))  # fmt: skip


def clipped(parts: Sequence[Tensor], norm: float) -> list[Tensor]:
    """One person's gradient, scaled so that its joint norm is at most ``norm``."""
    length = math.sqrt(sum(float(part.cpu().double().square().sum()) for part in parts))
    factor = min(1.0, norm / length) if length > 0 else 1.0
    return [factor * part for part in parts]


def noisy_mean(
    total: Sequence[Tensor], norm: float, sigma: float, expected: float, noise: Sequence[Tensor]
) -> list[Tensor]:  # fmt: skip
    """(sum + sigma norm noise) / expected, with standard normal noise."""
    return [(part + sigma * norm * drawn) / expected for part, drawn in zip(total, noise, strict=True)]


def secret_generator() -> torch.Generator:
    """A generator seeded by the operating system: with a known seed the noise could be subtracted."""
    found = torch.Generator()
    found.seed()
    return found
