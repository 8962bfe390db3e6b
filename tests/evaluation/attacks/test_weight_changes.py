"""What the attack on weights does to them: values by hand, and what is in force while pictures are drawn."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import erase_plugins as ep
from erase_plugins.artifacts.artifact import Artifact
from erase_plugins.artifacts.edit import Edit, LowRank
from erase_plugins.errors import ArtifactError, BaseMismatch, CorruptArtifact, RequestError, Unsupported
from erase_plugins.evaluation.attack import run_attack
from erase_plugins.evaluation.attacks import weight_changes, weights
from erase_plugins.evaluation.attacks.weight_changes import Edited, quantised
from erase_plugins.evaluation.run import Subject
from erase_plugins.testing.models import changed_since, fresh_pipeline
from erase_plugins.testing.observe import snapshot
from erase_plugins.workflow.measure import open_subject
from tests.evaluation.attacks.fakes import budget_of


def test_quantised_values():
    weight = torch.tensor([[7.0, -7.0, 0.4, 3.6]])
    assert torch.equal(quantised(weight, 4), torch.tensor([[7.0, -7.0, 0.0, 4.0]]))  # scale 1: whole numbers
    assert torch.equal(quantised(torch.zeros(3), 8), torch.zeros(3))
    blocks = torch.cat([torch.full((64,), 100.0), torch.full((64,), 0.01)])
    assert torch.allclose(quantised(blocks, 4), blocks, rtol=1e-6), "a small block beside a large one is not lost"
    wide = torch.linspace(-1, 1, 100)
    for bits, levels in ((4, 7), (8, 127)):
        assert (quantised(wide, bits) - wide).abs().max() <= 0.5 / levels + 1e-6
    assert quantised(wide.half(), 8).dtype == torch.float16


def edited_of(*tensors):
    return [Edited(torch.nn.Module(), f"{n}.weight", torch.nn.Parameter(item), item) for n, item in enumerate(tensors)]


def test_halves_are_complementary():
    edited = edited_of(*(torch.tensor([float(number)]) for number in range(5)))
    first, second = (weight_changes.changed(name, edited, 0) for name in ("one half off", "other half off"))
    assert (len(first), len(second)) == (2, 3)
    assert sorted(float(value) for _, value in (*first, *second)) == [0, 1, 2, 3, 4]
    assert weight_changes.changed("one half off", edited[:1], 0) == []


@pytest.mark.parametrize(
    ("weight", "percent", "left"),
    [
        ([4, -1, 3, -2], 50, [4, 0, 3, 0]),
        ([[4, -1], [3, -2]], 50, [[4, 0], [3, 0]]),
        ([4, -1, 3, -2], 30, [4, 0, 3, -2]),  # 1.2 of 4 values
        ([2, -2, 2, -2, 2, 1], 50, [0, 0, 2, -2, 2, 0]),  # of equal ones the first
        ([0, 0, 0, 5], 50, [0, 0, 0, 5]),  # what is 0 already counts
        ([1, 2, 3], 30, [1, 2, 3]),
    ],
)
def test_pruned_values(weight, percent, left):
    given = torch.tensor(weight, dtype=torch.float16)
    found = weight_changes.pruned(given, percent)
    assert found.dtype == torch.float16 and torch.equal(found, torch.tensor(left, dtype=torch.float16))
    assert torch.equal(given, torch.tensor(weight, dtype=torch.float16))


@pytest.mark.parametrize("percent", [30, 50])
def test_pruned_share_is_exact(percent):
    for size in (1, 3, 7, 999, 1000):
        for whole in (torch.randn(size), torch.ones(size)):
            assert int((weight_changes.pruned(whole, percent) == 0).sum()) == size * percent // 100


def test_pruning_leaves_biases_and_norms_alone():
    matrix, vector = torch.tensor([[4.0, -1.0], [3.0, -2.0]]), torch.tensor([4.0, -1.0])
    ((item, found),) = weight_changes.changed("pruned 50%", edited_of(matrix, vector), 0)
    assert item.key == "0.weight" and torch.equal(found, torch.tensor([[4.0, 0.0], [3.0, 0.0]]))
    assert weight_changes.changed("pruned 50%", edited_of(vector), 0) == []


# ---- in force ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def artifact(pocket_target):
    return ep.erase(pocket_target, "owl", "uce")


@pytest.fixture
def subject(pocket_pipe, artifact):
    before = snapshot(pocket_pipe)
    yield open_subject(pocket_pipe, [artifact], weights.WeightsAttack(), steps=1)
    assert changed_since(pocket_pipe, before) == ""


def variant(name):
    return next(item for item in weights.VARIANTS if item.name == name)


def held_while_drawn(subject, monkeypatch, name, lora=None):
    """The weights of the denoiser while the pictures of a variant are drawn."""
    held = {}

    def look(self, prompts, seeds):
        held.update({key: item.data.clone() for key, item in self.target.live("unet").items()})
        raise KeyboardInterrupt

    monkeypatch.setattr(Subject, "draw", look)
    with pytest.raises(KeyboardInterrupt):
        weights._draw(subject, {"target_rate": []}, variant(name), lora)
    return held


def plain(subject):
    """The same with the edit alone."""
    with subject.edited():
        return {key: item.data.clone() for key, item in subject.target.live("unet").items()}


def test_pruned_while_drawn_and_back_after_an_interruption(subject, monkeypatch):
    base = {key: item.data.clone() for key, item in subject.target.live("unet").items()}
    edited = plain(subject)
    held = held_while_drawn(subject, monkeypatch, "pruned 50%")
    touched = {key for key in base if not torch.equal(base[key], edited[key])}
    assert touched and touched == {key for key in base if not torch.equal(edited[key], held[key])}
    for key in touched:
        assert torch.equal(held[key], weight_changes.pruned(edited[key], 50))
        assert int((held[key] == 0).sum()) == held[key].numel() // 2


def test_merged_weight_is_the_edited_one_and_the_lora(subject, monkeypatch):
    base = {key: item.data.clone() for key, item in subject.target.live("unet").items()}
    edited = plain(subject)
    lora, why = weight_changes.other_lora(subject, "")
    assert why == "" and set(lora.edit.deltas) == {"unet"}
    group = lora.edit.deltas["unet"]
    assert set(group) == {ref.weight for ref in subject.target.modules("attn")}
    held = held_while_drawn(subject, monkeypatch, "LoRA merged", lora)
    for key, weight in edited.items():
        if key not in group:
            assert torch.equal(held[key], weight)
            continue
        change = group[key].B @ group[key].A
        assert torch.linalg.matrix_rank(change) == 4
        assert float(change.norm() / base[key].norm()) == pytest.approx(0.05, rel=1e-4)
        assert torch.allclose(held[key], weight + change, atol=1e-6)


def test_a_random_lora_is_that_of_the_base_and_the_seed(subject):
    key = subject.target.modules("cross_v")[0].weight  # the edit changes it
    one = weight_changes.random_lora(subject).edit.deltas["unet"][key].B
    with subject.edited():
        assert torch.equal(one, weight_changes.random_lora(subject).edit.deltas["unet"][key].B)
    assert not torch.equal(one, weight_changes.random_lora(replace(subject, seed=1)).edit.deltas["unet"][key].B)


def lora_file(subject, place, layout="diffusers", factor=1.0, rows=0):
    """A LoRA file of somebody else, without a manifest: of the values of a random one."""
    from safetensors.torch import load_file, save_file

    made = weight_changes.random_lora(replace(subject, seed=5))
    group = made.edit.scaled(factor).deltas["unet"]
    group = {key: LowRank(item.A, torch.cat([item.B, item.B[:rows]])) for key, item in group.items()}
    saved = Artifact(made.manifest, Edit(made.edit.family, {"unet": group})).save(place, layouts=["patch", layout])
    (file,) = (item.name for item in saved.manifest.files if item.layout == layout)
    out = place.with_suffix(".safetensors")
    save_file(load_file(place / file), out)
    return out, group


@pytest.mark.parametrize("layout", ["diffusers", "kohya"])
def test_a_lora_of_the_user_is_merged(subject, monkeypatch, tmp_path, layout):
    edited = plain(subject)
    file, group = lora_file(subject, tmp_path / "theirs", layout)
    for place in (file, tmp_path / "theirs"):
        lora, why = weight_changes.other_lora(subject, str(place))
        held = held_while_drawn(subject, monkeypatch, "LoRA merged", lora)
        assert why == "" and lora.name == (place.stem if place is file else "random-lora")
        for key, item in group.items():
            assert torch.allclose(held[key], edited[key] + item.B @ item.A, atol=1e-6)
            assert not torch.equal(held[key], edited[key])


def test_the_opposite_of_the_edit_merged_is_the_base(pocket_pipe, artifact, tmp_path):
    opposite = Artifact(replace(artifact.manifest, name="opposite"), artifact.edit.scaled(-1.0))
    opposite.save(tmp_path / "opposite", layouts=["patch"])
    attack = weights.WeightsAttack()
    found = run_attack(
        attack, lambda: open_subject(pocket_pipe, [artifact], attack, steps=4), 2 * weights._SETS,
        settings={"lora": str(tmp_path / "opposite")},
    )  # fmt: skip
    hits = found.details["hits"]
    assert hits["LoRA merged"] == hits["off"] != hits["edited"]
    assert found.details["lora"] == "opposite"


def test_another_lora_in_the_same_file_is_merged_anew_where_a_killed_run_goes_on(subject, tmp_path, monkeypatch):
    looked = []
    monkeypatch.setattr(Subject, "generate", lambda *_, **__: torch.zeros(1))
    monkeypatch.setattr(weights, "_judge", lambda *_: {"target_rate": [0], "kept_rate": [0]})
    monkeypatch.setattr(weights, "_report", lambda *_: None)

    def look(subject, sets, variant, lora):
        looked.append(variant.name)
        return {"target_rate": [1], "kept_rate": [1]}

    monkeypatch.setattr(weights, "_look", look)
    one = weight_changes.random_lora(subject)
    for lora, new in (
        (one, [item.name for item in weights.VARIANTS]),
        (one, []),
        (replace(one, edit=one.edit.scaled(2.0)), ["LoRA merged"]),
    ):
        monkeypatch.setattr(weights, "other_lora", lambda *_, lora=lora: (lora, ""))
        looked.clear()
        weights.WeightsAttack().run(subject, budget_of(tmp_path, weights._SETS, lora="theirs.safetensors"))
        assert looked == new


@pytest.mark.parametrize(
    ("kind", "error", "said"),
    [
        ("gone", ArtifactError, "no artifact at 'theirs.safetensors'; give an artifact folder or a .safetensors file"),
        ("torn", CorruptArtifact, "theirs"),
        ("names", ArtifactError, "'theirs.safetensors' is in no layout that can be applied"),
        ("wide", BaseMismatch, "patched 0 of "),
        ("guard", RequestError, "lora '.*' changes no weights; name a LoRA file or an artifact that does"),
    ],
)
def test_a_lora_that_cannot_be_merged_is_refused_before_any_picture(
    subject, pocket_pipe, pocket_target, artifact, tmp_path, monkeypatch, kind, error, said
):
    from safetensors.torch import save_file

    place = tmp_path / "theirs.safetensors"
    if kind == "torn":
        place.write_bytes(b"no safetensors")
    elif kind == "names":
        save_file({"something": torch.zeros(2, 2)}, place)
    elif kind == "wide":
        place, _ = lora_file(subject, tmp_path / "theirs", rows=3)
    elif kind == "guard":
        place = tmp_path / "guard"
        ep.erase(pocket_target, "owl", "keyword-guard").save(place)
    monkeypatch.setattr(Subject, "draw", lambda *_, **__: pytest.fail("a picture was drawn"))
    attack = weights.WeightsAttack()
    with pytest.raises(error, match=said) as caught:
        run_attack(
            attack, lambda: open_subject(pocket_pipe, [artifact], attack), weights._SETS, settings={"lora": str(place)}
        )
    assert "\n" not in str(caught.value)


def test_a_model_without_attention_that_can_be_changed_has_no_merge(subject, monkeypatch):
    ref = subject.target.modules("attn")[0]
    parameter = subject.target.module(ref).get_parameter("weight")
    data = parameter.data
    parameter.requires_grad_(False)
    parameter.data = data.to(torch.float8_e4m3fn)
    try:
        lora, why = weight_changes.other_lora(subject, "")
    finally:
        parameter.data = data
        parameter.requires_grad_(True)
    assert lora is None and why == f"the weights of unet {ref.path} are quantised, offloaded or no matrix"
    monkeypatch.setattr(type(subject.target), "modules", lambda self, group: _nothing(group))
    lora, why = weight_changes.other_lora(subject, "")
    assert (lora, why) == (None, "no modules in group 'attn'")
    assert weights._draw(subject, {"target_rate": []}, variant("LoRA merged"), None) is None


def _nothing(group):
    raise Unsupported(f"no modules in group '{group}'")


def test_fused_projections_follow(artifact, monkeypatch):
    pipe = fresh_pipeline("pocket")
    pipe.unet.fuse_qkv_projections()
    before = snapshot(pipe)
    subject = open_subject(pipe, [artifact], weights.WeightsAttack(), steps=1)
    seen = []

    def look(self, prompts, seeds):
        attention = next(item for _, item in pipe.unet.named_modules() if hasattr(item, "to_kv"))
        seen.append(
            (torch.cat([attention.to_k.weight.data, attention.to_v.weight.data]), attention.to_kv.weight.clone())
        )
        raise KeyboardInterrupt

    monkeypatch.setattr(Subject, "draw", look)
    for name in ("pruned 50%", "4bit"):
        with pytest.raises(KeyboardInterrupt):
            weights._draw(subject, {"target_rate": []}, variant(name), None)
    assert len(seen) == 2 and all(torch.equal(parts, fused) for parts, fused in seen)
    assert before.difference(snapshot(pipe)) == ""
