"""A sparse autoencoder of rows, trained with BatchTopK (Bussmann et al., arXiv 2412.06410) as in SAeUron.

z = the k * batch largest of relu(W_e (h - b_d) + b_e),    h^ = z W_d + b_d,

loss = |h^ - h|^2 / total variance + aux * the same for what dead features make of the rest
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

#: batches in a row without any activation after which a feature is dead
_DEAD = 50
#: rows that are coded together
_PART = 4096


@dataclass
class SparseCoder:
    """Features of rows (n, d); rows of ``decode`` have length 1.

    Attributes:
        encode, bias, decode, centre: (f, d), (f,), (f, d), (d,).
        threshold: activation above which a feature counts where rows are coded one by one.
        unexplained: share of the variance that is left at the end of the training.
    """

    encode: Tensor
    bias: Tensor
    decode: Tensor
    centre: Tensor
    threshold: float = 0.0
    unexplained: float = 1.0

    def activations(self, rows: Tensor) -> Tensor:
        """Activations (n, f) before any choice."""
        return torch.relu((rows - self.centre) @ self.encode.T + self.bias)

    def codes(self, rows: Tensor) -> Tensor:
        """Activations (n, f) above the threshold."""
        z = self.activations(rows)
        return torch.where(z > self.threshold, z, 0.0)

    def mean(self, rows: Tensor) -> Tensor:
        """Mean codes (f,) of rows (n, d)."""
        total = sum((self.codes(part).sum(0) for part in rows.split(_PART)), torch.zeros_like(self.bias))
        return total / len(rows)

    def parts(self, chosen: Tensor, least: Tensor, factor: float) -> dict[str, Tensor]:
        """Weights of `artifacts.sparse_features` for some features.

        Args:
            chosen: numbers of features (n,).
            least: activation (n,) below which a feature is left alone.
            factor: what its activation is multiplied by.
        """
        encode = self.encode[chosen]
        return {
            "encode": encode.contiguous(), "bias": self.bias[chosen] - encode @ self.centre,
            "threshold": least.clamp_min(self.threshold), "decode": self.decode[chosen].contiguous(),
            "factor": torch.full((len(chosen),), factor),
        }  # fmt: skip


def largest(z: Tensor, count: int) -> Tensor:
    """The ``count`` largest of all activations, the others 0."""
    flat = z.flatten()
    values, places = flat.topk(min(count, flat.numel()))
    return torch.zeros_like(flat).scatter(0, places, values).reshape(z.shape)


def fit(
    rows: Tensor, features: int, k: int, steps: int, batch: int, lr: float, aux: float, generator: torch.Generator,
    progress: Callable[[int], None],
) -> SparseCoder:  # fmt: skip
    """A coder of rows (n, d) float32, trained with Adam at a rate that falls linearly to 0."""
    size = rows.square().mean().sqrt()
    rows = rows / size  # units of the model do not matter
    decode = torch.randn(features, rows.shape[1], generator=generator)
    decode = decode / decode.norm(dim=1, keepdim=True)
    values = [decode.clone(), torch.zeros(features), decode, rows.mean(0)]
    encode, bias, decode, centre = (part.to(rows).requires_grad_() for part in values)
    coder = SparseCoder(encode, bias, decode, centre)
    optimizer = torch.optim.Adam([encode, bias, decode, centre], lr=lr)
    variance = (rows - rows.mean(0)).square().mean()
    silent, smallest, left = torch.zeros(features), [], []
    for step in range(steps):
        h = rows[torch.randint(len(rows), (batch,), generator=generator)]
        z = coder.activations(h)
        kept = largest(z, k * len(h))
        rest = h - kept @ decode - centre
        loss = rest.square().mean() / variance
        dead = (silent > _DEAD).nonzero()[:, 0][: rows.shape[1] // 2]
        if len(dead) and aux:
            share = min(2 * len(dead) / rows.shape[1], 1.0)
            guess = largest(z[:, dead], k * len(h)) @ decode[dead]
            loss = loss + aux * share * (guess - rest.detach()).square().mean() / variance
        optimizer.param_groups[0]["lr"] = lr * (1 - step / steps)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            decode /= decode.norm(dim=1, keepdim=True)
            fired = (kept > 0).any(0)
            silent = torch.where(fired.cpu(), torch.zeros_like(silent), silent + 1)
            if step >= steps // 2:
                smallest.append(float(kept[kept > 0].min()) if bool(fired.any()) else 0.0)
                left.append(float(rest.square().mean() / variance))
        progress(step + 1)
    found = (part.detach() for part in (encode, bias, decode, centre))
    encode, bias, decode, centre = found
    # codes in the units of the rows: (h - s c) W_e^T + s b, since relu and the choice scale along
    return SparseCoder(
        encode, size * bias, decode, size * centre, float(size) * sum(smallest) / len(smallest), sum(left) / len(left)
    )
