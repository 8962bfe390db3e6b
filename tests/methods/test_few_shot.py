"""Few-shot unlearning: the climb, what is held, files, refusals. Sizes of the trained set: test_text_tuning.py."""

from __future__ import annotations

from contextlib import nullcontext
from functools import cache

import pytest
import torch
from PIL import Image

import erase_plugins as ep
from erase_plugins.api import plan as make_plan
from erase_plugins.engine import trajectories
from erase_plugins.engine.adapters import Adapters
from erase_plugins.engine.loop import Schedule, train
from erase_plugins.engine.prompt_templates import CAPTIONS
from erase_plugins.errors import RequestError, RunRefused, UnknownName, Unsupported
from erase_plugins.methods.few_shot import FewShotOptions, _Work
from erase_plugins.options import resolve
from erase_plugins.training.text_tuning import text_refs
from erase_plugins.types import Concept, EraseRequest
from erase_plugins.workflow.applying import apply
from erase_plugins.workflow.models import target_of
from tests.methods.runs import begun

FAST = {
    "iterations": 4, "batch": 4, "draw": 4, "steps": 3, "keep_words": 8, "keep_batch": 4, "keep_weight": 0.0, "rank": 4,
    "precision": "float32", "aliases": False, "cooldown": 0.0, "lr": 1e-2,
}  # fmt: skip


@pytest.fixture
def target(tiny_sd1):
    return target_of(tiny_sd1(), "tiny")


def erase(target, concept="pizza", **options):
    return ep.erase(target, concept, "few-shot", options={**FAST, **options})


def work(target, kind="object", **options):
    """The loss of a run, with fresh adapters that are not attached; the captions are those of the kind."""
    options.setdefault("captions", ())
    request = EraseRequest("tiny", (Concept("pizza", kind),), "few-shot", options={**FAST, **options})
    run = begun(target, request)
    run.adapters = Adapters(target, text_refs(target.info, "mlp"), 4)
    return _Work(run)


def drift(target, artifact, prompts):
    """Relative change of the text states."""
    tokens = target.tokens(prompts)
    with torch.no_grad():
        before = target.encode_live(tokens).embeds
        with apply(target.pipe, artifact):
            after = target.encode_live(tokens).embeds
    return float((after - before).norm() / before.norm())


def concept_loss(target, around=None):
    """Denoising loss on drawn pictures of the concept, fixed noise and times, inside a context."""
    job = work(target)
    latents, draw = job.shown[0][[0, 1, 2, 3, 0, 1, 2, 3]], torch.Generator().manual_seed(9)
    noise = torch.randn(latents.shape, generator=draw)
    times = torch.tensor([900, 780, 660, 540, 420, 300, 180, 60])
    with torch.no_grad():
        x = job.scheduler.add_noise(latents, noise, times)
        with around or nullcontext():
            out = target.predict(x, times, target.encode_live(target.tokens(["a pizza"] * 8)))
    return float((out - noise).square().mean())


def test_the_loss_on_the_concepts_pictures_climbs(target):
    artifact = erase(target, iterations=20, limit=0.0)
    assert concept_loss(target, apply(target.pipe, artifact)) > concept_loss(target) * 1.001


def test_with_the_sign_turned_it_falls(target):
    job, before = work(target, limit=0.0), concept_loss(target)
    with job.adapters:
        train(job.ctx, job.adapters, lambda step: -job.loss(step), Schedule(20, 1e-2), "key")
    assert concept_loss(target, job.adapters) < before


def test_the_papers_modules_change_and_nothing_else(target):
    """Embeddings, layer norms, attention before the last layer and the denoiser stay to the last bit."""
    artifact = erase(target, iterations=2, parameters="full")
    parts = ("text_encoder", "unet")
    before = {(part, name): tensor.clone() for part in parts
              for name, tensor in getattr(target.pipe, part).state_dict().items()}  # fmt: skip
    with apply(target.pipe, artifact):
        changed = {key for part in parts for name, tensor in getattr(target.pipe, part).state_dict().items()
                   if not torch.equal(tensor, before[key := (part, name)])}  # fmt: skip
    assert {part for part, _ in changed} == {"text_encoder"}
    modules = {name.rpartition(".")[0] for _, name in changed}
    assert len(modules) == 2 * 2 + 4
    assert all(name.endswith((".mlp.fc1", ".mlp.fc2")) or ".layers.1.self_attn." in name for name in modules)


