"""Concept Ablation: the two losses, what the gradient reaches, prompt pairs, refusals."""

from __future__ import annotations

import pytest
import torch

import erase_plugins as ep
from erase_plugins.api import build_request
from erase_plugins.api import plan as make_plan
from erase_plugins.engine.adapters import Adapters
from erase_plugins.errors import RequestError, UnknownName
from erase_plugins.methods.concept_ablation import (
    ConceptAblation,
    ConceptAblationOptions,
    prompt_pairs,
    still_start_token,
)
from erase_plugins.options import resolve
from erase_plugins.training.image_pool import Pictures
from erase_plugins.types import Concept
from erase_plugins.workflow.applying import apply
from erase_plugins.workflow.models import target_of
from tests.methods.runs import begun, prepared

FAST = {
    "iterations": 3, "trajectories": 4, "harvest": 2, "steps": 4, "keep_words": 0, "precision": "float32", "batch": 2,
    "templates": ("{}",), "guidance": 3.0,
}  # fmt: skip


@pytest.fixture
def target(tiny_sd1):
    return target_of(tiny_sd1(), "tiny")


def made(target, concept="pizza", to="bread", **changes):
    """A run whose concepts the plan did not have to accept."""
    options = {**FAST, "lr": 1e-3, "rank": 4, "train": "cross", "aliases": False, **changes}
    run = begun(target, build_request("tiny", "concept-ablation", concept, to="bread", options=options))
    run.request = build_request("tiny", "concept-ablation", concept, to=to)
    return run


def test_the_loss_is_zero_for_equal_prompts(target):
    """The anchor's tokens are the concept's: nothing to learn, whatever the weights."""
    run = made(target, "pizza", "Pizza ")
    with prepared(run) as loss:
        with torch.no_grad():
            for slot in run.adapters.slots:
                slot.B.normal_(std=0.1)
        assert float(loss(0).detach()) == pytest.approx(0.0, abs=1e-10)
    with prepared(made(target, "pizza", "rocket")) as loss:
        assert float(loss(0).detach()) > 1e-7


def test_no_gradient_through_the_anchor_pass(target):
    """The gradient is that of the same loss with the anchor's prediction as a constant."""
    run = made(target)
    with prepared(run) as loss:
        with torch.no_grad():
            for slot in run.adapters.slots:
                slot.B.normal_(std=0.1, generator=torch.Generator().manual_seed(3))
        found = torch.autograd.grad(loss(0), run.adapters.parameters())
        states, anchor = Pictures.drawn(run.rollout, "anchor", ["bread"] * 4, "key").batch(2, 0)
        with torch.no_grad():
            wanted = target.predict(states.inputs, states.timestep, anchor)
        out = target.predict(states.inputs, states.timestep, target.encode(["pizza"] * 2))
        expected = torch.autograd.grad((out - wanted).square().mean(), run.adapters.parameters())
    for one, two in zip(found, expected, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-8)


def test_the_start_token_gives_no_gradient(target):
    cond = target.encode(["pizza"])
    rows = cond.embeds.clone().requires_grad_()
    cond.embeds = rows
    x = torch.randn((1, *target.info.latent_shape), generator=torch.Generator().manual_seed(1))
    with Adapters(target, target.modules("cross_kv"), 4):
        plain = target.predict(x, 500, cond)
        (free,) = torch.autograd.grad(plain.square().sum(), rows)
        with still_start_token(target):
            held = target.predict(x, 500, cond)
            (stopped,) = torch.autograd.grad(held.square().sum(), rows)
    assert torch.equal(plain, held)
    assert free[0, 0].abs().max() > 0
    assert stopped[0, 0].abs().max() == 0
    assert stopped[0, 1:].abs().max() > 0
    assert not any(module._forward_hooks for module in target.pipe.unet.modules())


