"""Samplers of flow transformers with the interface that trajectories ask for, and their noise levels.

A state is x_s = (1 - s) x_0 + s noise, the prediction v = noise - x_0, a step x + (s_next - s) v.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from torch import Tensor

from erase_plugins.errors import RequestError
from erase_plugins.families.schedulers import KINDS


class FlowSampler(FlowMatchEulerDiscreteScheduler):
    """Euler through the noise levels of the stock pipeline; latents are given to the denoiser as they are."""

    init_noise_sigma = 1.0

    def mixing(self) -> tuple[Tensor, Tensor]:
        """Shares of clean picture and noise at timesteps 0, 1, ..."""
        sigma = torch.arange(self.config.num_train_timesteps) / self.config.num_train_timesteps
        return 1 - sigma, sigma

    def scale_model_input(self, sample: Tensor, timestep: Any = None) -> Tensor:
        """The latents themselves."""
        return sample


class EvenSampler(FlowSampler):
    """As FLUX pipelines use it: levels 1 .. 1/n before the shift."""

    def set_timesteps(self, num_inference_steps: int, device: Any = None, **options: Any) -> None:
        """Sets ``num_inference_steps`` timesteps."""
        levels = [1 - index / num_inference_steps for index in range(num_inference_steps)]
        super().set_timesteps(sigmas=levels, device=device, **options)


def shift_of(config: Mapping[str, Any], tokens: int) -> float:
    """Shift of a schedule for pictures of ``tokens`` packed latents: s becomes f s / (1 + (f - 1) s).

    Where it depends on the picture, its logarithm grows linearly from ``base_shift`` to ``max_shift``.
    """
    if not config.get("use_dynamic_shifting"):
        return float(config.get("shift", 1.0))
    low, high = config.get("base_image_seq_len", 256), config.get("max_image_seq_len", 4096)
    first, last = config.get("base_shift", 0.5), config.get("max_shift", 1.15)
    return math.exp(first + (tokens - low) * (last - first) / (high - low))


def make_flow_sampler(config: Mapping[str, Any], kind: str, steps: int, device: Any, even: bool, tokens: int) -> Any:
    """A fresh sampler with its timesteps set; all kinds of `schedulers.KINDS` are Euler on a straight path.

    Args:
        config: of the model's own scheduler.
        kind: name that a method gives.
        steps: number of timesteps.
        device: where they lie.
        even: levels 1 .. 1/n before the shift.
        tokens: packed latents of one picture.

    Raises:
        RequestError: unknown kind.
    """
    if kind != "own" and kind not in KINDS:
        raise RequestError(f"unknown scheduler '{kind}'; choose one of own, {', '.join(KINDS)}")
    fixed = {"shift": shift_of(config, tokens), "use_dynamic_shifting": False}
    fresh = (EvenSampler if even else FlowSampler).from_config({**config, **fixed})
    fresh.set_timesteps(steps, device=device)
    return fresh
