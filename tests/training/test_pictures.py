"""Pictures become latents; unusable files are refused by name."""

from __future__ import annotations

import pytest
import torch
from PIL import Image

from erase_plugins.engine.context import RunContext
from erase_plugins.errors import RequestError
from erase_plugins.training.image_pool import check_pictures, drawn_latents, read_pictures
from erase_plugins.workflow.models import target_of


def picture(path, size=(80, 64), colour=(255, 0, 0)):
    made = Image.new("RGB", size, (0, 0, 0))
    made.paste(colour, (0, 0, size[0] // 2, size[1]))
    made.save(path)
    return str(path)


def test_files_are_read_resized_and_mirrored_by_a_coin(tmp_path):
    name = picture(tmp_path / "a.png")
    seen = {
        bool(read_pictures([name], (16, 16), torch.Generator().manual_seed(seed))[0, 0, 8, 2] > 0) for seed in range(8)
    }
    assert seen == {True, False}
    pixels = read_pictures([name, name], (16, 8), torch.Generator().manual_seed(0))
    assert pixels.shape == (2, 3, 16, 8)
    assert float(pixels.min()) == -1
    assert float(pixels.max()) == 1


def test_unusable_files_are_named(tmp_path):
    (tmp_path / "text.png").write_text("no picture")
    small = picture(tmp_path / "small.png", (80, 20))
    for files, words in (
        ([str(tmp_path / "none.png")], "no file 'none.png'"),
        ([str(tmp_path / "text.png")], "'text.png' cannot be read"),
        ([small], "80 x 20 pixels"),
        ([small] * 65, "at most 64"),
    ):
        with pytest.raises(RequestError, match=words):
            check_pictures(files, "pictures")


def test_too_many_pixels_are_told_as_everywhere(tmp_path, monkeypatch):
    large = picture(tmp_path / "large.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    said = "'large.png' has more pixels than can be opened safely; make it smaller$"
    with pytest.raises(RequestError, match=f"^pictures: {said}"):
        check_pictures([large], "pictures")


def test_latents_of_a_pocket_picture_decode_to_it(pocket_target):
    """Encoding and the scale fit what the decoder expects."""
    pipe = pocket_target.pipe
    drawn = drawn_latents(pocket_target, ["a pizza"], 6, 4.0, "ddim", RunContext("t"), "x", lambda: None)
    scale = pipe.vae.config.scaling_factor
    with torch.no_grad():
        pixels = pipe.vae.decode(drawn / scale, return_dict=False)[0].clamp(-1, 1)
        again = pocket_target.latents(pixels, torch.Generator().manual_seed(0))
        back = pipe.vae.decode(again / scale, return_dict=False)[0].clamp(-1, 1)
    assert again.shape == drawn.shape
    assert float((back - pixels).abs().mean()) < 0.15
    assert pocket_target.picture_size() == (64, 64)


def test_drawing_ends_where_the_sampler_ends(tiny_sdxl):
    target = target_of(tiny_sdxl(), "tiny")
    ctx, seen = RunContext("t"), []
    x = drawn_latents(target, ["a", "b"], 3, 2.0, "euler", ctx, "x", lambda: seen.append(1))
    assert x.shape == (2, *target.info.latent_shape)
    assert len(seen) == 3
    assert ctx.numbers["unet_forwards"] == 12


def test_pictures_are_encoded_one_by_one(pocket_target, monkeypatch):
    """Sixty-four pictures of a large model at once would take more than any graphics card has."""
    sizes, encode = [], pocket_target.pipe.vae.encode
    monkeypatch.setattr(pocket_target.pipe.vae, "encode", lambda x: sizes.append(len(x)) or encode(x))
    pixels = torch.rand(3, 3, *pocket_target.picture_size())
    found = pocket_target.latents(pixels, torch.Generator().manual_seed(0))
    assert sizes == [1, 1, 1]
    assert found.shape == (3, *pocket_target.info.latent_shape)
