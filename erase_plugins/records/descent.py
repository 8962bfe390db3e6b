"""Full-batch gradient descent with Gaussian noise in every step: no momentum, no average, nothing kept but weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from erase_plugins.records.losses import Loss
    from erase_plugins.records.noise import Noise


@dataclass(frozen=True)
class Schedule:
    """What one step is made of; fixed for the life of a head.

    Attributes:
        loss: of one record.
        lam: weight of (1/2) |w|^2.
        eta: step size.
        sigma2: noise strength; one step adds variance 2 eta sigma2 in every direction.
        n: number of slots. Empty slots have loss 0 and count all the same.
    """

    loss: Loss
    lam: float
    eta: float
    sigma2: float
    n: int


def descend(
    weights: Any,
    features: Any,
    targets: Any,
    schedule: Schedule,
    steps: int,
    noise: Noise,
    offset: Any = None,
    progress: Callable[[int, int], None] | None = None,
) -> Any:
    """Weights after a number of noisy steps; several chains at once where ``weights`` has leading axes.

    Args:
        weights: (..., outputs, dim) float64; not changed.
        features: (records, dim) float64 of the records that are there, each of bounded norm.
        targets: (records,) labels as `Loss.check_targets` gives them.
        schedule: step size, noise and slots.
        steps: how many.
        noise: where it comes from.
        offset: (outputs, records) logits that stay, of a frozen part of the head.
        progress: called with the steps done and the number of them, now and then.
    """
    import math

    w = weights.copy()
    eta, spread = schedule.eta, math.sqrt(2 * schedule.eta * schedule.sigma2)
    across = features.T
    for step in range(steps):
        if len(features):
            logits = w @ across
            if offset is not None:
                logits += offset
            gradient = schedule.loss.residual(logits, targets) @ features
            gradient *= -eta / schedule.n
        else:
            gradient = 0.0
        w *= 1 - eta * schedule.lam
        w += gradient
        w += spread * noise.normal(w.shape)
        if progress is not None and (step % 20 == 19 or step + 1 == steps):
            progress(step + 1, steps)
    return w


def objective(weights: Any, features: Any, targets: Any, schedule: Schedule, offset: Any = None) -> Any:
    """The regularised loss that the steps go down, one number per chain. Never published."""
    logits = weights @ features.T
    if offset is not None:
        logits = logits + offset
    values = schedule.loss.values(logits, targets).sum(axis=-1) / schedule.n
    return values + schedule.lam / 2 * (weights**2).sum(axis=(-2, -1))
