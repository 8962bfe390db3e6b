"""Pools of finished pictures (as latents), drawn by the base model or from files, noised anew in every step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from erase_plugins.artifacts.header import read_header
from erase_plugins.engine.activations import looked_at
from erase_plugins.engine.attention import binary_mask, heat, nearest_level, over_heads, record_attention
from erase_plugins.engine.context import RunContext
from erase_plugins.engine.loop import shuffled
from erase_plugins.engine.pools import Rollout
from erase_plugins.engine.trajectories import States, ask, ask_pair, guided, start_noise
from erase_plugins.errors import RequestError
from erase_plugins.families.base import Conditioning, ModuleRef, Target, TargetInfo
from erase_plugins.families.pictures import opened, too_large
from erase_plugins.families.schedulers import mixing

#: share of the noise schedule at which attention shows where things are; latents per place of the maps used
_LIGHT, _COARSE = 0.4, 4
#: timesteps (n,) for a batch, drawn from a generator
Times = Callable[[int, torch.Generator], Tensor]
#: smallest side of a picture, in pixels
SMALLEST = 64
#: more pictures than this are refused: the methods are made for a handful
MOST = 64


@dataclass(frozen=True)
class Pictures:
    """Latents of drawn pictures.

    Attributes:
        name: names the pool, its randomness and its file in the work folder.
        latents: (n, channels, height, width), as the denoiser's data.
        cond: prompt of each picture.
        rollout: how they were drawn.
        stored: masks (n, h, w) that came with them.
    """

    name: str
    latents: Tensor
    cond: Conditioning
    rollout: Rollout
    stored: Tensor | None = None

    @classmethod
    def drawn(
        cls, rollout: Rollout, name: str, prompts: Sequence[str], key: str, away: Sequence[str] | None = None,
        batch: int = 32,
    ) -> Pictures:  # fmt: skip
        """One picture per prompt, drawn by the teacher; ``away`` are negative prompts, one per picture."""
        rollout.check(prompts)
        cond = rollout.target.encode(prompts)
        batch = min(batch, max(looked_at(rollout.target.info.latent_shape) // 2, 1))

        def make() -> dict[str, Tensor]:
            with rollout.adapters.disabled():
                parts = [
                    drawn_latents(
                        rollout.target, prompts[start : start + batch], rollout.steps, rollout.guidance,
                        rollout.sampler, rollout.ctx, f"picture {name} {start}", rollout.progress,
                        None if away is None else away[start : start + batch],
                    )
                    for start in range(0, len(prompts), batch)
                ]  # fmt: skip
            return {"latents": torch.cat(parts)}

        latents = rollout.ctx.stash(f"pictures-{name}", key, make)["latents"]
        return cls(name, latents.to(rollout.target.device), cond, rollout)

    @classmethod
    def given(cls, rollout: Rollout, path: str, prompts: Sequence[str]) -> Pictures:
        """Pictures and masks from a safetensors file, with the prompts in turn."""
        from safetensors.torch import load_file

        tensors = load_file(path)
        count, device = len(tensors["latents"]), rollout.target.device
        texts = [prompts[place % len(prompts)] for place in range(count)]
        return cls("given", tensors["latents"].float().to(device), rollout.target.encode(texts), rollout,
                   tensors["masks"].float().to(device))  # fmt: skip

    def masks(
        self, refs: Sequence[ModuleRef], rows: Sequence[Sequence[int]], kind: str, threshold: float, key: str
    ) -> Tensor:
        """Where the concept is in each picture, (n, h, w) of 0 and 1.

        Args:
            refs: cross-attention modules, see `engine.attention.attention_refs`.
            rows: for each prompt in turn the rows of the concept.
            kind: "none" is everywhere; "attention" takes the given masks, or the base model's attention to the rows
                at a light noise level.
            threshold: share of the strongest attention that belongs to the mask.
            key: identifies the run.
        """
        height, width = self.latents.shape[2:]
        if kind == "none":
            return torch.ones((len(self.latents), height, width), device=self.latents.device)
        if self.stored is not None:
            return self.stored
        target, ctx = self.rollout.target, self.rollout.ctx
        light = round(_LIGHT * len(mixing(target.scheduler(self.rollout.steps))[0]))

        def make() -> dict[str, Tensor]:
            found = []
            for start in range(0, len(self.latents), 16):
                some = torch.arange(len(self.latents))[start : start + 16]
                states = self.noised(some, torch.full((len(some),), light), ctx.generator(f"mask noise {start}"))
                for here in torch.arange(len(some)).split(looked_at((height, width))):
                    numbers = some[here].tolist()
                    frozen, watched = self.rollout.adapters.disabled(), record_attention(target, refs, over_heads)
                    with torch.no_grad(), frozen, watched as maps:
                        ask(target, states.inputs[here], states.timestep[here], self.cond[numbers], ctx)
                    level = nearest_level(maps, height * width / _COARSE**2)
                    chosen = {path: maps[path] for path in level}
                    warmth = heat(chosen, [rows[n] for n in numbers], (height, width))
                    found.append(binary_mask(warmth, threshold))
            return {"masks": torch.cat(found)}

        return ctx.stash("masks", key, make)["masks"].to(self.latents.device)

    def batch(self, size: int, step: int, times: Times | None = None) -> tuple[States, Conditioning]:
        """Batch number ``step``: shuffled passes over the pictures, noised at random timesteps.

        Args:
            size, step: of the batch.
            times: how timesteps are drawn; uniform if None.

        Returns:
            States whose prediction "noise" is what the model should say (the noise, or the velocity), and the prompts.
        """
        ctx = self.rollout.ctx
        rows = shuffled(ctx, f"pictures {self.name}", len(self.latents), size, step)
        generator = ctx.generator(f"noised {self.name} {step}")
        count = len(mixing(self.rollout.target.scheduler(self.rollout.steps))[0])
        states = self.noised(rows, (times or uniform_times(count))(size, generator), generator)
        return states, self.cond[rows.tolist()]

    def noised(self, rows: Tensor, stamps: Tensor, generator: torch.Generator) -> States:
        """Some pictures with fresh noise at given timesteps (n,); as in `batch`."""
        target = self.rollout.target
        scheduler = target.scheduler(self.rollout.steps)
        noise = torch.randn((len(rows), *self.latents.shape[1:]), generator=generator).to(self.latents)
        levels = mixing(scheduler)
        keep, add = (part.to(self.latents)[stamps.to(self.latents.device)][:, None, None, None] for part in levels)
        clean = self.latents[rows.to(self.latents.device)]
        inputs = keep * clean + add * noise
        answers = {"v_prediction": keep * noise - add * clean, "flow": noise - clean}
        wanted = answers.get(target.info.prediction, noise)
        return States(inputs, inputs, stamps.to(self.latents.device), torch.zeros_like(rows), rows, {"noise": wanted})


def uniform_times(count: int) -> Times:
    """Timesteps uniform in 0..count-1."""
    return lambda size, generator: torch.randint(count, (size,), generator=generator)


def concentrated_times(count: int, generator: torch.Generator) -> Tensor:
    """Timesteps drawn from sigmoid(0.05 (t - 200)) - sigmoid(0.05 (t - 400)), t in 0..999."""
    t = torch.arange(1000, dtype=torch.float64)
    weight = torch.sigmoid(0.05 * (t - 200)) - torch.sigmoid(0.05 * (t - 400))
    return torch.multinomial(weight, count, replacement=True, generator=generator)


def check_data(path: str, info: TargetInfo) -> None:
    """Refuses a file without matching latents and masks.

    Raises:
        RequestError: says what is missing.
    """
    place = Path(path)
    if not place.is_file():
        raise RequestError(f"data: no file '{place.name}'; give a safetensors file with latents and masks")
    shapes = {name: tuple(entry.shape) for name, entry in read_header(place).tensors.items()}
    latents, masks = shapes.get("latents", ()), shapes.get("masks", ())
    if len(latents) != 4 or latents[1:] != info.latent_shape or len(masks) != 3 or masks[:1] != latents[:1]:
        raise RequestError(
            f"data: '{place.name}' has latents {latents} and masks {masks}; needed are (n, "
            f"{', '.join(map(str, info.latent_shape))}) and (n, h, w)"
        )


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
        except Image.DecompressionBombError as error:
            raise too_large(f"{what}: '{path.name}'") from error
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
        fitted = opened(name).resize((size[1], size[0]), Image.Resampling.BICUBIC)
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
    progress: Callable[[], None], away: Sequence[str] | None = None,
) -> Tensor:  # fmt: skip
    """What the model draws for prompts, as clean latents (n, channels, height, width).

    Args:
        target: the model, with its changes switched off by the caller.
        prompts: one picture each.
        steps, guidance, sampler: how they are drawn.
        ctx: counts forward passes.
        name: names the randomness.
        progress: called after every step; may raise to stop.
        away: negative prompt of each picture; None: the empty one.
    """
    scheduler = target.scheduler(steps, sampler)
    x = start_noise(target, scheduler, len(prompts), ctx.generator(name))
    cond, null = target.encode(prompts), target.blank(len(prompts)) if away is None else target.encode(away)
    for stamp in scheduler.timesteps:
        first, second = ask_pair(target, scheduler.scale_model_input(x, stamp), stamp.expand(len(x)), null, cond, ctx)
        x = scheduler.step(guided(first, second, guidance), stamp, x).prev_sample
        progress()
    return x
