"""CLIP score and LPIPS against torchmetrics called by hand and against the models' own passes."""

from __future__ import annotations

import pytest
import torch

from erase_plugins.errors import RequestError
from erase_plugins.evaluation.standard.encoders import Clip, Inception, Lpips

from .conftest import pictures

pytest.importorskip("torchmetrics")

TEXTS = ["a pizza", "an owl on a red background", "a noto dog"]


@pytest.fixture(scope="module")
def clip(clip_folder):
    return Clip(str(clip_folder), "cpu")


def test_clip_score_is_a_hundred_times_the_cosine_of_transformers_own_pass(clip, clip_folder):
    from transformers import CLIPImageProcessor, CLIPModel, CLIPTokenizer

    shown = pictures(3)
    given = CLIPTokenizer.from_pretrained(clip_folder)(TEXTS, padding=True, return_tensors="pt")
    bytes_ = list((shown * 255).round().to(torch.uint8))
    pixels = CLIPImageProcessor.from_pretrained(clip_folder)(images=bytes_, return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        out = CLIPModel.from_pretrained(clip_folder)(**given, pixel_values=pixels)
    cosines = (out.image_embeds * out.text_embeds).sum(-1)
    assert cosines.min() < 0 < cosines.max() or cosines.abs().min() > 0.01
    assert clip.scores(shown, TEXTS) == pytest.approx([max(100 * float(item), 0.0) for item in cosines], abs=1e-3)
    found = clip.features(shown)
    assert torch.allclose(found / found.norm(dim=-1, keepdim=True), out.image_embeds, atol=1e-5)


def test_clip_score_does_not_depend_on_the_order(clip):
    shown = pictures(3)
    back = clip.scores(shown.flip(0), TEXTS[::-1])[::-1]
    assert clip.scores(shown, TEXTS) == pytest.approx(back, abs=1e-4)


def test_pictures_are_rounded_to_bytes_not_cut(clip):
    """0.999 of 255 is 254.7: what a file would hold is 255."""
    assert torch.equal(clip.features(torch.full((1, 3, 64, 64), 0.999)), clip.features(torch.ones(1, 3, 64, 64)))


def test_lpips_is_that_of_torchmetrics(networks):
    from torchmetrics.functional.image import learned_perceptual_image_patch_similarity as by_hand

    first, second = pictures(2), pictures(2, seed=1)
    lpips = Lpips("squeeze", "cpu")
    wanted = [float(by_hand(2 * a[None] - 1, 2 * b[None] - 1, "squeeze")) for a, b in zip(first, second, strict=True)]
    found = lpips.distances(first, second)
    assert found == pytest.approx(wanted, abs=1e-5)
    assert min(found) > 0
    assert lpips.distances(first, first) == [0.0, 0.0]
    assert lpips.distances(second, first) == pytest.approx(found, abs=1e-6)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Lpips("alex", "cpu"), r"^LPIPS \(alex\) cannot be opened .*leave lpips out"),
        (lambda: Inception("cpu"), "^Inception cannot be opened .*features=clip.*leave fid and kid out"),
        (lambda: Clip("openai/clip-vit-nowhere", "cpu"), "^the CLIP model .clip-vit-nowhere. .*clip and cmmd out"),
    ],
)
def test_weights_that_are_not_there_are_one_line(offline, make, said):
    with pytest.raises(RequestError, match=said) as caught:
        make()
    assert "\n" not in str(caught.value)
