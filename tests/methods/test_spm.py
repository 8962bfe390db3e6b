"""SPM: gates, random anchors, memories of several concepts in one run, refusals."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

import erase_plugins as ep
from erase_plugins import compose
from erase_plugins.api import build_request
from erase_plugins.api import plan as make_plan
from erase_plugins.artifacts.gated import GATE, concepts_of
from erase_plugins.engine.pools import Pool
from erase_plugins.errors import RequestError, UnknownName
from erase_plugins.methods.spm import SPMOptions, anchor_part, pseudo_embeddings
from erase_plugins.runtime.gates import gate_table
from erase_plugins.testing.models import shared_pipeline
from erase_plugins.training.concept_loras import Memories
from erase_plugins.types import Concept, EraseRequest
from erase_plugins.workflow.applying import apply
from erase_plugins.workflow.models import target_of
from tests.methods.runs import begun, prepared

FAST = {
    "iterations": 2, "trajectories": 2, "harvest": 2, "steps": 4, "keep_words": 0, "anchors": 2, "batch": 2,
    "gate_words": 30, "precision": "float32", "lr": 1e-2,
}  # fmt: skip


@pytest.fixture
def target(tiny_sd1):
    return target_of(tiny_sd1(), "tiny")


def same(a, b):
    one, other = list(a.items()), list(b.items())
    return [item[:2] for item in one] == [item[:2] for item in other] and all(
        torch.equal(x, other[n][2].tensors()[name])
        for n, (_, _, delta) in enumerate(one)
        for name, x in delta.tensors().items()
    )


def test_random_anchors_are_as_long_as_the_concept(target):
    concept = target.encode(["pizza"]).embeds[0]
    found = pseudo_embeddings(concept, 40, torch.Generator().manual_seed(0))
    share = found.flatten(1).norm(dim=1) / concept.norm()
    assert found.shape == (40, *concept.shape)
    assert 0.8 <= share.min() < 0.9
    assert 1.1 < share.max() <= 1.2
    cosine = torch.cosine_similarity(found.flatten(1), concept.flatten()[None])
    assert cosine.abs().max() < 0.3


def test_anchors_near_the_concept_are_accepted_less_often():
    """In the plane a direction at angle a is taken with min(1, 1 - cos a), so the mean cosine of those taken is
    (1 / 2 pi) [int over the front (cos a - cos^2 a) + int over the back cos a] / (1 - 1 / pi) = -(1/4) / (1 - 1/pi)."""
    concept = torch.tensor([[3.0, 4.0]])
    found = pseudo_embeddings(concept, 6000, torch.Generator().manual_seed(0)).flatten(1)
    cosine = torch.cosine_similarity(found, concept.flatten()[None])
    assert float(cosine.mean()) == pytest.approx(-0.25 / (1 - 1 / math.pi), abs=0.03)


def test_every_sample_of_a_step_meets_the_memory_that_it_is_for(target, monkeypatch):
    """Trained states: their concept's. Random anchors: that of the state they stand at. Held states: all in turn."""
    steps, places = [], []
    recalled, batch = Memories.recalled, Pool.batch

    def spy(self, *parts):
        steps.append([list(part) for part in parts])
        return recalled(self, *parts)

    def drawn(self, size, step):
        states, cond = batch(self, size, step)
        if self.name == "erase":
            places.append(cond.prompts)
        return states, cond

    monkeypatch.setattr(Memories, "recalled", spy)
    monkeypatch.setattr(Pool, "batch", drawn)
    options = {**FAST, "iterations": 6, "growth": 0.0, "batch": 2, "anchors": 3, "keep_words": 3, "keep_batch": 3,
               "templates": "{}"}  # fmt: skip
    ep.erase(target, ["pizza", "guitar"], "spm", options=options)
    assert len(steps) == 6
    for step, (mine, anchors, held) in enumerate(steps):
        own = [("pizza", "guitar").index(prompt) for prompt in places[step]]
        assert mine == own
        assert anchors == [own[0]] * 3
        assert held == ([0, 1, 0] if step % 2 == 0 else [1, 0, 1])
    assert {number for mine, _, _ in steps for number in mine} == {0, 1}
    assert {anchors[0] for _, anchors, _ in steps} == {0, 1}


