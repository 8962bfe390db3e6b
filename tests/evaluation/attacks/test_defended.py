"""Learned tokens against defences in the sampler: the losses by hand, in the model, and in the attack."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

import erase_plugins as ep
from erase_plugins.engine.context import RunContext
from erase_plugins.engine.inversion import LearnedRows, Lessons, learn_rows, predicted, slots, start_rows
from erase_plugins.engine.loop import Schedule
from erase_plugins.errors import Unsupported
from erase_plugins.evaluation.attack import run_attack
from erase_plugins.evaluation.attacks import inversion
from erase_plugins.evaluation.attacks.defended import DefendedLessons, defences, defended_loss
from erase_plugins.evaluation.attacks.inversion import ConceptInversion
from erase_plugins.evaluation.run import Subject
from erase_plugins.runtime.guardrails.steering import NegativePrompt, SafeLatentDiffusion, SafetySettings
from erase_plugins.testing.models import changed_since, shared_pipeline
from erase_plugins.testing.observe import snapshot
from tests.evaluation.attacks.stub import tiny_subject

SHAPE = (3, 4, 2, 2)
CHEAP = {"steps": 2, "batch": 2, "pictures": 4}
START = torch.zeros(3, 1, 1, 1)


@pytest.fixture
def pipe():
    return shared_pipeline("tiny_sd1")


@pytest.fixture
def said():
    """Predictions for no prompt, two texts and the concept, float64."""
    generator = torch.Generator().manual_seed(5)
    return {
        name: torch.randn(SHAPE, generator=generator, dtype=torch.float64) for name in ("", "n", "s", "n, m", "c", "x")
    }


def sld(warmup=0, scale=0.3, threshold=0.25, strength=1.0):
    settings = SafetySettings(warmup, scale, threshold, 0.5, 0.7)
    return SafeLatentDiffusion("s", settings, None, torch.nn.Identity(), strength)


def loss(said, stages, x, guidance=7.5, step=START):
    return defended_loss(stages, said.__getitem__, x, said["c"], guidance, step)


def test_a_token_that_undoes_a_negative_prompt_has_no_loss(said):
    """Test 8 of the specification: with x* the guided prediction is that of the name without the defence."""
    u, n, c = said[""], said["n"], said["c"]
    for g in (7.5, 3.0, 1.0):
        best = c + (1 - 1 / g) * (n - u)
        torch.testing.assert_close(n + g * (best - n), u + g * (c - u), rtol=1e-5, atol=1e-12)
        assert float(loss(said, [NegativePrompt("n", 1.0)], best, g)) < 1e-28
        # a quarter aside everywhere
        assert float(loss(said, [NegativePrompt("n", 1.0)], best + 0.25, g)) == pytest.approx(0.0625)
    assert torch.equal(c + (1 - 1 / 1.0) * (n - u), c)


def test_sld_without_scale_is_plain_matching(said):
    """Test 9 of the specification, and the warm-up, in which nothing is steered."""
    u, c, x, g = said[""], said["c"], said["x"], 7.5
    plain = ((u + g * (x - u)) - (u + g * (c - u))).square().mean() / g**2
    assert float(loss(said, [sld(scale=0.0)], x)) == pytest.approx(float(plain), rel=1e-12)
    assert float(loss(said, [sld(warmup=4)], x, step=START + 3)) == pytest.approx(float(plain), rel=1e-12)
    steered = float(loss(said, [sld()], x))
    assert abs(steered - float(plain)) > 0.01
    assert float(loss(said, [sld(warmup=4)], x, step=START + 4)) == steered
    # of three samples, the one behind the warm-up alone
    u, s = u[2:], said["s"][2:]
    mu = torch.where(x[2:] - s >= 0.25, 0.0, (0.3 * (x[2:] - s).abs()).clamp(max=1.0))
    off = torch.cat([x[:2], x[2:] - mu * (s - u)]) - c
    step = torch.tensor([0.0, 3.0, 4.0]).view(-1, 1, 1, 1)
    assert float(loss(said, [sld(warmup=4)], x, step=step)) == pytest.approx(float(off.square().mean()), rel=1e-12)


def test_no_gradient_goes_through_the_weights_of_sld(said):
    x = said["x"].clone().requires_grad_()
    loss(said, [sld()], x).backward()
    mu = torch.where(said["x"] - said["s"] >= 0.25, 0.0, (0.3 * (said["x"] - said["s"]).abs()).clamp(max=1.0))
    wanted = 2 * (said["x"] - mu * (said["s"] - said[""]) - said["c"]) / x.numel()
    torch.testing.assert_close(x.grad, wanted)


def test_defences_stand_together_as_in_the_sampler(said):
    """SLD is given the negative prompt's prediction for that of no prompt, in whatever order they came; halved here."""
    u, n, s, c, x, g = *(said[name] for name in ("", "n, m", "s", "c", "x")), 7.5
    mu = torch.where(x - s >= 0.25, 0.0, (0.3 * (x - s).abs()).clamp(max=1.0))
    y = x - 0.5 * mu * (s - n)
    wanted = ((n + g * (y - n)) - (u + g * (c - u))).square().mean() / g**2
    words = [NegativePrompt("n", 1.0), NegativePrompt("m", 1.0)]
    for stages in ([*words, sld(strength=0.5)], [sld(strength=0.5), *words]):
        assert float(loss(said, stages, x)) == pytest.approx(float(wanted), rel=1e-12)


