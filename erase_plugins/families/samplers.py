"""DDIM, Euler and DPM-Solver++ (2M) without diffusers, for models that live in another host, such as ComfyUI.

The same timesteps, scales and steps as the diffusers schedulers of `schedulers.KINDS` with the settings that a
noise schedule in `ComfyTarget` has: "leading" spacing, an offset of 1, no clipping, no churn.

Sources: DDIM (arXiv 2010.02502, eq. 12 with sigma 0), EDM (arXiv 2206.00364, algorithm 1), DPM-Solver++
(arXiv 2211.01095, algorithm 2 in its multistep form).
"""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from erase_plugins.errors import RequestError


class Sampler:
    """What all kinds share: the schedule of the noise, and pictures that are mixed with it.

    Args:
        config: "trained_betas" (one per training timestep), "prediction_type" ("epsilon" or "v_prediction") and
            "steps_offset".

    Attributes:
        alphas_cumprod: share of the clean picture's variance at every training timestep, (timesteps,).
        timesteps: those of the steps, falling; set by `set_timesteps`.
        init_noise_sigma: what unit noise is multiplied with before the first step.
    """

    init_noise_sigma: Any = 1.0
    timesteps: Tensor

    def __init__(self, config: Mapping[str, Any]) -> None:
        self.config = dict(config)
        betas = torch.tensor(config["trained_betas"], dtype=torch.float32)
        self.alphas_cumprod = torch.cumprod(1.0 - betas, 0)
        self._velocity = config["prediction_type"] == "v_prediction"

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Sampler:
        """A fresh one with the same schedule."""
        return cls(config)

    def set_timesteps(self, steps: int, device: Any = None) -> None:
        """Spreads the steps over the schedule.

        Args:
            steps: how many.
            device: where the timesteps lie.
        """
        count = len(self.alphas_cumprod)
        times = torch.arange(steps).flip(0) * (count // self._parts(steps)) + int(self.config["steps_offset"])
        self._prepare(times.clamp(max=count - 1), device)

    def scale_model_input(self, x: Tensor, _stamp: Any) -> Tensor:
        """A state as the denoiser takes it."""
        return x

    def step(self, out: Tensor, stamp: Any, x: Tensor) -> Any:
        """The next state, as ``.prev_sample``.

        Args:
            out: prediction of the denoiser, shaped like ``x``.
            stamp: timestep of the state.
            x: the state.
        """
        place = int((self.timesteps == stamp).nonzero()[0])
        return SimpleNamespace(prev_sample=self._step(out.float(), place, x.float()).to(x.dtype))

    def add_noise(self, x: Tensor, noise: Tensor, times: Tensor) -> Tensor:
        """Clean states mixed with noise, each at its training timestep (n,)."""
        clean, noisy = self._shares(times, x)
        return clean * x + noisy * noise

    def get_velocity(self, x: Tensor, noise: Tensor, times: Tensor) -> Tensor:
        """What a velocity model should predict for `add_noise` of the same arguments."""
        clean, noisy = self._shares(times, x)
        return clean * noise - noisy * x

    def _shares(self, times: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        kept = self.alphas_cumprod.to(like.device)[times.to(like.device)].reshape(-1, *[1] * (like.ndim - 1))
        return kept.sqrt().to(like.dtype), (1 - kept).sqrt().to(like.dtype)

    def _parts(self, steps: int) -> int:
        return steps

    def _prepare(self, times: Tensor, device: Any) -> None:
        self.timesteps = times.to(device)

    def _step(self, out: Tensor, place: int, x: Tensor) -> Tensor:
        raise NotImplementedError

    def _clean(self, out: Tensor, x: Tensor, clean: Tensor, noisy: Tensor) -> Tensor:
        """The clean picture that a prediction means; ``x`` is clean * picture + noisy * noise."""
        return clean * x - noisy * out if self._velocity else (x - noisy * out) / clean


class Ddim(Sampler):
    """Deterministic DDIM."""

    def _step(self, out: Tensor, place: int, x: Tensor) -> Tensor:
        time = int(self.timesteps[place])
        before = time - len(self.alphas_cumprod) // len(self.timesteps)
        here, there = self.alphas_cumprod[time], self.alphas_cumprod[max(before, 0)]
        clean, noisy = here.sqrt(), (1 - here).sqrt()
        picture = self._clean(out, x, clean, noisy)
        noise = clean * out + noisy * x if self._velocity else out
        return there.sqrt() * picture + (1 - there).sqrt() * noise


class _OfSigmas(Sampler):
    """Samplers that step along noise over picture."""

    _sigmas: Tensor

    def _prepare(self, times: Tensor, device: Any) -> None:
        every = ((1 - self.alphas_cumprod) / self.alphas_cumprod).sqrt()
        self._sigmas = torch.cat([every[times], torch.zeros(1)])
        super()._prepare(times, device)


class Euler(_OfSigmas):
    """Euler's method; states are not scaled down, but the denoiser's input is."""

    def _prepare(self, times: Tensor, device: Any) -> None:
        super()._prepare(times, device)
        self.timesteps = self.timesteps.float()
        self.init_noise_sigma = (self._sigmas[0] ** 2 + 1).sqrt()

    def scale_model_input(self, x: Tensor, stamp: Any) -> Tensor:
        """A state as the denoiser takes it: of variance 1."""
        sigma = self._sigmas[int((self.timesteps == stamp).nonzero()[0])]
        return x / (sigma**2 + 1).sqrt().to(x.dtype)

    def _step(self, out: Tensor, place: int, x: Tensor) -> Tensor:
        sigma, after = self._sigmas[place], self._sigmas[place + 1]
        scale = (sigma**2 + 1).sqrt()
        picture = self._clean(out, x / scale, 1 / scale, sigma / scale)
        return x + (x - picture) / sigma * (after - sigma)


class Dpm(_OfSigmas):
    """DPM-Solver++ of second order from two predictions; the first and the last step are of first order."""

    _last: Tensor | None = None

    def _parts(self, steps: int) -> int:
        return steps + 1

    def set_timesteps(self, steps: int, device: Any = None) -> None:
        """As `Sampler.set_timesteps`, one step short of the end of the schedule."""
        count = len(self.alphas_cumprod)
        times = torch.arange(1, steps + 1).flip(0) * (count // self._parts(steps)) + int(self.config["steps_offset"])
        self._last = None
        self._prepare(times.clamp(max=count - 1), device)

    def _step(self, out: Tensor, place: int, x: Tensor) -> Tensor:
        sigmas = self._sigmas
        clean = 1 / (sigmas**2 + 1).sqrt()
        noisy = sigmas * clean
        picture = self._clean(out, x, clean[place], noisy[place])
        before, self._last = self._last, picture
        logs = clean.log() - noisy.log()
        gone = torch.expm1(logs[place] - logs[place + 1])
        x = noisy[place + 1] / noisy[place] * x - clean[place + 1] * gone * picture
        if before is None or place == len(self.timesteps) - 1:
            return x
        share = (logs[place] - logs[place - 1]) / (logs[place + 1] - logs[place])
        return x - 0.5 * clean[place + 1] * gone * (picture - before) / share


SAMPLERS: dict[str, type[Sampler]] = {"ddim": Ddim, "euler": Euler, "dpm": Dpm}


def make_sampler(config: Mapping[str, Any], kind: str, steps: int, device: Any) -> Sampler:
    """A fresh sampler with its timesteps set.

    Args:
        config: see `Sampler`.
        kind: one of `SAMPLERS`; "own" is DDIM, for a host has no scheduler of its own.
        steps: number of timesteps.
        device: where the timesteps lie.

    Raises:
        RequestError: unknown kind.
    """
    chosen = SAMPLERS.get("ddim" if kind == "own" else kind)
    if chosen is None:
        raise RequestError(f"unknown scheduler '{kind}'; choose one of own, {', '.join(SAMPLERS)}")
    fresh = chosen(config)
    fresh.set_timesteps(steps, device=device)
    return fresh
