"""Draws many pictures with one stock pipeline: one seed per picture, batched, no text encoded twice."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor

from erase_plugins.engine.activations import looked_at
from erase_plugins.engine.precision import autocast
from erase_plugins.families.flow import call_options, is_packed, start_options, start_shape
from erase_plugins.families.schedulers import KINDS, fast_scheduler
from erase_plugins.families.target import Conditioning

#: what reports call DPM-Solver++
DPM = "dpm++"


def initial_noise(seed: int, shape: tuple[int, int, int]) -> Tensor:
    """Start noise of one picture; depends on nothing but the seed and the latent shape."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def draw(
    pipe: Any,
    prompts: Sequence[str],
    seeds: Sequence[int],
    *,
    steps: int = 8,
    guidance: float = 4.0,
    batch: int = 32,
    fast: bool = True,
    progress: Callable[[int, int], None] | None = None,
    denoiser: Any = None,
    cond: Conditioning | None = None,
    checked: bool = False,
    noise: Tensor | None = None,
    sampler: Any = None,
) -> Tensor:
    """Pictures for prompt/seed pairs.

    Args:
        pipe: diffusers text-to-image pipeline; its scheduler is swapped for the call and put back.
        prompts, seeds: one of each per picture.
        steps: of the sampler (`fast_scheduler`).
        guidance: classifier-free guidance scale.
        batch: pictures per forward pass, fewer large ones, which are decoded one by one then.
        fast: bfloat16 autocast for the denoiser where the device computes in it.
        progress: called with (done, total).
        denoiser: the denoiser in ``pipe``; its ``unet`` if None.
        cond: what stands for the prompts, already encoded, one for each.
        checked: whether a safety checker of the pipeline may blacken pictures. What is measured is the model itself: a
            judge would take a black picture for one without the concept.
        noise: what the pictures begin from (n, channels, height, width); None: what the seeds tell.
        sampler: a scheduler in place of `sampler_for`.

    Returns:
        (n, 3, height, width) float32 in 0..1 on the CPU.
    """
    unet = pipe.unet if denoiser is None else denoiser
    shape, extra = start_shape(pipe, unet), call_options(pipe)
    few = max(looked_at(shape) // 2, 1)
    device = getattr(pipe, "_execution_device", unet.device)  # offloaded weights lie elsewhere until they are used
    pictures: list[Tensor] = []
    with _drawing(pipe, sampler or sampler_for(pipe, unet), few < batch), nullcontext() if checked else unchecked(pipe):
        batch = min(batch, few)
        for start in range(0, len(prompts), batch):
            part = list(prompts[start : start + batch])
            rows = slice(start, start + batch)
            begin = torch.stack([initial_noise(seed, shape) for seed in seeds[rows]]) if noise is None else noise[rows]
            begin = begin.to(device, unet.dtype)
            cast = autocast(device) if fast else nullcontext()
            asked = {"prompt": part} if cond is None else _encoded(cond[rows], unet.dtype)
            with cast:
                out = pipe(
                    **asked, **extra, **start_options(pipe, unet, begin), num_inference_steps=steps,
                    guidance_scale=guidance, output_type="pt",
                ).images  # fmt: skip
            pictures.append(out.float().cpu())
            if progress is not None:
                progress(min(start + batch, len(prompts)), len(prompts))
    return torch.cat(pictures)


def sampler_for(pipe: Any, denoiser: Any) -> Any:
    """A fresh sampler of the kind that `draw` takes."""
    own = pipe.scheduler  # FLUX pipelines hand a shift to it that others do not take
    return type(own).from_config(own.config) if is_packed(denoiser) else fast_scheduler(own)


def sampler_facts(subject: Any) -> dict[str, Any]:
    """Steps, guidance and sampler of a measurement, for the details of its report; another host names its own one."""
    own = hasattr(subject.pipe, "scheduler")
    name = sampler_name(subject.pipe, subject.target.network("denoiser")) if own else ""
    return {"steps": subject.steps, "guidance": subject.guidance, "scheduler": name}


def sampler_name(pipe: Any, denoiser: Any) -> str:
    """What reports call the sampler of `draw`: "dpm++", or the class that the model came with."""
    name = type(sampler_for(pipe, denoiser)).__name__
    return DPM if name == KINDS["dpm"] else name


@contextmanager
def _drawing(pipe: Any, sampler: Any, sliced: bool) -> Iterator[None]:
    """Inside, the pipeline has another sampler, and decodes pictures one by one if ``sliced``."""
    before, vae = pipe.scheduler, pipe.vae
    slicing = getattr(vae, "use_slicing", None)
    pipe.scheduler = sampler
    if sliced and slicing is not None:
        vae.use_slicing = True
    try:
        yield
    finally:
        pipe.scheduler = before
        if slicing is not None:
            vae.use_slicing = slicing


@contextmanager
def unchecked(pipe: Any) -> Iterator[None]:
    """Inside, the pipeline has no safety checker."""
    checker = getattr(pipe, "safety_checker", None)
    if checker is None:
        yield
        return
    object.__setattr__(pipe, "safety_checker", None)  # past the pipeline's own way, which would forget what it was
    try:
        yield
    finally:
        object.__setattr__(pipe, "safety_checker", checker)


def _encoded(cond: Conditioning, dtype: torch.dtype) -> dict[str, Tensor]:
    """Encoded prompts as stock pipelines take them."""
    given = {"prompt_embeds": cond.embeds.to(dtype)}
    return given if cond.pooled is None else {**given, "pooled_prompt_embeds": cond.pooled.to(dtype)}