def test_with_an_anchor_it_falls_on_the_anchors_pictures(target):
    """Anchor pictures alone (no climb left above limit 0+): the captions come to mean them."""
    losses = []
    ep.erase(
        target, "pizza", "few-shot", to="dog", options={**FAST, "iterations": 25, "limit": 1e-6, "anchor_weight": 1.0},
        listeners=[lambda event: losses.append(event.numbers["loss"]) if "loss" in event.numbers else None],
    )  # fmt: skip
    assert losses[0] == pytest.approx(1.0, abs=1e-4)
    assert sum(losses[-5:]) < sum(losses[:5])


def test_the_climb_ends_at_the_limit(target):
    job = work(target, limit=1.0)
    assert float(job.loss(0)) == pytest.approx(0.0, abs=1e-6)
    assert float(work(target, limit=2.5).loss(0)) == pytest.approx(1.5, rel=1e-4)
    assert float(work(target, limit=0.0).loss(0)) == pytest.approx(-1.0, rel=1e-4)


def test_gradient_goes_through_the_context_into_the_trained_set_only(target):
    job = work(target)
    with job.adapters:
        loss = job.loss(0)
        grads = torch.autograd.grad(loss, job.adapters.parameters(), allow_unused=True)
    named = dict(zip(job.adapters.named_parameters(), grads, strict=True))
    assert all(float(grad.abs().max()) > 0 for name, grad in named.items() if name.endswith(".B"))
    for part in (target.pipe.unet, target.pipe.text_encoder):
        assert all(parameter.grad is None for parameter in part.parameters())


def test_the_first_step_moves_every_weight_by_at_most_the_rate(target):
    artifact = erase(target, iterations=1, parameters="full", lr=1e-3)
    sizes = [float(delta.dense().abs().max()) for _, _, delta in artifact.edit.items()]
    assert max(sizes) <= 1e-3 * 1.01
    assert max(sizes) > 1e-4
    assert {key.rpartition(".")[2] for _, key, _ in artifact.edit.items()} == {"weight", "bias"}


