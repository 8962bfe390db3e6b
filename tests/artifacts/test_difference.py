"""In what two edits differ, on edits written by hand."""

from __future__ import annotations

import pytest
import torch

from erase_plugins.artifacts.difference import difference
from erase_plugins.artifacts.edit import AddOn, Dense, Edit, LowRank

A, B = torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0], [1.0]])


def edit(delta, key="one"):
    return Edit("sd1", {"unet": {key: delta}})


def addon(kind="bottleneck", **config):
    return AddOn(kind, {"down": A, "up": B}, config)


@pytest.mark.parametrize(
    ("first", "second", "told"),
    [
        (edit(LowRank(A, B)), edit(LowRank(A.clone(), B.clone())), ""),
        (edit(LowRank(A, B)), edit(LowRank(A, B), "two"), "unet one is changed by one of them only"),
        (edit(LowRank(A, B)), edit(Dense(B @ A)), "unet one is dense in place of lowrank"),
        (edit(LowRank(A, B)), edit(LowRank(A, B.nextafter(B + 1))), "unet one: B differs"),
        (edit(LowRank(A, B)), edit(LowRank(A.half(), B)), "unet one: A differs"),
        (edit(Dense(A)), edit(Dense(A.flatten())), "unet one: dW differs"),
        (edit(addon(sides=(0, 1))), edit(addon(sides=[0, 1])), ""),
        (edit(addon(activation="relu")), edit(addon(activation="tanh")), "unet one: the settings differ"),
        (edit(addon()), edit(addon("gate")), "unet one: the settings differ"),
    ],
    ids=["none", "key", "kind", "bit", "type", "shape", "read-from-json", "settings", "module"],
)
def test_the_first_difference_is_told(first, second, told):
    assert difference(first, second) == told


def test_strength_may_be_left_out():
    weak, strong = edit(addon(strength=0.5)), edit(addon(strength=1.0))
    assert difference(weak, strong) == "unet one: the settings differ"
    assert difference(weak, strong, strength=False) == ""
