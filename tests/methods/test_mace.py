"""MACE: pairing of context rows, the attention loss, fusion, algebra of many concepts, refusals."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file

import erase_plugins as ep
from erase_plugins import compose
from erase_plugins.api import build_request
from erase_plugins.api import plan as make_plan
from erase_plugins.artifacts.edit import CONTEXT
from erase_plugins.artifacts.statistics import Member, Statistics
from erase_plugins.engine.collect import encode_member
from erase_plugins.errors import RequestError, UnknownName
from erase_plugins.manager import get_manager
from erase_plugins.methods.mace import MACE, MACEOptions
from erase_plugins.options import resolve
from erase_plugins.training.concept_loras import Memories
from erase_plugins.training.embedding_map import mapped
from erase_plugins.training.image_pool import Pictures, concentrated_times
from erase_plugins.workflow.applying import apply
from erase_plugins.workflow.artifacts import load_artifact
from erase_plugins.workflow.models import target_of
from tests.methods.runs import begun, prepared

FAST = {
    "iterations": 3, "pictures": 2, "steps": 3, "batch": 2, "precision": "float32", "vocabulary": 60,
    "templates": ("{}", "a {} here"), "lr": 1e-2,
}  # fmt: skip


@pytest.fixture
def target(tiny_sd1):
    return target_of(tiny_sd1(), "tiny")


def test_training_lowers_the_attention_and_reaches_the_adapters_only(target):
    from erase_plugins.engine.loop import Schedule, train

    options = {**FAST, "batch": 4, "mask": "none"}
    run = begun(target, build_request("tiny", "mace", ["pizza", "guitar"], options=options))
    before = {name: part.clone() for name, part in target.pipe.unet.named_parameters()}
    with prepared(run) as loss:
        losses = train(run.ctx, run.adapters, loss, Schedule(30, 3e-2), "key")
    assert sum(losses[-5:]) < 0.9 * sum(losses[:5])
    assert all(
        torch.equal(part, before[name]) and part.grad is None for name, part in target.pipe.unet.named_parameters()
    )


def test_the_saved_edit_is_the_trained_model_on_the_concepts_prompt(target):
    """One concept, no ridge: mapped prompts with the LoRA on, and the fused artifact on plain prompts, agree."""
    options = {**FAST, "iterations": 6, "fuse_lam": 1e-9, "fuse_keep": 0.0, "mask": "none", "lr": 3e-2}
    artifact = ep.erase(target, "pizza", "mace", options=options)
    member = load_statistics(artifact).members["pizza"]
    change = artifact.edit.deltas["unet"][CONTEXT]
    K = (change.B.double() @ change.A.double()).float()
    prompt = "a pizza here"
    rows = target.encode([prompt]).embeds[0, 1:]
    sizes = [ref.shape[0] for ref in target.modules("cross_kv")]
    for place, ref in enumerate(target.modules("cross_kv")):
        fused = artifact.edit.deltas["unet"][ref.weight].dense()
        own = torch.outer(member.extra["up"].split(sizes)[place], member.extra["down"][place])
        torch.testing.assert_close(rows @ fused.T, rows @ own.T, rtol=2e-2, atol=2e-3)
    cond = target.encode([prompt])
    torch.testing.assert_close(
        mapped(cond, change).embeds[0], cond.embeds[0] + cond.embeds[0] @ K.T, rtol=1e-4, atol=1e-4
    )


def test_the_lora_learned_behind_the_map_is_carried_in_front_of_it(target, monkeypatch):
    """u (v . e') on the mapped row e' = e + K e is u (v' . e) on the plain row e, for every row e."""
    learned = []
    factors = Memories.factors
    monkeypatch.setattr(Memories, "factors", lambda self: learned.append(factors(self)) or learned[-1])
    artifact = ep.erase(target, ["guitar", "pizza"], "mace", options={**FAST, "lr": 3e-2})
    downs, ups = learned[-1]
    change = artifact.edit.deltas["unet"][CONTEXT]
    plain = torch.randn((5, 32), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    moved = plain + plain @ change.A.double().T @ change.B.double().T
    for number, name in enumerate(("guitar", "pizza")):
        extra = load_statistics(artifact).members[name].extra
        behind = moved @ downs[:, number].double().T
        assert float((behind - plain @ downs[:, number].double().T).abs().max()) > 1e-2  # the map matters
        torch.testing.assert_close(plain @ extra["down"].double().T, behind, rtol=1e-4, atol=1e-5)
        assert torch.equal(extra["up"], torch.cat([up[:, number] for up in ups]))


def test_what_is_kept_weighs_as_often_in_the_fusion_as_there_are_concepts():
    """Rows along axes: every direction is its own equation, u g / (lam + g + fuse_keep n h)."""
    width, lam, keep = 4, 0.5, 3.0
    axes = torch.eye(width)
    kept = 2.0 * axes[:3]  # h = 4 on axes 0 to 2
    ups = {"a": torch.tensor([1.0, -2.0]), "b": torch.tensor([0.5, 3.0])}
    members = {}
    for number, name in enumerate(("a", "b")):
        extra = {"rows": 3.0 * axes[number : number + 1], "down": axes[number : number + 1], "up": ups[name]}  # g = 9
        members[name] = Member(name, axes[number : number + 1], axes[3:], 1.0, extra=extra)
    solver = {"method": "mace", "lam": 0.5, "fuse_lam": lam, "fuse_keep": keep, "modules": [["layer.weight", 2]]}
    statistics = Statistics(width, members, {"": kept}, 1.0, solver)
    both = MACE().solve(statistics, get_manager().family("sd1")).deltas["unet"]["layer.weight"].dense()
    share = 9 / (lam + 9 + keep * 2 * 4)
    torch.testing.assert_close(both, share * torch.stack([ups["a"], ups["b"], *torch.zeros(2, 2)], 1))
    alone = replace(statistics, members={"a": members["a"]})
    one = MACE().solve(alone, get_manager().family("sd1")).deltas["unet"]["layer.weight"].dense()
    torch.testing.assert_close(one[:, 0], 9 / (lam + 9 + keep * 4) * ups["a"])


def test_importance_sampling_draws_from_the_published_density():
    """sigmoid(0.05 (t - 200)) - sigmoid(0.05 (t - 400)): shares of slices of the schedule, summed by hand."""
    weights = [1 / (1 + math.exp(-0.05 * (t - 200))) - 1 / (1 + math.exp(-0.05 * (t - 400))) for t in range(1000)]
    drawn = concentrated_times(20_000, torch.Generator().manual_seed(0))
    for low, high in ((0, 150), (150, 200), (200, 250), (250, 350), (350, 400), (400, 450), (450, 1000)):
        wanted = sum(weights[low:high]) / sum(weights)
        assert float(((drawn >= low) & (drawn < high)).float().mean()) == pytest.approx(wanted, abs=0.012)
    assert float(drawn.float().mean()) == pytest.approx(300, abs=3)


def test_importance_sampling_is_used_where_it_is_asked_for(target, monkeypatch):
    stamps = []
    noised = Pictures.noised

    def spy(self, rows, times, generator):
        stamps.append(times)
        return noised(self, rows, times, generator)

    monkeypatch.setattr(Pictures, "noised", spy)
    shares = {}
    for importance in (True, False):
        stamps.clear()
        ep.erase(target, "pizza", "mace", options={**FAST, "iterations": 30, "batch": 4, "mask": "none",
                                                   "importance": importance})  # fmt: skip
        found = torch.cat(stamps)
        shares[importance] = float(((found >= 150) & (found <= 450)).float().mean())
    assert shares[True] > 0.9  # the density has 0.97 there
    assert shares[False] < 0.5  # 0.3


def load_statistics(artifact):
    from erase_plugins.artifacts.solved import statistics_of

    return statistics_of(artifact.edit)


def test_merge_equals_the_joint_solution_and_revoking_one_leaves_the_other(target, tmp_path):
    """Merging is exact: revoking what was merged gives the first artifact back bit for bit."""
    one = ep.erase(target, "pizza", "mace", options=FAST, out=tmp_path / "one")
    two = ep.erase(target, "guitar", "mace", options=FAST, out=tmp_path / "two")
    merged = compose.merge([load_artifact(tmp_path / "one"), load_artifact(tmp_path / "two")])
    assert merged.manifest.erased == ("guitar", "pizza")
    group = merged.edit.deltas["unet"]
    assert all(delta.rank == 2 for key, delta in group.items() if key != CONTEXT)
    again = compose.revoke(merged, "guitar", forget=True)
    for key, delta in again.edit.deltas["unet"].items():
        for name, tensor in delta.tensors().items():
            assert torch.equal(tensor, one.edit.deltas["unet"][key].tensors()[name]), f"{key} {name}"
    kept = compose.revoke(merged, "guitar")
    rows = target.encode(["guitar"]).embeds[0, 1:].double()
    drift = []
    for artifact in (two, again, kept):
        change = artifact.edit.deltas["unet"][CONTEXT]
        drift.append(float((rows @ change.A.double().T @ change.B.double().T).norm()))
    assert drift[2] < drift[1] < drift[0]
    added = compose.add(one, "guitar", target)
    assert added.manifest.erased == ("guitar", "pizza")


def test_many_concepts_leave_what_is_kept_where_it_is(target):
    """All prompts share much of their rows: without weights that balance, many concepts move everything there."""
    words = ["pizza", "guitar", "tree", "house", "dog", "boat"]
    options = {
        **FAST, "vocabulary": 200, "iterations": 2, "mask": "none", "lr": 3e-2, "erase_scale": 0.5,
        "templates": ("{}", "a {}", "the {}", "a {} here", "one {}", "{} here"),
    }  # fmt: skip
    kept = target.encode(["street", "water", "music"]).embeds[:, 1:].flatten(0, 1).double()
    group = ep.erase(target, words, "mace", options=options).edit.deltas["unet"]
    change = group[CONTEXT]
    by_map = (kept @ change.A.double().T @ change.B.double().T).norm() / kept.norm()
    assert by_map < 0.08
    fused = []
    for ref in target.modules("cross_kv"):
        weight = target.module(ref).weight.detach().double()
        fused.append(float((kept @ group[ref.weight].dense().double().T).norm() / (kept @ weight.T).norm()))
    assert sum(fused) / len(fused) < 0.05


def test_a_concept_weighs_the_same_however_many_templates_tell_its_rows(target):
    from erase_plugins.engine.context_rows import prompt_rows

    few, many = ("a {}", "a {} here"), ("a {}", "a {} here") * 5
    recipe = MACEOptions(**FAST).recipe()
    sums = []
    for templates in (few, many):
        rows, guides = encode_member(["pizza"], " ", "object", replace(recipe, templates=templates), target)
        own = prompt_rows(["pizza"], templates, target)
        sums.append((rows.T @ rows, guides.T @ rows, own.T @ own))
    for one, other in zip(*sums, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-3)


def test_the_artifact_survives_its_file(target, tmp_path):
    saved = ep.erase(target, "pizza", "mace", options=FAST, out=tmp_path / "out")
    loaded = load_artifact(tmp_path / "out")
    assert {"rows", "down", "up"} <= set(load_statistics(loaded).members["pizza"].extra)
    x = torch.randn((1, *target.info.latent_shape), generator=torch.Generator().manual_seed(1))
    cond = target.encode(["a pizza"])
    seen = []
    for artifact in (saved, loaded):
        with torch.no_grad(), apply(target.pipe, artifact):
            seen.append(target.predict(x, 500, cond))
    assert torch.equal(*seen)


def test_given_pictures_and_masks_are_used(target, tmp_path):
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn((3, *target.info.latent_shape), generator=generator)
    file = tmp_path / "data.safetensors"
    save_file({"latents": latents, "masks": torch.ones(3, 8, 8)}, file)
    one = ep.erase(target, "pizza", "mace", options={**FAST, "data": str(file)})
    counted = one.manifest.extra["numbers"]["unet_forwards"]
    assert counted == 3 * 2  # training only: nothing was drawn, no masks were measured
    save_file({"latents": latents}, tmp_path / "half.safetensors")
    for path, words in ((tmp_path / "half.safetensors", "masks"), (tmp_path / "none.safetensors", "no file")):
        with pytest.raises(RequestError, match=words):
            make_plan(target, "pizza", "mace", options={"data": str(path)})
    with pytest.raises(RequestError, match="one concept"):
        make_plan(target, ["pizza", "guitar"], "mace", options={"data": str(file)})


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"tokens": "some"}, UnknownName, "tokens"),
        ({"mask": "sam"}, UnknownName, "mask"),
        ({"fuse_lam": 0.0}, RequestError, "fuse_lam"),
        ({"lam": 0.0}, RequestError, "lam"),
        ({"templates": "a photo"}, RequestError, "no {}"),
    ],
)
def test_wrong_options_are_refused_at_plan_time(target, options, error, words):
    with pytest.raises(error, match=words):
        make_plan(target, "pizza", "mace", options=options)


def test_a_concept_that_becomes_itself_is_refused(target):
    with pytest.raises(RequestError, match="would become itself"):
        make_plan(target, "pizza", "mace", to="pizza")


def test_published_defaults_for_full_sized_models():
    options = resolve(MACEOptions, {}, ("sd1", "object"))
    assert (options.iterations, options.batch, options.optimizer, options.pictures) == (50, 1, "adamw", 8)
    assert (options.importance, options.guidance, options.steps, options.mask) == (True, 7.5, 30, "attention")
    assert resolve(MACEOptions, {}, ("sd1", "style")).mask == "none"
    unsafe = resolve(MACEOptions, {}, ("sd1", "explicit"))
    assert (unsafe.iterations, unsafe.importance) == (120, False)


def test_sdxl_one_step(tiny_sdxl):
    model = target_of(tiny_sdxl(), "tiny")
    artifact = ep.erase(model, "pizza", "mace", options={**FAST, "iterations": 1})
    assert artifact.edit.kinds == {"contextmap", "lowrank"}
    assert set(artifact.edit.deltas["unet"]) == {CONTEXT, *(ref.weight for ref in model.modules("cross_kv"))}
