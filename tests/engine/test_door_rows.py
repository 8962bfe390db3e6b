"""Closed form through the doors of flow transformers: what the edit is, what it holds, what it takes at real size."""

from __future__ import annotations

import time

import pytest
import torch

import erase_plugins
from erase_plugins.artifacts.closed_form import solve_factors, solve_in_span
from erase_plugins.artifacts.statistics import Member, Statistics
from erase_plugins.artifacts.store import lower_for
from erase_plugins.engine.door_rows import condensed, paired_parts
from erase_plugins.engine.solve import joint_edit
from erase_plugins.families.flow import POOLED, TOKENS
from erase_plugins.testing.models import shared_pipeline
from erase_plugins.training.embedding_map import mapped
from erase_plugins.workflow.artifacts import load_artifact
from erase_plugins.workflow.models import target_of

MODELS = ("tiny_sd3", "tiny_flux")


def erased(model, **options):
    return erase_plugins.erase(
        shared_pipeline(model), "pizza", "uce", to="a house", keep=["hamburger"], options=options
    )


@pytest.mark.parametrize("model", MODELS)
def test_the_edited_weights_are_the_original_ones_on_mapped_rows(model):
    pipe = shared_pipeline(model)
    target = target_of(pipe)
    edit = erased(model).edit
    weights = {key: delta for _, key, delta in lower_for(edit, target).items()}
    assert set(weights) == {f"{TOKENS}.weight", f"{POOLED}.weight"}  # two weights change and no bias
    ((_, _, change),) = list(edit.items())
    cond = target.encode(["a pizza on a table"])
    moved = mapped(cond, change)
    for name, rows, other in ((TOKENS, cond.embeds, moved.embeds), (POOLED, cond.pooled, moved.pooled)):
        layer = pipe.transformer.get_submodule(name).weight.double()
        delta = weights[f"{name}.weight"]
        edited = layer + delta.B.double() @ delta.A.double()
        torch.testing.assert_close(rows.double() @ edited.T, other.double() @ layer.T, rtol=0, atol=1e-5)
        assert float((rows - other).abs().max()) > 1e-3


@pytest.mark.parametrize("model", MODELS)
def test_rows_of_the_concept_come_out_as_those_of_the_guide(model):
    """With little held, the edited layers answer the concept's rows, pads and pooled row as those of the guide."""
    target = target_of(shared_pipeline(model))
    found, guide = target.rows(["pizza"]), target.rows(["a house"])
    C, S = paired_parts(found, guide, 0, 0, "window")
    ((_, _, change),) = list(erased(model, lam=1e-4, keep_scale=1e-6).edit.items())
    after = C + C @ change.A.double().T @ change.B.double().T
    assert float((after - S).norm() / (C - S).norm()) < 0.1
    assert float((after - S)[0].norm() / (C - S)[0].norm()) < 0.1  # the pooled row by itself


def test_clip_rows_alone_would_move_t5_rows():
    """Both kinds of rows go through one layer: what is kept of T5 holds it (SD3)."""
    target = target_of(shared_pipeline("tiny_sd3"))
    found, guide = target.rows(["pizza", "hamburger"]), target.rows(["a house"])
    first, t5 = found.parts[0], found.parts[1]
    C, S = paired_parts(found[[0]], guide, 0, 0, "all")
    clip = slice(1, 1 + first.stop - first.start)
    rows = found.embeds[1, t5.start : t5.stop].double()
    weights, moved = torch.ones(clip.stop - clip.start), []
    for kept in (torch.zeros(1, C.shape[1]), rows):
        A, B = solve_in_span(C[clip], S[clip], weights, kept, torch.full((len(kept),), 1e4), 0.5)
        moved.append(float((rows @ A.T @ B.T).norm()))
    assert moved[0] > 100 * moved[1]


def test_few_rows_have_the_sums_of_all():
    draw = torch.Generator().manual_seed(0)
    low = torch.randn(5, 40, generator=draw).double()
    rows = torch.randn(300, 5, generator=draw).double() @ low
    other = rows @ torch.randn(40, 40, generator=draw).double() * 0.1
    few, becomes = condensed(rows, other)
    assert len(few) == 5
    torch.testing.assert_close(few.T @ few, rows.T @ rows)
    torch.testing.assert_close(becomes.T @ few, other.T @ rows)


