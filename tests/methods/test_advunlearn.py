"""AdvUnlearn: first losses, the inner attack, retention, direction of the robustness, plug-and-play, refusals.

Token accounting of the prefix and the pass on embeddings are in tests/engine/test_attack.py, layers in
test_text_tuning.py.
"""

from __future__ import annotations

import pytest
import torch

import erase_plugins as ep
from erase_plugins.api import plan as make_plan
from erase_plugins.engine.adapters import Adapters
from erase_plugins.engine.attack import Attack, Prefix
from erase_plugins.engine.trajectories import guided
from erase_plugins.errors import BaseMismatch, RequestError, UnknownName
from erase_plugins.methods.advunlearn import _Work
from erase_plugins.training.text_tuning import text_refs
from erase_plugins.types import Concept, EraseRequest
from erase_plugins.workflow.applying import apply
from erase_plugins.workflow.models import target_of
from tests.methods.runs import begun, prepared

FAST = {
    "iterations": 4, "batch": 4, "trajectories": 4, "harvest": 4, "steps": 5, "keep_words": 6, "keep_batch": 2,
    "keep_weight": 0.0, "rank": 4, "precision": "float32", "aliases": False, "cooldown": 0.0, "lr": 1e-2, "warmup": 0,
    "attack_steps": 2, "templates": "{}", "retain": "predictions", "eta": 1.0,
}  # fmt: skip


@pytest.fixture
def target(tiny_sd1):
    return target_of(tiny_sd1(), "tiny")


def erase(target, **options):
    losses = []
    listen = [lambda event: losses.append(event.numbers["loss"]) if "loss" in event.numbers else None]
    return ep.erase(target, "pizza", "advunlearn", options={**FAST, **options}, listeners=listen), losses


def work(target, **options):
    """The loss of a run, with adapters that are not attached."""
    request = EraseRequest("tiny", (Concept("pizza"),), "advunlearn", options={**FAST, **options})
    run = begun(target, request)
    run.adapters = Adapters(target, text_refs(target.info, "mlp-attn"), 4)
    return _Work(run)


def test_before_training_nothing_retained_is_lost_and_the_loss_is_known(target):
    """T = T_o: l_r = 0 and l_u = (1 + eta)^2 mean (eps(c) - eps(null))^2."""
    unit = erase(target, iterations=1, attack="off", eta=0.0)[1][0]
    assert unit > 0
    for eta in (1.0, 2.0):
        found = erase(target, iterations=1, attack="off", eta=eta)[1][0]
        assert found == pytest.approx((1 + eta) ** 2 * unit, rel=1e-6)
        for retain in ("predictions", "states"):
            kept = erase(target, iterations=1, attack="off", eta=eta, keep_weight=1e3, retain=retain)[1][0]
            assert kept == pytest.approx(found, rel=1e-6)