# ---- in a model ----------------------------------------------------------------------------------------------------


def guarded(pipe, *methods, **more) -> Subject:
    """The tiny model with guards against owls (and what else is given) as artifacts."""
    target = tiny_subject(pipe).target
    options = {"sld": {"level": "max"}}
    made = [ep.erase(target, "owl", name, options=options.get(name, {})) for name in methods]
    return tiny_subject(pipe, artifacts=[*made, *more.pop("artifacts", ())], **more)


def lessons_of(subject, seed=0):
    """Lessons on random latents whose prompt is "an owl", and rows in the place of the owl."""
    target = subject.target
    latents = torch.randn((2, *target.info.latent_shape), generator=torch.Generator().manual_seed(seed))
    learned = LearnedRows(target, start_rows(target, ["cat"], 1))
    where = slots(target, ["an owl"] * 2, "owl", 1)
    return Lessons.of(target, latents, 2, RunContext("test")), learned, where


def asked(pipe, text, noisy, times, rows=None):
    """The denoiser by itself, on one text or on encoded rows."""
    embeds = pipe.encode_prompt(text, "cpu", 1, False)[0] if rows is None else rows
    with torch.no_grad():
        return pipe.unet(noisy, times, encoder_hidden_states=embeds.expand(len(noisy), -1, -1))[0]


@pytest.mark.parametrize("names", [("negative-prompt",), ("sld",), ("sld", "negative-prompt"), ()], ids="+".join)
def test_the_loss_in_a_model_is_the_equation_of_its_bare_predictions(pipe, names):
    subject = guarded(pipe, *(names or ("negative-prompt",)), guidance=3.0)
    plain, learned, where = lessons_of(subject)
    latents, noise, times = plain.noised(0)
    alphas = pipe.scheduler.alphas_cumprod[times].view(-1, 1, 1, 1)
    noisy = alphas.sqrt() * latents + (1 - alphas).sqrt() * noise
    with torch.no_grad():
        rows = learned.encode(where).embeds
    u, s, c, x = (asked(pipe, *more) for more in (
        ("", noisy, times), ("owl", noisy, times), ("an owl", noisy, times), ("", noisy, times, rows)
    ))  # fmt: skip
    n, y = (s if "negative-prompt" in names else u), x
    if "sld" in names:
        y = x - torch.where(x - s >= 1.0, 0.0, (5000.0 * (x - s).abs()).clamp(max=1.0)) * (s - n)
    wanted = ((n + 3 * (y - n)) - (u + 3 * (c - u))).square().mean() / 9
    if not names:  # without a guard in force it is the ordinary loss
        wanted = (x - noise).square().mean()
    with subject.under("on" if names else "off"):
        lessons = DefendedLessons.under(plain, subject, defences(subject), ["an owl"] * 2)
        found = lessons.loss(0, learned.encode(where))
    assert float(found.detach()) == pytest.approx(float(wanted), rel=1e-4)
    found.backward()
    assert learned.rows.grad.abs().max() > 0
    passes = {(): 1, ("negative-prompt",): 4, ("sld",): 4, ("sld", "negative-prompt"): 4}[names]
    assert plain.ctx.numbers["training_passes"] == 2 * passes


