"""A style is erased together with what it leaves in the rows behind it."""

from __future__ import annotations

import dataclasses

import pytest
import torch

import erase_plugins as ep
from erase_plugins.engine.closed_form_options import ClosedFormOptions
from erase_plugins.engine.collect import encode_member, guide_of, phrase_count, styled_rows
from erase_plugins.types import Concept, EraseRequest


def recipe(fillers):
    return dataclasses.replace(ClosedFormOptions().recipe(), fillers=fillers)


def test_a_style_with_fillers_becomes_nothing():
    style = Concept("noto", kind="style")
    assert (guide_of(style), guide_of(style, 8)) == ("art", " ")
    assert guide_of(Concept("noto", kind="style", anchor="ink"), 8) == "ink"
    assert guide_of(Concept("dog"), 8) == " "


def test_rows_behind_the_style_are_paired_word_by_word(pocket_target):
    erased, becomes = styled_rows("noto", " ", 4, pocket_target)
    tokens = pocket_target.info.tokens
    assert erased.shape == becomes.shape == (4 * (tokens - 3), pocket_target.info.width)  # start, "a", style
    words = pocket_target.vocabulary()
    word = next(
        word for word in words
        if torch.allclose(pocket_target.encode([f"a {word}"]).embeds[0, 2:4].double() * (8 / 4) ** 0.5, becomes[:2], atol=1e-5)
    )  # fmt: skip
    assert torch.allclose(pocket_target.encode([f"a noto {word}"]).embeds[0, 3].double() * 2**0.5, erased[0], atol=1e-5)


def test_objects_take_no_fillers(pocket_target):
    plain = encode_member(["pizza"], " ", "object", recipe(0), pocket_target)
    same = encode_member(["pizza"], " ", "object", recipe(8), pocket_target)
    assert torch.equal(plain[0], same[0])
    assert len(encode_member(["noto"], " ", "style", recipe(8), pocket_target)[0]) > len(plain[0])
    request = EraseRequest("pocket", (Concept("noto", kind="style"),), "uce")
    assert phrase_count(request, recipe(8)) == phrase_count(request, recipe(0)) + 16


@pytest.mark.slow
def test_style_goes_and_the_rest_stays(pocket_pipe):
    """Without the style's name the model draws every style in about a third of the pictures: that is gone."""
    artifact = ep.erase(pocket_pipe, "noto", "uce", kind="style")
    report = ep.evaluate(pocket_pipe, artifact, images=8, steps=5)
    assert report.row("target_rate", "base").value > 0.75
    assert report.row("target_rate", "edited").value <= 0.5
    assert report.row("neighbour_rate", "edited").value >= 0.75
    assert report.row("kept_rate", "edited").value >= 0.9
