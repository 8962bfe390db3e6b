"""A world of three drawn shapes and a recipe small enough to train in seconds."""

from __future__ import annotations

import pytest
from PIL import Image, ImageDraw

from erase_plugins.pocket.world import World, WorldConcept
from tools.pocket.recipe import Recipe

SHAPES = ("disc", "box", "bar")


@pytest.fixture(scope="session")
def small_world() -> World:
    return World(
        concepts=tuple(WorldConcept(name, "shape", f"{index:x}", (f"{name}let",)) for index, name in enumerate(SHAPES)),
        styles=("light", "heavy"),
        backgrounds=("red", "white"),
        background_rgb={"red": (214, 64, 64), "white": (245, 245, 245)},
        style_synonyms={"light": ("pale",), "heavy": ()},
        background_synonyms={"red": ("crimson",), "white": ()},
    )


@pytest.fixture(scope="session")
def small_sprites(small_world: World) -> dict[tuple[str, str], Image.Image]:
    sprites = {}
    for style, colour in (("light", (120, 200, 255, 255)), ("heavy", (10, 20, 90, 255))):
        for name in SHAPES:
            sprite = Image.new("RGBA", (16, 16))
            pen = ImageDraw.Draw(sprite)
            if name == "disc":
                pen.ellipse((0, 0, 15, 15), fill=colour)
            elif name == "box":
                pen.rectangle((2, 2, 13, 13), fill=colour)
            else:
                pen.rectangle((0, 6, 15, 9), fill=colour)
            sprites[name, style] = sprite
    return sprites


@pytest.fixture(scope="session")
def small_recipe() -> Recipe:
    return Recipe(
        size=16,
        vae_channels=(8, 16), vae_groups=4, vae_steps=5, vae_batch=4, decoder_steps=3,
        unet_channels=(8, 16), unet_groups=4, heads=2, context=16, text_layers=1, tokens=16,
        denoiser_steps=5, denoiser_batch=4, refine_steps=3,
        judge_steps=5, judge_batch=8, copies=2, checkpoint_every=2,
        flow_width=16, flow_heads=2, flow_layers=2, flow_copies=1, flow_captions=2, flow_steps=5, flow_batch=4,
    )  # fmt: skip