def test_published_defaults_for_full_sized_models():
    """Four pictures two at a time, five times over, are ten steps."""
    options = resolve(FewShotOptions, {}, ("sd1", "object"))
    assert options.iterations == -(-options.draw // options.batch) * 5 == 10
    assert (options.scope, options.rank, options.captions) == ("mlp-final-attn", 16, ())


def test_every_step_is_taken(target):
    losses = []
    ep.erase(target, "pizza", "few-shot", options={**FAST, "iterations": 3},
             listeners=[lambda event: losses.append(event.done) if "loss" in event.numbers else None])  # fmt: skip
    assert losses == [1, 2, 3]


def test_no_rate_no_change(target):
    with pytest.raises(RunRefused, match="every change is zero"):
        erase(target, lr=0.0)


@pytest.fixture(scope="module")
def on_pocket(pocket_target):
    """Function that gives a run on pocket whose words are held with a weight; each is trained once."""
    options = {"iterations": 12, "lr": 4e-3, "keep_words": 60, "keep_batch": 12, "precision": "auto"}
    return cache(lambda weight: erase(pocket_target, **options, keep_weight=weight))


def test_what_is_held_moves_less_than_without_and_less_than_the_concept(pocket_target, on_pocket):
    neutral = ["a red house", "a dog", "a blue car", "hamburger", ""]
    plain, held = on_pocket(0.0), on_pocket(30.0)
    assert drift(pocket_target, held, neutral) < 0.7 * drift(pocket_target, plain, neutral)
    assert drift(pocket_target, held, neutral) < 0.7 * drift(pocket_target, held, ["a pizza"])


def test_the_paper_s_weight_holds_32_captions(pocket_target, on_pocket):
    words = pocket_target.vocabulary()[300:332]
    plain, held = on_pocket(0.0), on_pocket(1.0)
    free, kept = ([drift(pocket_target, item, [f"a {word}"]) for word in words] for item in (plain, held))
    assert sum(kept) < sum(free)
    assert sum(kept) / len(words) < drift(pocket_target, held, ["a pizza"])


@pytest.mark.parametrize("scope", ["mlp", "attn", "mlp-final-attn"])
@pytest.mark.parametrize("layout", ["diffusers", "kohya"])
def test_files_give_stock_loaders_the_same_text_states(target, tmp_path, scope, layout):
    artifact = erase(target, scope=scope, iterations=3)
    saved = artifact.save(tmp_path / "out", (layout,), target=target)
    tokens = target.tokens(["a pizza", "a dog"])
    with torch.no_grad():
        with apply(target.pipe, artifact):
            expected = target.encode_live(tokens).embeds
        target.pipe.load_lora_weights(str(tmp_path / "out"), weight_name=saved.manifest.files[0].name)
        found = target.encode_live(tokens).embeds
        target.pipe.unload_lora_weights()
        plain = target.encode_live(tokens).embeds
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert float((expected - plain).abs().max()) > 1e-3


def test_captions_are_those_of_the_kind(target):
    job = work(target, kind="style")
    assert job.captions[0] == [template.format("pizza") for template in CAPTIONS["style"]]
    assert "a photo of a pizza" in work(target).captions[0]
    assert "a photo of a pizza" not in job.captions[0]


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_a_perfect_model_has_no_loss(tiny_sd1, monkeypatch, prediction):
    target = target_of(tiny_sd1(prediction=prediction), "tiny")
    job = work(target)
    latents, calls = job.shown[0], []

    def perfect(_target, inputs, times, _cond, _ctx):
        calls.append(1)
        if len(calls) % 2 == 0:  # the base model
            return inputs + 1
        share = job.scheduler.alphas_cumprod[times].reshape(-1, 1, 1, 1)
        noise = (inputs - share.sqrt() * latents) / (1 - share).sqrt()
        return noise if prediction == "epsilon" else share.sqrt() * noise - (1 - share).sqrt() * latents

    monkeypatch.setattr(trajectories, "ask", perfect)
    ratio = job._ratio(latents, ["pizza"] * 4, torch.Generator().manual_seed(0))
    assert ratio.shape == (4,)
    assert float(ratio.max()) < 1e-6


def test_picture_files_are_used_and_only_their_names_are_kept(target, tmp_path):
    names = []
    for number in range(2):
        Image.new("RGB", (64, 64), (250 * number, 30, 90)).save(tmp_path / f"{number}.png")
        names.append(str(tmp_path / f"{number}.png"))
    given = {**FAST, "pictures": ",".join(names), "anchor_pictures": names[0]}
    artifact = ep.erase(target, "pizza", "few-shot", options=given)
    assert artifact.manifest.options["pictures"] == ("0.png", "1.png")
    assert str(tmp_path) not in artifact.manifest.to_json()
    again = ep.erase(
        target, Concept("pizza", images=tuple(names)), "few-shot", options={**FAST, "anchor_pictures": names[0]}
    )
    for (_, _, one), (_, _, other) in zip(artifact.edit.items(), again.edit.items(), strict=True):
        assert torch.equal(one.dense(), other.dense())
    assert str(tmp_path) not in again.manifest.to_json()
    assert make_plan(target, "pizza", "few-shot", options=given).notes == ()


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"pictures": "none.png"}, RequestError, "no file 'none.png'"),
        ({"scope": "unet"}, UnknownName, "scope"),
        ({"draw": 0}, RequestError, "draw"),
        ({"limit": -1}, RequestError, "limit"),
        ({"captions": "a photo"}, RequestError, "no {}"),
        ({"parameters": "dora"}, UnknownName, "parameters"),
    ],
)
def test_wrong_options_are_refused_at_plan_time(target, options, error, words):
    with pytest.raises(error, match=words):
        make_plan(target, "pizza", "few-shot", options={**FAST, **options})


def test_wrong_requests_and_models_are_refused(target, tiny_sd1, tmp_path):
    Image.new("RGB", (64, 64)).save(tmp_path / "a.png")
    with pytest.raises(RequestError, match="one concept per run"):
        make_plan(target, ["pizza", "dog"], "few-shot", options={**FAST, "pictures": str(tmp_path / "a.png")})
    with pytest.raises(Unsupported, match="explicit content"):
        make_plan(target, "pizza", "few-shot", kind="explicit", options=FAST)
    with pytest.raises(RequestError, match="no content tokens"):
        erase(target, "<|endoftext|>")
    with pytest.raises(RequestError, match="does not fit"):
        erase(target, "pizza " * 29)
    other = target_of(tiny_sd1(prediction="sample"), "tiny")
    with pytest.raises(Unsupported, match="sample"):
        make_plan(other, "pizza", "few-shot", options=FAST)