def test_anchors_cost_nothing_at_the_first_step(target):
    """Student = teacher: the held predictions are the teacher's to the last bit."""
    request = build_request("tiny", "spm", "pizza", options={**FAST, "anchors": 3, "templates": "{}"})
    run = begun(target, request)
    with prepared(run):
        states, cond = run.state.pool.batch(2, 0)
        held, rows, wanted, weight, _ = anchor_part(run, states, cond, 0)
        with torch.no_grad(), run.adapters.recalled([0] * 3):
            assert torch.equal(target.predict(held.inputs, held.timestep, rows), wanted)
    assert weight == run.options.anchor_weight


def test_two_concepts_in_one_run_are_one_memory_each_and_revoke_apart(target):
    artifact = ep.erase(target, ["pizza", "guitar"], "spm", options={**FAST, "rank": 2})
    assert concepts_of(artifact.edit) == ("pizza", "guitar")
    group = artifact.edit.deltas["unet"]
    assert {tuple(delta.config["gates"]) for key, delta in group.items() if key != GATE} == {(0, 0, 1, 1)}
    back = compose.revoke(artifact, "pizza")
    for key, delta in back.edit.deltas["unet"].items():
        if key != GATE:
            assert torch.equal(delta.weights["up"], group[key].weights["up"][:, 2:])


def test_adding_a_concept_leaves_the_first_as_it_is(target):
    first = ep.erase(target, "pizza", "spm", options=FAST)
    both = compose.add(first, "guitar", target)
    assert concepts_of(both.edit) == ("pizza", "guitar")
    assert both.manifest.erased == ("guitar", "pizza")
    assert same(compose.revoke(both, "guitar").edit.map(lambda _c, _k, d: replace(d, config={})),
                first.edit.map(lambda _c, _k, d: replace(d, config={})))  # fmt: skip


def test_a_named_anchor_becomes_the_neutral_prediction(target):
    def first_loss(**given):
        losses = []
        listen = lambda event: losses.append(event.numbers["loss"]) if "loss" in event.numbers else None  # noqa: E731
        ep.erase(target, "pizza", "spm", options={**FAST, "anchors": 0, "eta": 0.0}, listeners=[listen], **given)
        return losses[0]

    assert first_loss(to="guitar") != first_loss()


def test_an_added_concept_is_trained_with_the_seed_of_the_first(target):
    options = {**FAST, "rank": 1}
    first = ep.erase(target, "pizza", "spm", options=options, seed=7)
    both = compose.add(first, "guitar", target).edit.deltas["unet"]
    right, wrong = (
        ep.erase(target, "guitar", "spm", options=options, seed=seed).edit.deltas["unet"] for seed in (7, 0)
    )
    keys = [key for key in right if key != GATE]
    assert not any(torch.equal(right[key].weights["down"], wrong[key].weights["down"]) for key in keys)
    for key in keys:
        assert torch.equal(both[key].weights["down"][1:], right[key].weights["down"])
        assert torch.equal(both[key].weights["up"][:, 1:], right[key].weights["up"])


def test_memories_change_the_prediction_only_where_the_gate_is_open(target):
    artifact = ep.erase(target, "pizza", "spm", options={**FAST, "gate_low": 0.0, "gate_high": 0.9})
    prompts = ["pizza", ""]
    x = torch.randn((2, *target.info.latent_shape), generator=torch.Generator().manual_seed(2))
    cond = target.encode(prompts)
    gate = artifact.edit.deltas["unet"][GATE]
    table = gate_table(target.encode(prompts).embeds, gate.weights["embeddings"], gate.config)
    with torch.no_grad():
        base = target.predict(x, 500, cond)
        with apply(target.pipe, artifact):
            edited = target.predict(x, 500, cond)
    for row in range(2):
        assert torch.equal(base[row], edited[row]) == (float(table[row]) == 0.0)
    assert float(table[0]) > 0


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"gate": "vibes"}, UnknownName, "gate"),
        ({"gate_low": 0.8}, RequestError, "below gate_high"),
        ({"templates": "a photo"}, RequestError, "no {}"),
        ({"rank": 0}, RequestError, "rank"),
    ],
)
def test_wrong_options_are_refused_at_plan_time(target, options, error, words):
    with pytest.raises(error, match=words):
        make_plan(target, "pizza", "spm", options=options)