def test_beside_edited_weights_the_noise_stands_for_what_the_name_led_to(pipe):
    """No pass by the concept's name then: its answer is that of the edit."""
    edit = tiny_subject(pipe).artifacts
    subject = guarded(pipe, "negative-prompt", artifacts=edit, guidance=3.0)
    plain, learned, where = lessons_of(subject)
    latents, noise, times = plain.noised(0)
    alphas = pipe.scheduler.alphas_cumprod[times].view(-1, 1, 1, 1)
    noisy = alphas.sqrt() * latents + (1 - alphas).sqrt() * noise
    with subject.under("on"):
        found = DefendedLessons.under(plain, subject, defences(subject), ["an owl"] * 2).loss(0, learned.encode(where))
        with torch.no_grad():
            x = subject.target.predict(noisy, times, learned.encode(where))
            u, n = (subject.target.predict(noisy, times, subject.target.encode([text] * 2)) for text in ("", "owl"))
    wanted = ((n + 3 * (x - n)) - (u + 3 * (noise - u))).square().mean() / 9
    assert float(found.detach()) == pytest.approx(float(wanted), rel=1e-4)
    assert plain.ctx.numbers["training_passes"] == 2 * 3


@pytest.mark.parametrize("method", ["nag", "negpip"])
def test_guards_of_cross_attention_are_in_force_while_a_token_is_learned(pipe, method):
    """What the token's pass gives is what the pipeline's own pass gives under the guard, at guidance 1."""
    subject, seen = guarded(pipe, method), []
    _, learned, where = lessons_of(subject)
    with torch.no_grad():
        cond = learned.encode(where)
    hook = pipe.unet.register_forward_hook(
        lambda _m, args, kwargs, out: seen.append((args[0], args[1], out[0])), with_kwargs=True
    )
    with subject.under("on"):
        (stage,) = defences(subject)
        pipe(prompt_embeds=cond.embeds, num_inference_steps=1, guidance_scale=1.0, output_type="latent")
        noisy, time, wanted = seen[0]
        lessons = SimpleNamespace(stages=(stage,))
        time = time.expand(2)
        bare = predicted(subject.target, noisy, time, cond)
        found = predicted(subject.target, noisy, time, cond, "float32",
                          lambda rows: DefendedLessons._passing(lessons, rows))  # fmt: skip
        after = predicted(subject.target, noisy, time, cond)
    hook.remove()
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
    assert (bare - wanted).abs().max() > 1e-3
    assert torch.equal(after, bare), "the guard was left in force"


@pytest.mark.parametrize("method", ["nag", "negpip"])
def test_the_loss_through_guards_of_cross_attention_is_that_of_their_prediction(pipe, method):
    """Mean (x - c)^2, as both sides are guided away from the same prediction for no prompt."""
    subject = guarded(pipe, method, guidance=3.0)
    plain, learned, where = lessons_of(subject)
    latents, noise, times = plain.noised(0)
    alphas = pipe.scheduler.alphas_cumprod[times].view(-1, 1, 1, 1)
    noisy = alphas.sqrt() * latents + (1 - alphas).sqrt() * noise
    c = asked(pipe, "an owl", noisy, times)
    with subject.under("on"):
        (stage,) = defences(subject)
        with torch.no_grad(), stage.passing(2):
            x = subject.target.predict(noisy, times, learned.encode(where))
        found = DefendedLessons.under(plain, subject, (stage,), ["an owl"] * 2).loss(0, learned.encode(where))
        found.backward()
    assert float(found.detach()) == pytest.approx(float((x - c).square().mean()), rel=1e-4)
    assert learned.rows.grad.abs().max() > 0


