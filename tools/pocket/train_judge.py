"""Stage "judge": the classifier, on sprites and their reconstructions, blurred, noisy and with other contrast."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch.nn import functional

from tools.pocket.loop import Draw, Stage
from tools.pocket.train_vae import to_tensor

if TYPE_CHECKING:
    from torch import Tensor

    from tools.pocket.compose import Pictures
    from tools.pocket.recipe import Recipe

#: target that cross-entropy skips: "nothing" has no style
UNKNOWN = -100


def nothing_picture(rgb: tuple[int, int, int], size: int, rng: np.random.Generator) -> np.ndarray:
    """A flat background with up to four blobs of random colours: bytes (3, size, size)."""
    frame = Image.new("RGB", (size, size), rgb)
    pen = ImageDraw.Draw(frame)
    for _ in range(int(rng.integers(5))):
        left, top = rng.uniform(0, 0.75 * size, 2)
        width, height = rng.uniform(0.08 * size, 0.5 * size, 2)
        colour = tuple(int(value) for value in rng.integers(256, size=3))
        pen.ellipse((left, top, left + width, top + height), fill=colour)
    return np.asarray(frame).transpose(2, 0, 1)


def augment(images: Tensor, draw: Draw) -> Tensor:
    """Blur of random strength, contrast and brightness, then noise; (n, 3, h, w) in about -1..1."""

    def uniform(low: float, high: float) -> Tensor:
        return torch.empty(len(images), 1, 1, 1).uniform_(low, high, generator=draw.noise).to(images.device)

    kernel = torch.tensor([1.0, 4.0, 6.0, 4.0, 1.0], device=images.device)
    kernel = (kernel[:, None] * kernel / 256).expand(3, 1, 5, 5)
    blurred = functional.conv2d(functional.pad(images, (2, 2, 2, 2), mode="replicate"), kernel, groups=3)
    images = images.lerp(blurred, uniform(-0.5, 1).clamp(min=0))
    images = images * uniform(0.8, 1.2) + uniform(-0.1, 0.1)
    noise = torch.randn(images.shape, generator=draw.noise).to(images.device)
    return images + uniform(0, 0.08) * noise


@torch.no_grad()
def reconstruct(vae: Any, latents: Tensor, device: str, batch: int = 64) -> Tensor:
    """Decoded pictures of one cached copy per label: bytes (labels, 3, h, w). ``latents`` are not scaled."""
    parts = []
    for start in range(0, len(latents), batch):
        drawn = vae.decode(latents[start : start + batch, 0].float().to(device)).sample
        parts.append(((drawn.clamp(-1, 1) + 1) * 127.5).round().byte().cpu())
    return torch.cat(parts)


def judge_stage(network: Any, pictures: Pictures, decoded: Tensor, recipe: Recipe, device: str) -> Stage:
    """Cross-entropy over concept (with "nothing"), style and background.

    Args:
        decoded: reconstructions (labels, 3, h, w) in bytes, in the order of ``pictures.labels``.
    """
    world, size = pictures.world, recipe.size
    colours = [world.background_rgb[name] for name in world.backgrounds]
    order = {label: index for index, label in enumerate(pictures.labels)}

    def batch(draw: Draw) -> tuple[Tensor, Tensor]:
        count = recipe.judge_batch
        empty = max(1, round(count * recipe.judge_nothing))
        pixels, labels = pictures.sample(count - empty, draw.rng)
        half = draw.rng.random(len(labels)) < 0.5

        images = torch.from_numpy(pixels)
        for index in np.flatnonzero(half):
            images[index] = decoded[order[labels[index]]]
        kinds = draw.rng.integers(len(colours), size=empty)
        blank = torch.from_numpy(np.stack([nothing_picture(colours[kind], size, draw.rng) for kind in kinds]))
        targets = [(item.concept, item.style, item.background) for item in labels]
        targets += [(len(world.concepts), UNKNOWN, int(kind)) for kind in kinds]
        return torch.cat([images, blank]), torch.tensor(targets)

    def loss(draw: Draw) -> Tensor:
        images, targets = batch(draw)
        logits = network(augment(to_tensor(images.numpy()).to(device), draw))
        return torch.stack(
            [
                functional.cross_entropy(part, targets[:, axis].to(device), label_smoothing=recipe.smoothing)
                for axis, part in enumerate(logits)
            ]
        ).sum()

    return Stage("judge", recipe.judge_steps, {"judge": network}, {"judge": recipe.judge_lr}, loss)
