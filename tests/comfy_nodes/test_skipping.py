"""Clip skip, a strength of its own for the text encoder, pictures that are not square, and guards, in a real ComfyUI."""

from __future__ import annotations

import math

import pytest

import erase_plugins as ep
from erase_plugins.artifacts.edit import Edit
from tests.layouts.making import artifact_of, random_edit

pytestmark = [pytest.mark.comfy, pytest.mark.slow]


@pytest.fixture(scope="module")
def numbers(in_comfy, pocket_target, tmp_path_factory):
    """What skipping.py measured."""
    work = tmp_path_factory.mktemp("skipping")
    edit = random_edit(pocket_target, ("denoiser", "text"))
    artifact_of(pocket_target, edit, "both").save(work / "models" / "erase_plugins" / "both", ("patch",))
    for name, component in (("unet", "unet"), ("text", "text_encoder")):
        half = Edit(edit.family, {component: edit.deltas[component]})
        artifact_of(pocket_target, half, name).save(work / "halves" / name, ("patch",))
    for name in ("keyword", "embedding"):
        ep.erase(pocket_target, "pizza", f"{name}-guard", out=work / "models" / "erase_plugins" / f"{name}-guard")
    return in_comfy("skipping.py", str(work), env={"ERASE_PLUGINS_CACHE": "0"})


def test_rows_behind_clip_skip_are_those_of_the_layer_before_the_last(numbers):
    found = numbers["clip skip"]
    assert found["difference"] > 0.1
    assert found["rows"] < 5e-6
    assert found["plain rows"] < 5e-6
    assert found["rows after"] < 5e-6


def test_training_passes_follow_clip_skip(numbers):
    found = numbers["clip skip"]
    assert [found[name] < 5e-6 for name in ("live", "plain live", "live again")] == [True] * 3


def test_clip_skip_takes_part_in_the_solution_and_is_told(numbers):
    found = numbers["clip skip"]
    assert found["map"] < 1e-5
    assert found["map of the whole encoder"] > 0.1
    assert ["clip skip: layer -2" in report for report in found["reports"]] == [False, True]
    assert found["told to the stack"] == [True, False]


def test_runs_behind_clip_skip_have_a_name_of_their_own(numbers):
    assert numbers["clip skip"]["own name"] == [True, True]


@pytest.mark.parametrize("pair", ["0.6 0.2", "0.2 0.6", "0.6 0.0", "0.0 0.6"])
def test_denoiser_and_text_encoder_have_their_own_strengths(numbers, pair):
    found = numbers["strengths"][pair]
    unet, text = (float(value) for value in pair.split())
    assert found["output"] < 5e-6
    assert found["rows"] < 5e-6
    for name, strength in (("model moved", unet), ("clip moved", text)):
        assert (found[name] > 0.01) if strength else (found[name] == 0)


def test_sdxl_is_told_height_before_width(numbers):
    """(height, width, 0, 0, height, width) in pixels, 8 for a latent; the first cosine of each has frequency 1."""
    wanted = [math.cos(size) for size in (32, 96, 0, 0, 32, 96)]
    assert numbers["sizes"] == pytest.approx(wanted, abs=1e-4)


@pytest.mark.parametrize("name", ["keyword", "embedding"])
def test_guards_from_the_load_node_stand_in_front_of_stock_nodes(numbers, name):
    found = numbers["guards"][name]
    assert len(found["said"]) == 2  # also where a stock node made a clone behind it
    assert all(text.startswith("Blocked: ") and "pizza" in text for text in found["said"])
    assert found["same rows"]
    assert found["same model"]
    assert "negative prompts the CLIP in front of it" in found["report"]
    assert "patched" not in found["report"]
    assert "erases: pizza" in found["report"]
    assert "patched" in found["erased"]  # a node of ours behind it may still be asked to erase the concept