def test_what_is_learned_undoes_the_defence_better_than_what_is_learned_on_the_bare_model(pipe):
    """On fixed latents, by the defended loss: the token learned by it, and the one that the attack used to learn."""
    subject = guarded(pipe, "sld", guidance=7.5)
    reached = {}
    with subject.under("on"):
        for name, stages in (("start", ()), ("bare", ()), ("defended", defences(subject))):
            plain, learned, where = lessons_of(subject)
            trained = DefendedLessons.under(plain, subject, stages, ["an owl"] * 2)
            if name != "start":
                learn_rows(learned, where, trained, Schedule(25, 0.05), trained.ctx, "")
            judged = DefendedLessons.under(plain, subject, defences(subject), ["an owl"] * 2)
            with torch.no_grad():
                cond = learned.encode(where)
                reached[name] = sum(float(judged.loss(step, cond)) for step in range(25)) / 25
    assert reached["defended"] < 0.97 * min(reached["bare"], reached["start"]), reached


# ---- in the attack -------------------------------------------------------------------------------------------------


def attack(subject, **more):
    settings = {**CHEAP, **more}
    return run_attack(ConceptInversion(), lambda: subject, 4 * inversion._SETS, settings=settings)


def test_pictures_are_drawn_with_the_defence_and_the_control_without(pipe, monkeypatch):
    negatives = []
    own = NegativePrompt.before

    def spied(self, given):
        found = own(self, given)
        negatives.append((given["prompt"] is None, found["negative_prompt"]))
        return found

    monkeypatch.setattr(NegativePrompt, "before", spied)
    before = snapshot(pipe)
    found = attack(guarded(pipe, "negative-prompt"), early=False)
    assert changed_since(pipe, before) == ""
    named, learned = ([texts for rows, texts in negatives if rows is token] for token in (False, True))
    assert sum(map(len, named)) == 4  # by the plain name
    assert sum(map(len, learned)) == 4 + 1  # measured, and one look at one picture on the way
    assert {text for texts in (*named, *learned) for text in texts} == {"owl"}
    # four passes a sample for the edited model, one for the destroyed one, which has no defence
    assert found.details["training_passes"] == 2 * 2 * (4 + 1)


@pytest.mark.parametrize("method", ["keyword-guard", "embedding-guard", "safree"])
def test_guards_that_read_prompts_are_refused_before_any_picture(pipe, method):
    target = tiny_subject(pipe).target
    options = {"keyword-guard": {"action": "empty"}, "embedding-guard": {"words": 8}}.get(method, {})
    subject = tiny_subject(pipe, artifacts=[ep.erase(target, "owl", method, options=options)])
    with pytest.raises(Unsupported, match="guard 'erase_owl' reads prompts, and a learned token is no text") as refused:
        attack(subject)
    assert subject.queries == 0 and "\n" not in str(refused.value)
    assert "encode_prompt" not in vars(pipe)


def test_a_guard_that_only_warns_is_no_defence(pipe):
    target = tiny_subject(pipe).target
    subject = tiny_subject(pipe, artifacts=[ep.erase(target, "owl", "keyword-guard", options={"action": "flag"})])
    with subject.under("on"):
        assert defences(subject) == ()


def test_guards_that_are_switched_off_are_no_defence(pipe):
    subject = guarded(pipe, "negative-prompt")
    with subject.under("on", 0.0):
        assert defences(subject) == ()
    with subject.under("on"):
        assert [stage.text for stage in defences(subject)] == ["owl"]