def test_steps_grow_with_the_number_of_concepts():
    def steps(concepts, **options):
        return make_plan("pocket", concepts, "spm", options=options).steps

    assert steps("pizza", iterations=100) == 100
    assert steps(["pizza", "guitar", "car", "rose"], iterations=100) == 200
    assert steps(["pizza", "guitar", "car", "rose"], iterations=100, growth=1.0) == 400


def test_a_concept_that_becomes_itself_is_refused(target):
    with pytest.raises(RequestError, match="would become itself"):
        make_plan(target, "pizza", "spm", to="Pizza")


def test_paper_defaults_for_full_sized_models():
    from erase_plugins.options import resolve

    options = resolve(SPMOptions, {}, ("sd1",))
    found = (options.rank, options.iterations, options.eta, options.anchors, options.anchor_weight, options.steps)
    assert found == (1, 3000, 1.0, 4, 1000.0, 30)
    assert (options.guidance, options.keep_words, options.templates) == (3.0, 0, ("{}",))
    assert resolve(SPMOptions, {}, ("sdxl",)).anchor_weight == 100.0


def test_anchors_of_sdxl_have_a_pooled_row_of_their_own(tiny_sdxl):
    model = target_of(tiny_sdxl(), "tiny")
    request = EraseRequest("tiny", (Concept("pizza"),), "spm", options={**FAST, "anchors": 3})
    with prepared(run := begun(model, request)):
        states, cond = run.state.pool.batch(1, 0)
        part = anchor_part(run, states, cond, 0)
    share = part.cond.pooled.norm(dim=1) / cond.pooled[0].norm()
    assert part.cond.pooled.shape == (3, cond.pooled.shape[1])
    assert 0.8 <= share.min() <= share.max() <= 1.2
    assert len({tuple(row) for row in part.cond.pooled.tolist()} | {tuple(cond.pooled[0].tolist())}) == 4


def test_sdxl_one_step(tiny_sdxl):
    model = target_of(tiny_sdxl(), "tiny")
    artifact = ep.erase(model, "pizza", "spm", options={**FAST, "iterations": 1})
    assert all("attentions" in key for key in artifact.edit.deltas["unet"] if key != GATE)
    assert artifact.edit.kinds == {"addon"}


@pytest.mark.parametrize("kind", ["tiny_sd3", "tiny_flux"])
def test_flow_transformers_hold_their_memories_where_text_enters(kind):
    """Both doors, and added keys and values of joint attention; the gate reads whole prompts, T5's rows included."""
    pipe = shared_pipeline(kind)
    target = target_of(pipe, "tiny")
    artifact = ep.erase(target, "pizza", method="spm", options=FAST)
    group = artifact.edit.deltas["transformer"]
    assert set(group) == {GATE} | {ref.path for ref in target.modules("text_side")}
    cond = target.encode(["a pizza", "a dog"])
    assert group[GATE].config["window"] == cond.embeds.shape[1]
    # FLUX shows the denoiser no row of the CLIP encoder that its token numbers belong to
    assert bool(group[GATE].config.get("names")) == target.family.clip_rows
    x = torch.randn(2, *target.info.latent_shape, generator=torch.Generator().manual_seed(0))
    before = target.predict(x, torch.tensor([500.0]), cond)
    artifact.edit.deltas["transformer"][GATE].config.update(low=[-1e3], high=[-999.0])
    applied = ep.apply(pipe, artifact)
    assert not torch.equal(target.predict(x, torch.tensor([500.0]), cond), before)
    artifact.edit.deltas["transformer"][GATE].config.update(low=[999.0], high=[1e3], names=[[]])
    applied.remove()
    shut = ep.apply(pipe, artifact)
    assert torch.equal(target.predict(x, torch.tensor([500.0]), cond), before)
    shut.remove()


@pytest.mark.parametrize(
    ("method", "options"), [("leco", {"modules": "text"}), ("concept-ablation", {"train": "text"})]
)
def test_other_methods_write_there_too_by_default(method, options):
    plans = [ep.plan("pocket-flow", "pizza", method, options=given) for given in ({}, options)]
    assert plans[0].modules == plans[1].modules
    assert all("add_" in name or "embedder" in name for name in plans[0].modules)
