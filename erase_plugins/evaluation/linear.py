"""Ridge regression in closed form, for probes: what a linear map can read of features."""

from __future__ import annotations

import torch
from torch import Tensor


def fitted(samples: Tensor, wanted: Tensor, strength: float = 0.1) -> tuple[Tensor, Tensor]:
    """Mean of the samples, and weights W with (samples - mean) W near ``wanted``; both float64.

    Args:
        samples: features (n, width).
        wanted: (n) or (n, k).
        strength: of the penalty, against the mean square of a sample.
    """
    mean = samples.double().mean(0)
    x, y = samples.double() - mean, wanted.double()
    gram = x @ x.T  # fewer samples than features: the dual form
    penalty = strength * gram.diagonal().mean().clamp_min(1e-12)
    return mean, x.T @ torch.linalg.solve(gram + penalty * torch.eye(len(y), dtype=y.dtype), y)
