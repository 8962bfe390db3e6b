"""Real words found by gradient: a distribution over words for each place, moved by what the denoiser says.

As in UnlearnDiffAtk (arXiv 2310.11868): a word is drawn from each distribution, the gradient with respect to the choice
passes straight through, Adam with coupled weight decay moves the distribution, and a projection puts it back on the
simplex. Prompts are independent of each other, so many are attacked in one pass.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from erase_plugins.engine.inversion import question

if TYPE_CHECKING:
    from erase_plugins.evaluation.attacks.vocabulary import WordTable
    from erase_plugins.families.target import Target, Tokens

RATE, DECAY, BETAS, EPS = 0.01, 0.1, (0.9, 0.999), 1e-8
#: a distribution after a step has at most a few hundred entries above zero
_TOP = 512


def simplex(rows: Tensor, top: int = _TOP) -> Tensor:
    """Euclidean projection of each row (..., words) on the simplex: not negative, sum 1. Exact.

    Only the ``top`` largest entries are sorted where they contain all that stay above zero.
    """
    width = rows.shape[-1]
    if top < width:
        found, inside = _threshold(rows.topk(top, dim=-1).values)
        if bool(inside.all()):
            return (rows - found).clamp_min(0)
    return (rows - _threshold(rows.sort(dim=-1, descending=True).values)[0]).clamp_min(0)


def _threshold(ordered: Tensor) -> tuple[Tensor, Tensor]:
    """What is subtracted, from entries in falling order; and whether it lies above the last of them."""
    sums = ordered.cumsum(-1) - 1
    count = torch.arange(1, ordered.shape[-1] + 1, device=ordered.device, dtype=ordered.dtype)
    used = (ordered * count > sums).sum(-1, keepdim=True)
    threshold = sums.gather(-1, used - 1) / used
    return threshold, used < ordered.shape[-1]


class Choice:
    """Distributions over words (prompts, places, words), all alike at first."""

    def __init__(self, prompts: int, places: int, words: int, dtype: torch.dtype = torch.float32) -> None:
        self.share = torch.full((prompts, places, words), 1 / words, dtype=dtype)
        self.mean, self.square = torch.zeros_like(self.share), torch.zeros_like(self.share)
        self.steps = 0

    def drawn(self, generator: torch.Generator) -> Tensor:
        """One word for each place, (prompts, places); as many random numbers whatever the distributions are."""
        chance = torch.rand(self.share.shape[:2], generator=generator, dtype=torch.float64)
        edges = self.share.double().cumsum(-1)
        found = torch.searchsorted(edges, chance[..., None] * edges[..., -1:], right=True)[..., 0]
        return found.clamp_max(self.share.shape[-1] - 1)

    def best(self) -> Tensor:
        """The likeliest words (prompts, places)."""
        return self.share.argmax(-1)

    def step(self, gradient: Tensor, active: Sequence[int], rate: float = RATE, decay: float = DECAY) -> None:
        """One step of Adam with coupled decay and the projection, for the prompts at ``active``; others stay."""
        rows = list(active)
        self.steps += 1
        slope = gradient.to(self.share) + decay * self.share[rows]
        self.mean[rows] = BETAS[0] * self.mean[rows] + (1 - BETAS[0]) * slope
        self.square[rows] = BETAS[1] * self.square[rows] + (1 - BETAS[1]) * slope.square()
        mean = self.mean[rows] / (1 - BETAS[0] ** self.steps)
        square = self.square[rows] / (1 - BETAS[1] ** self.steps)
        self.share[rows] = simplex(self.share[rows] - rate * mean / (square.sqrt() + EPS))

    def tensors(self) -> dict[str, Tensor]:
        """State for a file."""
        return {"share": self.share, "mean": self.mean, "square": self.square, "steps": torch.tensor(self.steps)}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Inverse of `tensors`."""
        self.share, self.mean, self.square = (tensors[name] for name in ("share", "mean", "square"))
        self.steps = int(tensors["steps"])


def losses(
    target: Target, tokens: Tokens, latents: Tensor, noise: Tensor, timestep: int, alpha: float,
    embedded: Mapping[str, Tensor] | None = None,
) -> Tensor:  # fmt: skip
    """Denoising error of each prompt (n,), mean over its latent; the conditional branch only.

    Args:
        target: the model as it is attacked.
        tokens: one prompt per latent.
        latents, noise: (n, channels, height, width).
        timestep: of the noise.
        alpha: cumulative product at ``timestep``.
        embedded: token embeddings in place of those of ``tokens``.
    """
    cond = target.encode_live(tokens, embedded)
    steps = torch.full((len(latents),), timestep, device=latents.device)
    noisy, wanted = question(target, latents, noise, alpha**0.5, (1 - alpha) ** 0.5)
    error = wanted - target.predict(noisy.to(target.dtype), steps, cond)
    return (error if error.dtype == torch.float64 else error.float()).square().mean((1, 2, 3))


def choice_gradient(
    target: Target, table: WordTable, prompts: Tokens, picks: Tensor, latents: Tensor, noise: Tensor, timestep: int,
    alpha: float,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Gradient with respect to the choice (n, k, words), clipped, and the losses (n,).

    Args:
        target: the model as it is attacked; nothing of it gets a gradient.
        table: words to choose from.
        prompts: behind the words.
        picks: words that were drawn (n, k).
        latents, noise, timestep, alpha: as for `losses`.
    """
    tokens, size = table.put(prompts, picks), picks.shape[1]
    own, embedded = {}, {}
    for name, ids in tokens.ids.items():
        plain = target.token_rows(name, ids)
        own[name] = plain[:, 1 : 1 + size].clone().requires_grad_()
        embedded[name] = torch.cat([plain[:, :1], own[name], plain[:, 1 + size :]], 1)
    found = losses(target, tokens, latents, noise, timestep, alpha, embedded)
    gradients = torch.autograd.grad(found.sum(), list(own.values()))
    parts = [
        gradient @ target.token_rows(name, table.ids[name]).T.to(gradient.dtype)
        for name, gradient in zip(own, gradients, strict=True)
    ]
    return torch.stack(parts).sum(0).clamp(-1, 1), found.detach()
