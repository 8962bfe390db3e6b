"""Distances between two sets of pictures, from their features: FID and KID by torchmetrics, CMMD by our own formula."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

from erase_plugins.evaluation.erase_eval.metrics import cmmd
from erase_plugins.evaluation.standard.encoders import Features

#: pictures in a subset of KID, as torchmetrics has it
SUBSET, SUBSETS = 1000, 100


def fid(first: Tensor, second: Tensor) -> float:
    """Frechet distance of two sets of features (n, d)."""
    from torchmetrics.image.fid import FrechetInceptionDistance

    metric = FrechetInceptionDistance(Features(first.shape[1]))
    metric.update(first.double(), real=True)
    metric.update(second.double(), real=False)
    return float(metric.compute())


def kid(first: Tensor, second: Tensor, seed: int = 0) -> float:
    """Kernel distance of two sets of features (n, d): of all pictures, or the mean over subsets of many."""
    from torchmetrics.image.kid import KernelInceptionDistance

    size = min(SUBSET, len(first), len(second))
    whole = size == len(first) == len(second)
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.simplefilter("ignore", UserWarning)  # that features are kept in memory
        torch.manual_seed(seed)
        metric = KernelInceptionDistance(Features(first.shape[1]), subsets=1 if whole else SUBSETS, subset_size=size)
        metric.update(first, real=True)
        metric.update(second, real=False)
        return float(metric.compute()[0])


DISTANCES = {
    "fid": lambda first, second, seed: fid(first, second),
    "kid": kid,
    "cmmd": lambda first, second, seed: cmmd(first.numpy(), second.numpy()),
}
