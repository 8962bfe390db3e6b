"""Samplers by the names that methods use, as diffusers schedulers."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from erase_plugins.errors import RequestError

KINDS = {"ddim": "DDIMScheduler", "dpm": "DPMSolverMultistepScheduler", "euler": "EulerDiscreteScheduler"}


def mixing(scheduler: Any) -> tuple[Any, Any]:
    """How much clean picture and how much noise a state holds, at timesteps 0, 1, ...; two tensors of one dimension."""
    own = getattr(scheduler, "mixing", None)
    if own is not None:
        clean, noise = own()
        return clean, noise
    return scheduler.alphas_cumprod.sqrt(), (1 - scheduler.alphas_cumprod).sqrt()


def make_scheduler(config: Mapping[str, Any], kind: str, steps: int, device: Any, own: Any = None) -> Any:
    """A fresh scheduler with its timesteps set.

    Args:
        config: training configuration of the model (betas, prediction type, spacing).
        kind: one of `KINDS`, or "own" for the class that the model came with.
        steps: number of timesteps.
        device: where the timesteps lie.
        own: that class; DDIM if None.

    Raises:
        RequestError: unknown kind.
    """
    if kind != "own" and kind not in KINDS:
        raise RequestError(f"unknown scheduler '{kind}'; choose one of own, {', '.join(KINDS)}")
    if kind != "own" or own is None:
        import diffusers

        own = getattr(diffusers, KINDS["ddim" if kind == "own" else kind])
    # samplers that never clip do not say so in their configuration, and others would clip latents by default
    silent = "clip_sample" not in config and "clip_sample" in inspect.signature(own).parameters
    fresh = own.from_config(config, **({"clip_sample": False} if silent else {}))
    fresh.set_timesteps(steps, device=device)
    return fresh


def fast_scheduler(own: Any) -> Any:
    """A fresh sampler for few steps, from the scheduler of a pipeline.

    DPM-Solver++ along the model's noise schedule. A flow model with a fixed shift gets it along its straight path; one
    whose shift depends on the picture keeps its own sampler, since stock pipelines hand noise levels to it.
    """
    from diffusers import DPMSolverMultistepScheduler, FlowMatchEulerDiscreteScheduler

    if not isinstance(own, FlowMatchEulerDiscreteScheduler):
        return DPMSolverMultistepScheduler.from_config(own.config)
    if own.config.get("use_dynamic_shifting"):
        return type(own).from_config(own.config)
    return DPMSolverMultistepScheduler(
        num_train_timesteps=own.config["num_train_timesteps"], prediction_type="flow_prediction", use_flow_sigmas=True,
        flow_shift=float(own.config.get("shift") or 1.0),
    )  # fmt: skip
