"""Gated replacement of image tokens (GLoCE, arXiv 2503.12356), as an add-on of type `TOKEN_GATE`.

Behind the output projection of a cross-attention, for every token x (d,) and concept

    s = |V_g^T (x - m_n)|^2 / |x - m_n|^2,  g = sigmoid(k (s - c)),  y = m_s + up down^T (x - m_t),
    x becomes (1 - g) x + g y,

of the concept with the largest g only. Weights, concepts first: up (k, d, r), down (k, d, r), surrogate, target and
neutral (k, d), gate (k, d, r_g), centre and slope (k,).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

TOKEN_GATE = "token_replacement"
#: name -> dimensions
SHAPES = {
    "up": 3, "down": 3, "gate": 3, "surrogate": 2, "target": 2, "neutral": 2, "centre": 1, "slope": 1,
}  # fmt: skip


def likeness(x: Tensor, neutral: Tensor, gate: Tensor) -> Tensor:
    """s in 0..1 of tokens (..., d): share of their way from ``neutral`` (d,) that lies in ``gate`` (d, r)."""
    way = x.float() - neutral
    return (way @ gate).square().sum(-1) / way.square().sum(-1).clamp_min(1e-12)


def replaced(x: Tensor, surrogate: Tensor, target: Tensor, up: Tensor, down: Tensor) -> Tensor:
    """y of tokens (..., d); the mean of the concept's tokens becomes ``surrogate`` exactly."""
    return surrogate + ((x.float() - target) @ down) @ up.T


def change(x: Tensor, weights: Mapping[str, Tensor]) -> Tensor:
    """What is added to tokens (..., d): g (y - x) of the concept whose gate is open widest, float32."""
    gates, ways = [], []
    for number in range(len(weights["centre"])):
        one = {name: part[number] for name, part in weights.items()}
        score = likeness(x, one["neutral"], one["gate"])
        gates.append(torch.sigmoid(one["slope"] * (score - one["centre"])))
        ways.append(replaced(x, one["surrogate"], one["target"], one["up"], one["down"]) - x.float())
    opened, which = torch.stack(gates).max(0)
    picked = torch.stack(ways).gather(0, which[None, ..., None].expand(1, *x.shape))[0]
    return opened[..., None] * picked
