"""Erasers in the official files: the same add-ons as ours, tensors only, refused where they do not fit."""

from __future__ import annotations

import json
import sys

import pytest
import torch

from erase_plugins.artifacts import eraser_folder
from erase_plugins.artifacts.difference import difference
from erase_plugins.artifacts.edit import AddOn, Edit
from erase_plugins.artifacts.eraser_folder import CONFIG, WEIGHTS, read_eraser_folder
from erase_plugins.cli.inspect import look
from erase_plugins.engine.attention import attention_refs
from erase_plugins.errors import BaseMismatch, CorruptArtifact, Unsupported
from erase_plugins.workflow.artifacts import load_artifact
from erase_plugins.workflow.convert import convert
from erase_plugins.workflow.models import target_of

FIELDS = {"down": "down.weight", "bias": "down.bias", "up": "up.weight", "up_bias": "up.bias"}


@pytest.fixture
def target(tiny_sd1):
    return target_of(tiny_sd1(), "tiny")


def native(target, rank=3):
    """Erasers as our own method makes them."""
    draw, group = torch.Generator().manual_seed(0), {}
    for ref in attention_refs(target.info):
        dim = ref.shape[0]
        shapes = {"down": (rank, dim), "bias": (rank,), "up": (dim, rank), "up_bias": (dim,)}
        weights = {name: 0.3 * torch.randn(shape, generator=draw) for name, shape in shapes.items()}
        group[ref.path] = AddOn("bottleneck", weights, {"activation": "gelu"})
    return Edit("sd1", {"unet": group})


def table(edit):
    """The same erasers under the official names."""
    return {key.removesuffix(".transformer_blocks.0.attn2"):
            {FIELDS[name]: part for name, part in addon.weights.items()} for _, key, addon in edit.items()}  # fmt: skip


def official(folder, content, rank=3, kind="adapter"):
    folder.mkdir()
    torch.save(content, folder / WEIGHTS)
    (folder / CONFIG).write_text(json.dumps({"eraser_type": kind, "eraser_rank": rank}))
    return folder


def test_the_official_files_become_the_same_add_ons(target, tmp_path):
    edit = native(target)
    made = convert(official(tmp_path / "eraser", table(edit)), "patch", out=tmp_path / "out", base=target)
    assert not difference(made.edit, edit)
    loaded = load_artifact(tmp_path / "out")
    x, cond = torch.randn((1, 4, 8, 8), generator=torch.Generator().manual_seed(1)), target.encode(["a pizza"])
    with torch.no_grad():
        base = target.predict(x, 500, cond)
        with loaded.apply(target.pipe):
            found = target.predict(x, 500, cond)
        hooks = []
        for ref in attention_refs(target.info):  # the official formula: out + up(gelu(down(out)))
            state = table(edit)[ref.path.removesuffix(".transformer_blocks.0.attn2")]

            def after(_module, _args, out, state=state):
                inner = torch.nn.functional.linear(out, state["down.weight"], state["down.bias"])
                inner = torch.nn.functional.gelu(inner)
                return out + torch.nn.functional.linear(inner, state["up.weight"], state["up.bias"])

            hooks.append(target.module(ref).register_forward_hook(after))
        wanted = target.predict(x, 500, cond)
        for hook in hooks:
            hook.remove()
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6)
    assert float((found - base).abs().max()) > 1e-3


def test_inspecting_opens_no_weights(target, tmp_path):
    folder = official(tmp_path / "eraser", table(native(target)))
    (folder / WEIGHTS).write_bytes(b"not opened")
    facts = look(folder)
    assert (facts["kind"], facts["rank"], facts["convertible"]) == ("erasers", 3, True)


class Evil:
    def __reduce__(self):
        return (sys.exit, ("a pickle was executed",))


@pytest.mark.parametrize("content", [Evil(), {"mid_block.attentions.0": Evil()}, [1, 2], {}, {"mid_block": {}}])
def test_whatever_is_no_table_of_tensors_is_refused(content, tmp_path):
    with pytest.raises(CorruptArtifact, match=WEIGHTS):
        read_eraser_folder(official(tmp_path / "eraser", content))


def test_damaged_files_are_refused(target, tmp_path):
    folder = official(tmp_path / "eraser", table(native(target)))
    (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:200])
    with pytest.raises(CorruptArtifact, match="damaged"):
        read_eraser_folder(folder)
    (folder / CONFIG).write_text("[]")
    with pytest.raises(CorruptArtifact, match=CONFIG):
        read_eraser_folder(folder)


def test_wrong_ranks_names_values_types_and_families_are_named(target, tmp_path):
    good = table(native(target))
    first = sorted(good)[0]
    nan = {**good, first: {**good[first], "up.bias": good[first]["up.bias"] * float("nan")}}
    lacks = {**good, first: {name: part for name, part in good[first].items() if name != "up.bias"}}
    for number, (content, words) in enumerate(((nan, "finite"), (lacks, "needs down.weight"))):
        with pytest.raises(CorruptArtifact, match=words):
            read_eraser_folder(official(tmp_path / f"bad {number}", content))
    with pytest.raises(CorruptArtifact, match="eraser_rank 4 asks for"):
        read_eraser_folder(official(tmp_path / "rank", good, rank=4))
    with pytest.raises(Unsupported, match="only adapter"):
        read_eraser_folder(official(tmp_path / "type", good, kind="moe"))
    with pytest.raises(Unsupported, match="block number"):
        read_eraser_folder(official(tmp_path / "deep", good), "sdxl")


def test_layers_that_do_not_match_the_base_are_listed(target, tmp_path, tiny_sdxl):
    good = table(native(target))
    first = sorted(good)[0]
    moved = {("up_blocks.9.attentions.0" if place == first else place): state for place, state in good.items()}
    with pytest.raises(BaseMismatch, match=rf"without an eraser are {first}.*without a layer are up_blocks\.9"):
        convert(official(tmp_path / "moved", moved), "patch", out=tmp_path / "x", base=target)
    with pytest.raises(Unsupported, match="sdxl"):
        convert(official(tmp_path / "ok", good), "patch", out=tmp_path / "x", base=target_of(tiny_sdxl(), "t"))
    assert not (tmp_path / "x").exists()


def test_an_old_torch_is_not_trusted_with_it(target, tmp_path, monkeypatch):
    folder = official(tmp_path / "eraser", table(native(target)))
    monkeypatch.setattr(eraser_folder, "_SOUND_TORCH", (99, 0))
    with pytest.raises(Unsupported, match=r"torch 2\.6 or newer"):
        read_eraser_folder(folder)