def test_training_runs_with_the_start_token_still(target, monkeypatch):
    """Every pass of a run's loss sees the hooks that stop the start token's gradient."""
    seen, plain = [], ConceptAblation.loss

    def watched(method, run, step):
        seen.append(all(target.module(ref)._forward_hooks for ref in target.modules("cross_kv")))
        return plain(method, run, step)

    monkeypatch.setattr(ConceptAblation, "loss", watched)
    ep.erase(target, "pizza", "concept-ablation", to="bread", options=FAST)
    assert seen == [True] * FAST["iterations"]


def test_the_target_moves_to_the_anchor_more_than_the_anchor_moves(target):
    artifact = ep.erase(
        target, "pizza", "concept-ablation", to="rocket", keep=["rocket"],
        options={**FAST, "iterations": 80, "lr": 3e-3, "trajectories": 8, "batch": 4, "keep_weight": 10.0},
    )  # fmt: skip
    x = torch.randn((8, *target.info.latent_shape), generator=torch.Generator().manual_seed(4))
    pizza, rocket = target.encode(["pizza"] * 8), target.encode(["rocket"] * 8)
    with torch.no_grad():
        before, anchor = target.predict(x, 500, pizza), target.predict(x, 500, rocket)
        with apply(target.pipe, artifact):
            after, moved = target.predict(x, 500, pizza), target.predict(x, 500, rocket)
    gap = (before - anchor).square().mean()
    assert (after - moved).square().mean() < 0.6 * gap
    assert (moved - anchor).square().mean() < 0.6 * (after - before).square().mean()


def test_noise_loss_and_prior_use_the_true_noise(target):
    run = made(target, loss="noise", prior=1.0)
    with prepared(run) as loss:
        states, anchor = Pictures.drawn(run.rollout, "anchor", ["bread"] * 4, "key").batch(2, 0)
        noise = states.predictions["noise"]
        pizza = target.predict(states.inputs, states.timestep, target.encode(["pizza"] * 2))
        prior = target.predict(states.inputs, states.timestep, anchor)
        expected = (pizza - noise).square().mean() + (prior - noise).square().mean()
        assert float(loss(0).detach()) == pytest.approx(float(expected.detach()), rel=1e-4)


def test_prompt_pairs_by_kind():
    options = ConceptAblationOptions(templates=("{}", "a photo of a {}"), trajectories=6)
    assert prompt_pairs(Concept("grumpy cat", anchor="cat"), options)[:2] == [
        ("cat", "grumpy cat"), ("a photo of a cat", "a photo of a grumpy cat"),
    ]  # fmt: skip
    style = prompt_pairs(Concept("van gogh", "style", anchor="painting"), options)
    assert style[0] == ("painting", "painting, in the style of van gogh")
    assert style[3] == ("a photo of a painting", "in van gogh's style, a photo of a painting")
    share = sum("'s style" in made for _, made in style) / len(style)
    assert share == pytest.approx(2 / 3)
    unsafe = prompt_pairs(Concept("nudity", "explicit", anchor="people"), options)
    assert {made for _, made in unsafe if _ == "people"} == {
        "nudity, people",
        "in nudity style, people",
        "people, nudity",
    }
    assert prompt_pairs(Concept("pizza"), options)[0] == ("", "pizza")
    leaving = prompt_pairs(
        Concept("noto", "style"), ConceptAblationOptions(templates=("a {} cat",), trajectories=1, appended=False)
    )
    assert leaving == [("a cat", "a noto cat")]
    shown = prompt_pairs(Concept("noto", "style"), ConceptAblationOptions(templates=("{}, a cat",), trajectories=1))
    assert shown == [("art, a cat", "art, a cat, in the style of noto")]
    bare = prompt_pairs(
        Concept("nudity", "explicit"), ConceptAblationOptions(templates=("{}, a beach",), trajectories=1)
    )
    assert bare == [("a beach", "nudity, a beach")]
    given = ConceptAblationOptions(anchor_prompts=("a cat on a sofa",), trajectories=1)
    assert prompt_pairs(Concept("grumpy cat", anchor="cat"), given) == [("a cat on a sofa", "a grumpy cat on a sofa")]


