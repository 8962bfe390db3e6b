"""Frontier erasers as published, from the descriptions of their programs: run where affordable, else counted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

#: rows made of every retained row, and rows that are compared with each other's mean
COPIES, CHUNK = 10, 128


def speed(
    weights: Sequence[Tensor], C: Tensor, S: Tensor, R: Tensor, N: Tensor, *, tau: float, rho: float, lam: float,
    filtered: bool = False, augmented: bool = False,
) -> list[Tensor]:  # fmt: skip
    """Changes of all layers by SPEED (arXiv 2503.07392), decomposed and inverted layer by layer.

    Args:
        weights: (out, d) each.
        C, S, R, N: columns (d, any) of concepts, of what they become, of what is retained, and invariants.
        tau, rho, lam: threshold on the mean second moment of R, ridge, softness of the invariants.
        filtered: only retained rows that the plain solution would move more than the mean.
        augmented: also ten noisy copies of each along the layer's weakest direction, those that would move much.
    """
    n, eye = C.shape[1], torch.eye(len(C), dtype=C.dtype)
    A, X = C @ C.T / n, S @ C.T / n
    found = []
    for W in weights:
        first = W @ (X - A) @ torch.linalg.inv(eye + A)
        kept = R
        if filtered:
            moved = (first @ R).norm(dim=0)
            kept = R[:, moved > moved.mean()]
        if augmented:
            kept = torch.cat([kept, _copies(W, first, kept)], dim=1)
        left, energy, _ = torch.linalg.svd(kept @ kept.T / kept.shape[1])
        free = left[:, energy < tau]
        Pi = free @ free.T
        T = torch.linalg.inv(A @ Pi + rho * eye)
        inner = torch.linalg.inv(N.T @ Pi @ T @ N + lam * torch.eye(N.shape[1], dtype=C.dtype))
        found.append(W @ (X - A) @ Pi @ (eye - T @ N @ inner @ N.T @ Pi) @ T)
    return found


def _copies(W: Tensor, first: Tensor, kept: Tensor) -> Tensor:
    weakest = torch.linalg.svd(W, full_matrices=False)[2][-1:].T
    drawn = torch.Generator().manual_seed(0)
    parts = []
    for start in range(0, kept.shape[1], CHUNK):
        part = kept[:, start : start + CHUNK].repeat(1, COPIES)
        noise = torch.randn(part.shape, generator=drawn, dtype=torch.float64).to(part.dtype)
        part = part + weakest @ (weakest.T @ noise)
        moved = (first @ part).norm(dim=0)
        parts.append(part[:, moved > moved.mean()])
    return torch.cat(parts, dim=1)


def steered(h: Tensor, coder: Any, chosen: Tensor, least: Tensor, factor: float, k: int) -> Tensor:
    """Positions (n, d) steered as by SAeUron (arXiv 2501.18052): all features coded, k kept, all decoded.

    Args:
        h: what the block writes.
        coder: `erase_plugins.engine.sparse_coder.SparseCoder`.
        chosen, least: numbers of the concept's features, and activations (same length) below which they stay.
        factor: what their activations are multiplied by.
        k: features that tell one position.
    """
    z = coder.activations(h)
    values, places = z.topk(k, dim=1)
    z = torch.zeros_like(z).scatter(1, places, values)
    scaled = z.clone()
    scaled[:, chosen] = torch.where(z[:, chosen] > least, factor * z[:, chosen], z[:, chosen])
    return (scaled @ coder.decode + coder.centre) + (h - (z @ coder.decode + coder.centre))


def gloce_passes(concepts: int) -> int:
    """Samples through the denoiser (arXiv 2503.12356): nine prompts, three seeds, twenty steps, both halves."""
    return concepts * 9 * 3 * 20 * 2


def slug_pictures(forget: int, retain: int, layers: int, looks: int) -> int:
    """Pictures through the model (arXiv 2407.11867): both gradients, and both sets at every look at a layer."""
    return (forget + retain) * (1 + layers * looks)


def ant_passes(options: Mapping[str, Any]) -> int:
    """Samples through the denoiser (arXiv 2504.12782) without its mask: for each of the iterations two trajectories,
    guided, one that stops in early steps and one that goes on to a random later one; four teachers, four students."""
    steps = options["steps"]
    early = max(round(options["early"] * steps), 1)
    rolled = 2 * (early / 2 + (early + steps) / 2)
    return round(options["iterations"] * options["batch"] * (rolled + 8))


def values_recorded(layers: int, steps: int) -> int:
    """Value projections of the concept's prompt for one picture (AdaVD, arXiv 2412.06143): anew in every step."""
    return layers * steps


def texts_encoded(prompts: int, concepts: int) -> int:
    """Texts encoded beside the prompts (Semantic Surgery, arXiv 2510.22851): concepts, '', and what was found."""
    return prompts * (concepts + 2)
