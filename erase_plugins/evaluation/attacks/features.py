"""Features of a denoiser, and a linear classifier on them in closed form."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from erase_plugins.engine.activations import looked_at
from erase_plugins.evaluation.attacks.material import encoded_now
from erase_plugins.evaluation.linear import fitted
from erase_plugins.families.target import Target

#: samples per pass
_BATCH = 32


@torch.no_grad()
def features(target: Target, latents: Tensor, prompts: Sequence[str], level: float, seed: int) -> Tensor:
    """What the cross-attention layers of the denoiser are given, averaged over the picture: (n, channels of all).

    Args:
        target: the model as it is now.
        latents: clean scaled latents (n, channels, height, width).
        prompts: one each.
        level: how far towards noise, in 0..1; at 1 nothing of the latents is left.
        seed: of the noise.
    """
    alphas = target.scheduler(1, "ddim").alphas_cumprod.to(latents)
    moment = round(level * (len(alphas) - 1))
    alpha = alphas[moment] if level < 1 else torch.zeros(()).to(latents)
    noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(seed)).to(latents)
    noisy = (alpha.sqrt() * latents + (1 - alpha).sqrt() * noise).to(target.dtype)
    seen: list[Tensor] = []

    def keep(_module: Any, args: tuple[Any, ...]) -> None:
        seen.append(args[0].float().mean(1).cpu())

    hooks = [target.module(ref).register_forward_pre_hook(keep) for ref in target.modules("cross_q")]
    found = []
    try:
        batch = min(_BATCH, looked_at(latents.shape))
        for start in range(0, len(latents), batch):
            part = noisy[start : start + batch]
            times = torch.full((len(part),), moment, device=part.device)
            target.predict(part, times, encoded_now(target, list(prompts[start : start + batch])))
            found.append(torch.cat(seen, dim=1))
            seen.clear()
    finally:
        for hook in hooks:
            hook.remove()
    return torch.cat(found)


class Ridge:
    """Two classes told apart by ridge regression to +1 and -1; of the larger class only as many as of the other.

    Args:
        positive, negative: features (n, width) and (m, width).
        strength: of the penalty, against the mean square of a sample.
    """

    def __init__(self, positive: Tensor, negative: Tensor, strength: float = 0.1) -> None:
        count = min(len(positive), len(negative))
        both = torch.cat([positive[:count], negative[:count]])
        self.mean, self.weights = fitted(both, torch.cat([torch.ones(count), -torch.ones(count)]), strength)

    @property
    def key(self) -> str:
        """Tells this classifier from any other."""
        return hashlib.sha256(torch.cat([self.mean, self.weights]).numpy().tobytes()).hexdigest()

    def positive(self, samples: Tensor) -> list[int]:
        """1 for each sample (n, width) that belongs to the positive class, else 0."""
        scores = (samples.double() - self.mean) @ self.weights
        return [int(score > 0) for score in scores.tolist()]