def test_the_concept_is_the_negative_prompt_of_explicit_anchor_pictures(target, monkeypatch):
    """Guidance away from the concept while the anchor's pictures are drawn, as published for explicit concepts."""
    from erase_plugins.training import image_pool

    asked = []
    pair = image_pool.ask_pair
    monkeypatch.setattr(
        image_pool,
        "ask_pair",
        lambda t, x, s, null, cond, ctx: asked.append((null, cond)) or pair(t, x, s, null, cond, ctx),
    )
    for avoid, negative in ((True, "pizza, cheese"), (False, "")):
        asked.clear()
        run = made(target, avoid=avoid)
        run.request = build_request("tiny", "concept-ablation", Concept("pizza", anchor="bread", prompts=("cheese",)))
        with prepared(run):
            pass
        assert {text for null, _ in asked for text in null.prompts} == {negative}
        assert len(asked[0][1].embeds) == 4
        assert len(asked[0][0].embeds) == (4 if avoid else 1)


def test_a_lora_removes_about_as_much_as_full_weights_do():
    """At full width, with the presets of full-sized models, after the same number of steps."""
    from erase_plugins.engine.loop import train
    from tests.methods.wide import wide_sd1

    model, left = wide_sd1(), {}
    options = {"iterations": 30, "batch": 4, "trajectories": 8, "steps": 2, "precision": "float32"}
    options["templates"] = ("{}",)
    for parameters in ("full", "lora"):
        given = {**options, "parameters": parameters}
        run = begun(model, build_request("wide", "concept-ablation", "pizza", to="rocket", options=given))
        with prepared(run) as loss:
            before = float(loss(0).detach())
            train(run.ctx, run.adapters, loss, run.options.schedule(), run.key)
            left[parameters] = float(loss(0).detach()) / before
    assert left["full"] < 0.7
    assert 1 - left["lora"] == pytest.approx(1 - left["full"], rel=0.3)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"train": "everything"}, UnknownName, "train"),
        ({"loss": "l1"}, UnknownName, "loss"),
        ({"templates": "a photo"}, RequestError, "no {}"),
        ({"anchor_prompts": "a dog on a sofa"}, RequestError, "lacks the anchor 'bread'"),
        ({"prior": -1.0}, RequestError, "prior"),
    ],
)
def test_wrong_options_are_refused_at_plan_time(target, options, error, words):
    with pytest.raises(error, match=words):
        make_plan(target, "pizza", "concept-ablation", to="bread", options=options)


def test_a_concept_that_becomes_itself_is_refused(target):
    with pytest.raises(RequestError, match="would become itself"):
        make_plan(target, "pizza", "concept-ablation", to="Pizza")


def test_published_defaults_for_full_sized_models(tiny_sd1):
    plain = resolve(ConceptAblationOptions, {}, ("object", "sd1"))
    assert (plain.train, plain.iterations, plain.batch, plain.prior, plain.loss) == ("cross", 100, 8, 0.0, "model")
    assert (plain.guidance, plain.steps, plain.trajectories) == (6.0, 25, 200)
    assert (plain.start, plain.avoid) == ("rank", False)
    unsafe = resolve(ConceptAblationOptions, {}, ("explicit", "sd1"))
    assert unsafe.avoid
    for kind in ("object", "style", "person", "explicit"):
        scenes = resolve(ConceptAblationOptions, {}, (kind, "sd1")).templates
        assert len(set(scenes)) == len(scenes) >= 30, "many scenes, not one word"
    assert (unsafe.train, unsafe.iterations, unsafe.prior) == ("attn", 400, 1.0)


def test_sdxl_one_step(tiny_sdxl):
    model = target_of(tiny_sdxl(), "tiny")
    seen = []
    predict = model.predict
    model.predict = lambda x, t, cond: seen.append(cond) or predict(x, t, cond)
    artifact = ep.erase(model, "pizza", "concept-ablation", options={**FAST, "iterations": 1, "train": "cross"})
    assert all(cond.pooled is not None for cond in seen)
    assert set(artifact.edit.deltas["unet"]) == {ref.weight for ref in model.modules("cross_kv")}
