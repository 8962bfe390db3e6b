"""Training pictures: a sprite, scaled and shifted, over a flat background. Numpy and Pillow only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from erase_plugins.errors import RequestError

if TYPE_CHECKING:
    from erase_plugins.pocket.world import World
    from tools.pocket.recipe import Recipe

Sprites = Mapping[tuple[str, str], Image.Image]


@dataclass(frozen=True)
class Label:
    """What a picture shows: indices into the world's concepts, styles and backgrounds."""

    concept: int
    style: int
    background: int


def placement(size: int, recipe: Recipe, rng: np.random.Generator) -> tuple[int, int, int]:
    """Side, left and top of the sprite in a frame of ``size`` pixels, drawn at random."""
    side = round(size * rng.uniform(*recipe.scale))
    middle = (size - side) / 2
    left, top = (round(middle + size * rng.uniform(-recipe.shift, recipe.shift)) for _ in range(2))
    return side, left, top


def compose(sprite: Image.Image, rgb: tuple[int, int, int], size: int, side: int, left: int, top: int) -> Image.Image:
    """The sprite at one place over a flat colour (parts beyond the frame are cut)."""
    frame = Image.new("RGB", (size, size), rgb)
    scaled = sprite.resize((side, side), Image.Resampling.LANCZOS)
    frame.paste(scaled, (left, top), scaled)
    return frame


class Pictures:
    """Draws labelled training pictures of a world.

    Args:
        world: concepts, styles, backgrounds.
        sprites: RGBA pictures by (concept name, style).
        recipe: frame size, scale and shift.

    Raises:
        RequestError: a sprite of the world is missing.
    """

    def __init__(self, world: World, sprites: Sprites, recipe: Recipe) -> None:
        self.world, self.sprites, self.recipe = world, sprites, recipe
        counts = (len(world.concepts), len(world.styles), len(world.backgrounds))
        self.labels = tuple(Label(*indices) for indices in product(*(range(count) for count in counts)))
        wanted = product((item.name for item in world.concepts), world.styles)
        if missing := [f"{name} ({style})" for name, style in wanted if (name, style) not in sprites]:
            raise RequestError(f"{len(missing)} sprites of the world are missing: {', '.join(missing[:8])}")

    def draw(self, label: Label, rng: np.random.Generator) -> Image.Image:
        """One picture with a random placement."""
        world, size = self.world, self.recipe.size
        sprite = self.sprites[world.concepts[label.concept].name, world.styles[label.style]]
        rgb = world.background_rgb[world.backgrounds[label.background]]
        return compose(sprite, rgb, size, *placement(size, self.recipe, rng))

    def sample(self, count: int, rng: np.random.Generator) -> tuple[np.ndarray, list[Label]]:
        """Random pictures: bytes (count, 3, size, size) and their labels, uniform over all combinations."""
        labels = [self.labels[index] for index in rng.integers(len(self.labels), size=count)]
        return self.render(labels, rng), labels

    def render(self, labels: list[Label], rng: np.random.Generator) -> np.ndarray:
        """Pictures of given labels: bytes (labels, 3, size, size)."""
        return np.stack([np.asarray(self.draw(label, rng)).transpose(2, 0, 1) for label in labels])