def test_stored_answers_are_those_of_the_model(target):
    job = work(target)
    states, cond = job.erased(4, 0)
    with torch.no_grad():
        prompt = target.predict(states.inputs, states.timestep, cond)
        null = target.predict(states.inputs, states.timestep, target.encode([""] * 4))
    torch.testing.assert_close(states.predictions["prompt"], prompt, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(states.predictions["null"], null, rtol=1e-4, atol=1e-5)
    stored, asked = (guided(part[0], part[1], -1.0) for part in (
        (states.predictions["null"], states.predictions["prompt"]), (null, prompt)))  # fmt: skip
    assert float((prompt - stored).square().mean()) == pytest.approx(float((prompt - asked).square().mean()), rel=1e-6)


@pytest.mark.parametrize("train", ["text", "x"])
def test_fresh_states_are_answered_by_the_base_model_whatever_the_student_has_learned(tiny_sd1, target, train):
    """Prompts that nobody encoded before the training, too."""
    options = {**FAST, "rollout": "fresh", "templates": ("{}", "a photo of {}"), "keep_weight": 1.0, "train": train}
    run = begun(target, EraseRequest("tiny", (Concept("pizza"),), "advunlearn", options=options))
    base = target_of(tiny_sd1(), "base")
    with prepared(run), torch.no_grad():
        for number, part in enumerate(run.adapters.parameters()):
            part.add_(torch.randn(part.shape, generator=torch.Generator().manual_seed(number)))
        for source in (run.state.erased, run.state.kept):
            states, cond = source(6, 3)
            torch.testing.assert_close(cond.embeds, base.encode(cond.prompts).embeds, rtol=1e-4, atol=1e-5)
            for name, prompts in (("prompt", cond.prompts), ("null", [""] * 6)):
                wanted = base.predict(states.inputs, states.timestep, base.encode(prompts))
                torch.testing.assert_close(states.predictions[name], wanted, rtol=1e-4, atol=1e-5)
        with run.adapters.disabled():
            teacher = target.predict(states.inputs, states.timestep, base.encode([""] * 6))
        student = target.predict(states.inputs, states.timestep, target.encode_live(target.tokens([""] * 6)))
        assert not torch.allclose(teacher, student, atol=1e-3)


def test_the_inner_attack_moves_the_prefix_only_and_by_its_rule(target):
    job = work(target, attack="fast", attack_lr=1e-3)
    start = job.prefix.start(["text_encoder"], job.ctx.generator("prefix 0"))
    moved = (job._attack(0) - start).abs()
    torch.testing.assert_close(moved, torch.full_like(moved, 1e-3), rtol=1e-3, atol=1e-6)
    still = work(target, attack_steps=0)
    assert torch.equal(still._attack(0), start)
    assert float((work(target, attack_steps=3)._attack(0) - start).abs().max()) > 0
    for part in (target.pipe.unet, target.pipe.text_encoder):
        assert all(parameter.grad is None for parameter in part.parameters())


def attack_losses(target, steps, seed=0):
    """Losses of a prefix attack with a fixed budget on fixed states; the answers wanted are the base model's."""
    prefix = Prefix(target, 1)
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn((4, *target.info.latent_shape), generator=generator)
    times, tokens = torch.tensor([801, 601, 401, 201]), target.tokens(["pizza"] * 4)
    wanted = attack_losses.wanted
    if wanted is None:
        with torch.no_grad():
            wanted = attack_losses.wanted = target.predict(x, times, target.encode_live(tokens))
    attack = Attack(prefix.start(["text_encoder"], generator), 3e-2)
    return attack.run(
        lambda rows, _: (target.predict(x, times, prefix.encode(tokens, rows)) - wanted).square().mean(), steps
    )


def test_an_attack_works_on_the_base_and_less_after_training(target):
    attack_losses.wanted = None
    before = attack_losses(target, 30)
    assert before[-1] < 0.8 * before[0]
    artifact, _ = erase(target, iterations=30, eta=3.0)
    with apply(target.pipe, artifact):
        after = attack_losses(target, 30)
    assert after[-1] > before[-1]


def errors(target, artifact):
    """Mean squared distance to the target for the concept, and to the base for a kept word."""
    x = torch.randn((6, *target.info.latent_shape), generator=torch.Generator().manual_seed(77))
    times = torch.tensor([901, 751, 601, 451, 301, 151])

    def answers(prompt):
        with torch.no_grad():
            return target.predict(x, times, target.encode_live(target.tokens([prompt] * 6)))

    base = {prompt: answers(prompt) for prompt in ("pizza", "", "hamburger")}
    wanted = guided(base[""], base["pizza"], -1.0)
    with apply(target.pipe, artifact):
        now = {prompt: answers(prompt) for prompt in base}
    kept = (now["hamburger"] - base["hamburger"]).square().mean() + (now[""] - base[""]).square().mean()
    start = float((base["pizza"] - wanted).square().mean())
    return float((now["pizza"] - wanted).square().mean()) / start, float(kept)


@pytest.mark.parametrize("retain", ["predictions", "states"])
def test_training_erases_and_gamma_trades_it_for_what_is_kept(target, retain):
    def run(gamma):
        artifact = ep.erase(
            target, "pizza", "advunlearn", keep=["hamburger"],
            options={**FAST, "iterations": 25, "keep_weight": gamma, "keep_words": 2, "retain": retain},
        )  # fmt: skip
        return errors(target, artifact)

    free, held, frozen = run(0.0), run(0.3), run(1e3)
    assert free[0] < 1
    assert held[0] < 1
    assert max(free[0], held[0]) < frozen[0]
    assert held[1] < free[1]


@pytest.mark.parametrize("train", ["x", "u"])
def test_the_denoiser_can_be_trained_instead(target, train):
    artifact, losses = erase(target, train=train, iterations=3, keep_weight=0.5)
    assert set(artifact.edit.deltas) == {"unet"}
    assert len(losses) == 3


def test_only_the_wanted_layers_change(target):
    artifact, _ = erase(target, layers=1, parameters="full", iterations=2)
    assert {key.split(".")[2] for _, key, _ in artifact.edit.items()} == {"0"}
    assert not any("embedding" in key or "norm" in key for _, key, _ in artifact.edit.items())


def test_one_artifact_fits_every_denoiser_with_the_same_text_encoder(target, tiny_sd1):
    artifact, _ = erase(target)
    other = tiny_sd1(seed=1)
    other.text_encoder = target.pipe.text_encoder
    with apply(other, artifact) as applied:  # what is not touched may differ, and that is said
        assert "unet" in applied.report()
    tokens, states = target.tokens(["a pizza"]), []
    for pipe in (target.pipe, other):
        with torch.no_grad(), apply(pipe, artifact):
            states.append(target_of(pipe, "tiny").encode_live(tokens).embeds)
    assert torch.equal(*states)


@pytest.mark.parametrize(
    ("changed", "any_base"),
    [({"hidden_size": 64}, False), ({"hidden_size": 64}, True), ({"vocab_size": 60_000}, False)],
)
def test_an_encoder_of_another_width_or_vocabulary_is_refused_untouched(target, tiny_sd1, changed, any_base):
    artifact, _ = erase(target)
    other = tiny_sd1()
    config = type(other.text_encoder.config)(**{**other.text_encoder.config.to_dict(), **changed})
    other.text_encoder = type(other.text_encoder)(config)
    before = {name: part.clone() for name, part in other.text_encoder.state_dict().items()}
    with pytest.raises(BaseMismatch):
        apply(other, artifact, any_base=any_base)
    assert all(torch.equal(part, before[name]) for name, part in other.text_encoder.state_dict().items())


def test_a_fine_tuned_encoder_keeps_its_tuning_and_gets_the_change(target, tiny_sd1):
    artifact, _ = erase(target, parameters="full", iterations=2)
    tuned = tiny_sd1()
    with torch.no_grad():
        for part in tuned.text_encoder.parameters():
            part.add_(0.01 * torch.randn(part.shape, generator=torch.Generator().manual_seed(4)))
    before = {name: part.clone() for name, part in tuned.text_encoder.state_dict().items()}
    group = artifact.edit.deltas["text_encoder"]
    with apply(tuned, artifact, any_base=True) as handle:
        for name, part in tuned.text_encoder.state_dict().items():
            assert torch.equal(part, before[name] + group[name].dense() if name in group else before[name])
        handle.set_strength(0.0)
        assert all(torch.equal(part, before[name]) for name, part in tuned.text_encoder.state_dict().items())


def test_harvested_states_cost_a_tenth_of_fresh_ones(target):
    """A fresh trajectory for every state, as published, against trajectories that are harvested once."""

    def forwards(**options):
        artifact, losses = erase(target, keep_weight=0.5, steps=10, batch=1, keep_batch=5, **options)
        assert len(losses) == options["iterations"]
        return artifact.manifest.extra["numbers"]["unet_forwards"]

    ten, twenty = (forwards(iterations=count, trajectories=8, harvest=10, attack_steps=3) for count in (10, 20))
    pooled = ten + 9 * (twenty - ten)  # of 100 iterations: what is harvested, and as much for each as for any other
    fresh = forwards(iterations=4, attack_steps=3, rollout="fresh") * 100 / 4
    assert fresh > 9 * pooled


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"attack": "slow"}, UnknownName, "attack"),
        ({"attack_steps": -1}, RequestError, "attack_steps"),
        ({"attack_rows": 40}, RequestError, "no room"),
        ({"train": "vae"}, UnknownName, "train"),
        ({"train": "x", "retain": "states"}, RequestError, "use predictions"),
        ({"templates": "a photo"}, RequestError, "no {}"),
        ({"layers": 0}, RequestError, "layers"),
    ],
)
def test_wrong_options_are_refused_at_plan_time(target, options, error, words):
    with pytest.raises(error, match=words):
        make_plan(target, "pizza", "advunlearn", options={**FAST, **options})


def test_wrong_requests_are_refused(target):
    with pytest.raises(RequestError, match="no to="):
        make_plan(target, "pizza", "advunlearn", to="bread", options=FAST)
    with pytest.raises(RequestError, match="no content tokens"):
        ep.erase(target, "<|endoftext|>", "advunlearn", options=FAST)
    with pytest.raises(RequestError, match="no room"):
        ep.erase(target, "pizza " * 29, "advunlearn", options={**FAST, "attack_rows": 2})
