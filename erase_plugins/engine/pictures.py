"""Pictures to learn from: files, or what the model itself draws; both end as clean latents."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from erase_plugins.engine.context import RunContext
from erase_plugins.engine.trajectories import ask_pair, guided, start_noise
from erase_plugins.errors import RequestError
from erase_plugins.families.base import Target

#: smallest side of a picture, in pixels
SMALLEST = 64
#: more pictures than this are refused: the methods are made for a handful
MOST = 64


def check_pictures(files: Sequence[str], what: str) -> None:
    """Refuses files that are no usable pictures, before any work.

    Args:
        files: their paths.
        what: how messages call them ("pictures", "anchor pictures").

    Raises:
        RequestError: names the file and the problem.
    """
    from PIL import Image, UnidentifiedImageError

    if len(files) > MOST:
        raise RequestError(f"{len(files)} {what} given, at most {MOST} are of use; choose the clearest ones")
    for name in files:
        path = Path(name)
        if not path.is_file():
            raise RequestError(f"{what}: no file '{path.name}'; give existing picture files")
        try:
            with Image.open(path) as picture:
                width, height = picture.size
                picture.verify()
        except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
            raise RequestError(f"{what}: '{path.name}' cannot be read as a picture; give PNG or JPEG files") from error
        if min(width, height) < SMALLEST:
            raise RequestError(
                f"{what}: '{path.name}' has {width} x {height} pixels; at least {SMALLEST} on each side are needed"
            )


def read_pictures(files: Sequence[str], size: tuple[int, int], flip: torch.Generator) -> Tensor:
    """Picture files as (n, 3, height, width) in -1..1, resized to ``size``, each mirrored or not by a coin once."""
    from PIL import Image

    found = []
    for name in files:
        with Image.open(name) as picture:
            fitted = picture.convert("RGB").resize((size[1], size[0]), Image.Resampling.BICUBIC)
            values = torch.frombuffer(bytearray(fitted.tobytes()), dtype=torch.uint8)
        pixels = values.reshape(size[0], size[1], 3).permute(2, 0, 1).float() / 127.5 - 1
        found.append(pixels.flip(-1) if bool(torch.rand((), generator=flip) < 0.5) else pixels)
    return torch.stack(found)


def file_latents(target: Target, files: Sequence[str], ctx: RunContext, name: str) -> Tensor:
    """Picture files as clean latents (n, channels, height, width); ``name`` names the randomness."""
    pictures = read_pictures(files, target.picture_size(), ctx.generator(f"flip {name}"))
    return target.latents(pictures, ctx.generator(f"latents {name}"))


@torch.no_grad()
def drawn_latents(
    target: Target, prompts: Sequence[str], steps: int, guidance: float, sampler: str, ctx: RunContext, name: str,
    progress: Callable[[], None],
) -> Tensor:  # fmt: skip
    """What the model draws for prompts, as clean latents (n, channels, height, width).

    Args:
        target: the model, with its changes switched off by the caller.
        prompts: one picture each.
        steps, guidance, sampler: how they are drawn.
        ctx: counts forward passes.
        name: names the randomness.
        progress: called after every step; may raise to stop.
    """
    scheduler = target.scheduler(steps, sampler)
    x = start_noise(target, scheduler, len(prompts), ctx.generator(name))
    cond, null = target.encode(prompts), target.encode([""])
    for stamp in scheduler.timesteps:
        first, second = ask_pair(target, scheduler.scale_model_input(x, stamp), stamp.expand(len(x)), null, cond, ctx)
        x = scheduler.step(guided(first, second, guidance), stamp, x).prev_sample
        progress()
    return x