@pytest.mark.parametrize("width", [60, 10])
def test_the_small_system_gives_the_large_one(width):
    """Of 18 rows, wider and narrower."""
    draw = torch.Generator().manual_seed(0)
    C, S, P = (torch.randn(count, width, generator=draw).double() for count in (6, 6, 12))
    e, p = torch.linspace(0.5, 2, 6).double(), torch.linspace(0.1, 3, 12).double()
    A, B = solve_factors(C, S, e, P.T @ (p[:, None] * P), 0.3)
    few, wide = solve_in_span(C, S, e, P, p, 0.3)
    assert len(few) == 6
    assert float((wide @ few - B @ A).abs().max()) < 1e-10


def test_flux_at_its_real_widths_is_small_and_quick(tmp_path):
    """One concept as FLUX dev gives it: 19 rows of 4096 + 768; the file is below 2 MB, the plan below 2 GB besides the model."""
    from safetensors import safe_open

    from erase_plugins.artifacts.layouts.diffusers import DiffusersLayout
    from erase_plugins.artifacts.lowrank import lower
    from erase_plugins.types import Concept, EraseRequest
    from erase_plugins.workflow.run import make_plan
    from tests.families.test_flow import published

    info = published("flux")
    plan = make_plan(EraseRequest("flux", (Concept("van gogh", "style"),), "uce", preserve=("a cat",)), info)
    assert plan.memory_bytes < 2e9  # T5-XXL, 9.5e9 in bfloat16, belongs to the model
    assert plan.file_bytes < 2e6
    draw = torch.Generator().manual_seed(0)
    width = info.width
    assert width == 4096 + 768
    rows, guides, keep = (torch.zeros(count, width) for count in (19, 19, 17))
    for block in (rows, guides, keep):
        block[1:, :4096] = torch.randn(len(block) - 1, 4096, generator=draw)
        block[0, 4096:] = torch.randn(768, generator=draw)
    statistics = Statistics(width, {"x": Member("x", rows, guides, 1.0)}, {"": keep}, 0.1, {"lam": 0.5})
    started = time.process_time()
    edit = joint_edit(statistics, info.family)
    assert time.process_time() - started < 5
    doors = {ref.weight: ref for ref in info.readers()}
    made = lower(
        edit, {"transformer": list(doors)}, lambda _c, name: torch.randn(doors[name].shape, generator=draw),
        lambda _c, name: info.family.columns(info, doors[name]),
    )  # fmt: skip
    DiffusersLayout().write(made, info.family, {}, tmp_path / "lora.safetensors")
    assert (tmp_path / "lora.safetensors").stat().st_size < 2_000_000
    with safe_open(tmp_path / "lora.safetensors", "pt") as file:
        shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    assert shapes[f"transformer.{TOKENS}.lora_A.weight"] == (18, 4096)
    assert shapes[f"transformer.{POOLED}.lora_B.weight"] == (3072, 18)  # padded: one rank in a file


@pytest.mark.parametrize("model", MODELS)
def test_merge_and_revoke_as_on_unets(model, tmp_path):
    pipe = shared_pipeline(model)
    paths = []
    for concept in ("pizza", "dog"):
        paths.append(str(tmp_path / concept))
        erase_plugins.erase(pipe, concept, "uce", to="a house", out=paths[-1])
    both = erase_plugins.erase(pipe, ["pizza", "dog"], "uce", to="a house")
    merged = erase_plugins.merge(paths)
    ((_, _, one),), ((_, _, other),) = list(merged.edit.items()), list(both.edit.items())
    assert torch.equal(one.A, other.A)
    assert torch.equal(one.B, other.B)
    alone = erase_plugins.revoke(merged, ["dog"], forget=True)
    ((_, _, one),), ((_, _, other),) = list(alone.edit.items()), list(load_artifact(tmp_path / "pizza").edit.items())
    assert torch.equal(one.A, other.A)
    assert torch.equal(one.B, other.B)
