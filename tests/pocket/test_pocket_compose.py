"""Picture geometry: size and place of the sprite, the flat background, cut edges."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from erase_plugins.errors import RequestError
from tools.pocket.compose import Label, Pictures, compose, placement
from tools.pocket.recipe import Recipe


def test_placement_stays_in_the_recipe():
    recipe, rng = Recipe(), np.random.default_rng(0)
    places = np.array([placement(64, recipe, rng) for _ in range(4000)])
    side = places[:, 0]
    assert side.min() == 51
    assert side.max() == 58  # 0.80 and 0.90 of 64, rounded
    centre = places[:, 1:] + side[:, None] / 2 - 32
    assert abs(centre).max() <= 0.06 * 64 + 0.5
    assert abs(centre).max() > 0.05 * 64
    assert abs(centre.mean(0)).max() < 0.15


def test_compose_puts_the_sprite_where_asked():
    sprite = Image.new("RGBA", (64, 64), (0, 0, 255, 255))
    pixels = np.asarray(compose(sprite, (214, 64, 64), 64, side=20, left=10, top=30)).astype(int)
    inside = np.zeros((64, 64), bool)
    inside[30:50, 10:30] = True
    assert (pixels[inside] == (0, 0, 255)).all()
    assert (pixels[~inside] == (214, 64, 64)).all()


def test_compose_cuts_at_the_frame_and_blends_transparency():
    half = Image.new("RGBA", (64, 64), (255, 255, 255, 128))
    pixels = np.asarray(compose(half, (0, 0, 0), 64, side=32, left=-16, top=-16)).astype(int)
    assert abs(pixels[0, 0] - 128).max() <= 1
    assert pixels[16, 16].max() == 0
    assert (pixels[:16, :16] > 0).all()


def test_render_follows_labels(small_world, small_sprites, small_recipe):
    pictures = Pictures(small_world, small_sprites, small_recipe)
    assert len(pictures.labels) == 3 * 2 * 2
    pixels = pictures.render([Label(1, 1, 0)], np.random.default_rng(0))
    assert pixels.shape == (1, 3, 16, 16)
    assert pixels.dtype == np.uint8
    assert tuple(pixels[0, :, 0, 0]) == (214, 64, 64)
    assert tuple(pixels[0, :, 8, 8]) == (10, 20, 90)


def test_sampling_is_seeded_and_uniform(small_world, small_sprites, small_recipe):
    pictures = Pictures(small_world, small_sprites, small_recipe)
    first, labels = pictures.sample(600, np.random.default_rng(3))
    again, same = pictures.sample(600, np.random.default_rng(3))
    assert (first == again).all()
    assert labels == same
    counts = [labels.count(label) for label in pictures.labels]
    assert min(counts) > 25
    assert max(counts) < 80


def test_missing_sprites_are_named(small_world, small_sprites, small_recipe):
    fewer = {key: value for key, value in small_sprites.items() if key != ("box", "heavy")}
    with pytest.raises(RequestError, match=r"1 sprites .* box \(heavy\)"):
        Pictures(small_world, fewer, small_recipe)
