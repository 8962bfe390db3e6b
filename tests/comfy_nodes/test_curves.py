"""Curves over time and by layer, without ComfyUI."""

from __future__ import annotations

import copy

import pytest
import torch

from comfy_nodes.curves import (
    CurvedArtifact,
    Level,
    TimedPatch,
    TimedWrapper,
    apply_artifact,
    by_layer,
    factor_at,
    read_points,
)
from comfy_nodes.patches import ContextPatch
from comfy_nodes.target import ComfyTarget
from erase_plugins.artifacts.artifact import Artifact
from erase_plugins.artifacts.edit import ContextMap, LowRank
from erase_plugins.artifacts.manifest import Manifest
from erase_plugins.errors import ArtifactError, RequestError
from erase_plugins.runtime.context import ActiveMap
from tests.comfy_nodes.conftest import context_edit

POINTS = ((0.2, 0.0), (0.6, 1.0))
SIGMAS = [1e9, *[10.0 - index for index in range(1, 10)], 0.0]  # share 0.1 is sigma 9


def artifact(edit):
    return Artifact(Manifest(name="x", method={"id": "t"}, concepts=()), edit)


def test_a_curve_is_straight_between_its_points_and_level_outside():
    assert [round(factor_at(POINTS, share), 6) for share in (0, 0.2, 0.3, 0.4, 0.6, 1)] == [0, 0, 0.25, 0.5, 1, 1]
    assert read_points([("1", 0.5), ("0", 1.0)]) == ((0.0, 1.0), (1.0, 0.5))
    for wrong in ("1.5", "-1", "x"):
        with pytest.raises(RequestError, match="is no share of the sampling"):
            read_points([(wrong, 1.0)])


def test_sigmas_are_turned_into_shares_of_the_sampling():
    level = Level(POINTS, SIGMAS)
    assert [round(level.at(sigma), 6) for sigma in (14.6, 8.0, 7.0, 6.0, 4.0, 0.0)] == [0, 0, 0.25, 0.5, 1, 1]
    assert level(lambda *_, **__: "done", 1, {"sigmas": torch.tensor([6.0])}) == "done"
    assert level.value == pytest.approx(0.5)


def test_a_timed_patch_is_the_patch_by_its_factor():
    delta = context_edit(6).deltas["unet"]["context"]
    patch = ContextPatch((ActiveMap(delta, 1.0),))
    timed = TimedPatch(patch, Level(POINTS, SIGMAS))
    rows = torch.randn(2, 3, 6)
    off = timed(rows, rows, rows, {"sigmas": torch.tensor([9.0])})
    assert all(part is rows for part in off)
    half = timed(rows, rows, rows, {"sigmas": torch.tensor([6.0])})
    assert half[1] is half[2]
    assert torch.allclose(half[1], rows + 0.5 * (patch.mapped(rows) - rows), atol=1e-6)
    other = timed(rows, rows, rows + 1, {"sigmas": torch.tensor([4.0])})
    assert torch.allclose(other[2], patch.mapped(rows + 1), atol=1e-6)
    assert torch.allclose(timed.mapped(rows), patch.mapped(rows), atol=1e-6)
    assert copy.deepcopy(timed) is timed
    output = TimedPatch(lambda out, _extra: out + 2, Level(POINTS, SIGMAS))
    assert torch.allclose(output(rows, {"sigmas": torch.tensor([6.0])}), rows + 1, atol=1e-6)


def test_a_timed_wrapper_reads_the_level():
    level = Level(POINTS, SIGMAS)
    wrapper = TimedWrapper(LowRank(torch.ones(1, 3), torch.ones(2, 1)), 2.0, level)
    weight = torch.zeros(2, 3)
    assert wrapper(weight) is weight
    level.value = 0.5
    assert torch.equal(wrapper(weight), torch.ones(2, 3))


def test_factors_of_layers_become_part_of_the_change(fake_model):
    target = ComfyTarget(fake_model[0])
    refs = target.modules("cross_kv")
    first = ".".join(refs[0].path.split(".")[:2])
    made = by_layer(artifact(context_edit(target.info.width)), target, [(first, 0.5), (refs[0].path, 0.0)])
    delta = context_edit(target.info.width).deltas["unet"]["context"]
    assert isinstance(delta, ContextMap)
    for ref in refs:
        factor = 0.0 if ref is refs[0] else 0.5 if ref.path.startswith(f"{first}.") else 1.0
        wanted = factor * target.weight(ref) @ (delta.B @ delta.A)
        assert torch.allclose(made.edit.deltas["unet"][ref.weight].dense(), wanted, atol=1e-5)
    assert {0.5, 1.0} <= {0.5 if ref.path.startswith(f"{first}.") else 1.0 for ref in refs[1:]}
    with pytest.raises(RequestError, match="'up_block' is no layer that 'x' changes; it changes "):
        by_layer(artifact(context_edit(target.info.width)), target, [("up_block", 1.0)])


def test_strength_0_and_a_curve_of_zeros_give_the_very_same_model(fake_model):
    target = ComfyTarget(fake_model[0])
    plain = artifact(context_edit(target.info.width))
    curved = CurvedArtifact(plain.manifest, plain.edit, None, POINTS)
    assert apply_artifact(target, curved, 0.0).model is target.model
    off = CurvedArtifact(plain.manifest, plain.edit, None, ((0.0, 0.0),))
    assert apply_artifact(target, off, 1.0).model is target.model
    with pytest.raises(ArtifactError, match="no file can carry; save what goes into the strength node"):
        curved.save("x")
