"""Draws pictures the way every measurement does, and names what the judge sees in them."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

#: sampler of every measurement: DPM-Solver++ steps and guidance
STEPS, GUIDANCE, BATCH = 8, 4.0, 32

OnDrawn = Callable[[int, int], None]


def load_pipeline(folder: Path) -> Any:
    """The stock pipeline of a ``model`` or ``natural`` folder, in fp32 throughout."""
    import torch
    from diffusers import StableDiffusionPipeline

    from erase_plugins.families.assembled import whole

    # without a type, the text encoder would stay in the fp16 of its file while the rest is fp32
    return StableDiffusionPipeline.from_pretrained(whole(folder), torch_dtype=torch.float32, local_files_only=True)


def load_flow_pipeline(folder: Path, cache: Path | None = None) -> Any:
    """The stock pipeline of a ``flow`` folder, in fp32 throughout.

    Args:
        folder: beside the ``model`` folder that it takes files from.
        cache: see `erase_plugins.families.assembled.assembled`.
    """
    import torch
    from diffusers import StableDiffusion3Pipeline

    from erase_plugins.families.assembled import assembled

    return StableDiffusion3Pipeline.from_pretrained(
        assembled(folder, cache), text_encoder_3=None, tokenizer_3=None, torch_dtype=torch.float32,
        local_files_only=True,
    )  # fmt: skip


def sampler(pipe: Any) -> Any:
    """A copy of the pipeline with the fast sampler (the given one keeps its scheduler)."""
    from diffusers import StableDiffusionPipeline

    from erase_plugins.families.schedulers import fast_scheduler

    parts = {**pipe.components, "scheduler": fast_scheduler(pipe.scheduler)}
    flags = {"requires_safety_checker": False} if isinstance(pipe, StableDiffusionPipeline) else {}
    copy = type(pipe)(**parts, **flags)
    copy.set_progress_bar_config(disable=True)
    return copy


def draw(pipe: Any, prompts: Sequence[str], seed: int, on_drawn: OnDrawn | None = None) -> Tensor:
    """Pictures (prompts, 3, h, w) in 0..1; picture i starts from noise of seed + i, whatever the batch."""
    import torch

    from erase_plugins.families.flow import call_options
    from tools.pocket.loop import precision

    pipe, parts = sampler(pipe), []
    for start in range(0, len(prompts), BATCH):
        batch = list(prompts[start : start + BATCH])
        noise = [torch.Generator().manual_seed(seed + start + index) for index in range(len(batch))]
        with torch.no_grad(), precision(pipe.device.type):
            latents = pipe(
                batch, num_inference_steps=STEPS, guidance_scale=GUIDANCE, generator=noise, output_type="latent",
                **call_options(pipe),
            ).images  # fmt: skip
            images = pipe.vae.decode(latents / pipe.vae.config.scaling_factor).sample
        parts.append((images.float() / 2 + 0.5).clamp(0, 1).cpu())
        if on_drawn:
            on_drawn(start + len(batch), len(prompts))
    return torch.cat(parts)


def load_judge(path: Path) -> tuple[Any, dict[str, list[str]]]:
    """A judge file's network (in evaluation mode) and the names of its outputs by axis."""
    from safetensors import safe_open
    from safetensors.torch import load_file

    from erase_plugins.pocket.judge import NOTHING, build_network

    with safe_open(path, "pt") as file:
        header = file.metadata()
    names = {key: json.loads(header[key]) for key in ("concepts", "styles", "backgrounds")}
    network = build_network(*(len(value) for value in names.values()))
    network.load_state_dict({name: value.float() for name, value in load_file(path).items()}, strict=False)
    axes = {"concept": [*names["concepts"], NOTHING], "style": names["styles"], "background": names["backgrounds"]}
    return network.eval(), axes


def judge_images(network: Any, axes: dict[str, list[str]], images: Tensor) -> list[dict[str, str]]:
    """The most likely name on each axis for pictures (n, 3, h, w) in 0..1."""
    import torch

    with torch.no_grad():
        best = [part.argmax(-1).tolist() for part in network(images.float() * 2 - 1)]
    return [
        {axis: names[part[index]] for (axis, names), part in zip(axes.items(), best, strict=True)}
        for index in range(len(images))
    ]


def grid(images: Tensor, columns: int) -> Image:
    """One picture of pictures (n, 3, h, w) in 0..1, row by row, two pixels apart."""
    from PIL import Image

    height, width = images.shape[-2:]
    rows = -(-len(images) // columns)
    sheet = Image.new("RGB", (columns * (width + 2), rows * (height + 2)))
    for index, image in enumerate((images.clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()):
        row, column = divmod(index, columns)
        sheet.paste(Image.fromarray(image), (column * (width + 2), row * (height + 2)))
    return sheet
