"""LECO: targets, module sets, sliders, negative strength, refusals."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import erase_plugins as ep
from erase_plugins.api import plan as make_plan
from erase_plugins.engine import pools
from erase_plugins.errors import RequestError, UnknownName
from erase_plugins.methods.leco import LECOOptions, leco_target
from erase_plugins.options import resolve
from erase_plugins.workflow.applying import apply
from erase_plugins.workflow.models import target_of

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "data"
FAST = {
    "iterations": 3, "trajectories": 2, "harvest": 3, "steps": 5, "keep_words": 0, "precision": "float32", "batch": 2,
}  # fmt: skip


@pytest.fixture
def target(tiny_sd1):
    return target_of(tiny_sd1(), "tiny")


def first_loss(target, **options):
    losses = []
    ep.erase(
        target, "pizza", "leco", options={**FAST, "iterations": 1, **options},
        listeners=[lambda event: losses.append(event.numbers["loss"]) if "loss" in event.numbers else None],
    )  # fmt: skip
    return losses[0]


def test_erase_and_enhance_mirror_each_other_at_the_neutral_prediction():
    neutral, positive, other = torch.randn(3, 2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    down = leco_target(neutral, positive, other, 1.5)
    up = leco_target(neutral, positive, other, 1.5, "enhance")
    torch.testing.assert_close((up + down) / 2, neutral)
    torch.testing.assert_close(up - down, 3.0 * (positive - other))


@pytest.mark.parametrize("eta", [1.0, 2.0, 3.0])
def test_the_plain_entry_is_the_papers_esd_target(eta):
    """tau = pi, u = nu = '': the replayed target of the official script."""
    stored = load_file(GOLDEN / "esd_case1.safetensors")
    null, erase = stored["fixed.eps.null"], stored["fixed.eps.erase"]
    found = leco_target(null, erase, null, eta)
    torch.testing.assert_close(found, stored[f"fixed.target_paper.{eta}"], rtol=1e-5, atol=1e-6)


def test_first_loss_is_that_of_esd(target):
    """Student = teacher: (1 + eta)^2 mean (eps(c) - eps(''))^2."""
    assert first_loss(target, eta=2.0) == pytest.approx(9 * first_loss(target, eta=0.0), rel=1e-4)
    assert first_loss(target, eta=1.0, action="enhance") == pytest.approx(0.0, abs=1e-9)


@pytest.mark.parametrize(
    ("layers", "inside", "outside"),
    [("xattn", "attn2", "attn1"), ("selfattn", "attn1", "attn2"), ("noxattn", "attn1", "attn2")],
)
def test_layer_choices_select_attention_modules(target, layers, inside, outside):
    names = make_plan(target, "pizza", "leco", options={"layers": layers}).modules
    assert any(inside in name for name in names)
    assert not any(outside in name for name in names)
    if layers == "xattn":
        every = {f"unet.{ref.path}" for ref in target.modules("cross_attn")}
        assert set(names) == every


def test_c3lier_adds_the_convolution_blocks(target):
    small, large = (
        set(make_plan(target, "pizza", "leco", options={"modules": m}).modules) for m in ("lierla", "c3lier")
    )
    assert small < large
    assert all("attentions" in name for name in small)
    assert any("resnets" in name and "conv1" in name for name in large - small)


def test_alpha_is_baked_into_the_up_factors(target):
    """alpha scales the change: the first SGD step's product grows with its square."""
    options = {**FAST, "iterations": 1, "optimizer": "sgd", "lr": 1.0}
    one, two = (
        ep.erase(target, "pizza", "leco", options={**options, "alpha": alpha}).edit.deltas["unet"]
        for alpha in (1.0, 2.0)
    )
    key = next(name for name in one if "attn2.to_v" in name)
    torch.testing.assert_close(two[key].B, 4 * one[key].B, rtol=1e-3, atol=1e-7)


def test_a_slider_trains_along_its_direction_and_turns_round(target):
    """The change at the target follows eps(pi) - eps(u); a negative strength goes the other way."""
    options = {
        **FAST, "iterations": 60, "lr": 1e-2, "positive": "pizza rocket", "unconditional": "pizza guitar",
        "neutral": "pizza", "action": "enhance", "eta": 3.0, "trajectories": 8, "alpha": 4.0, "batch": 4,
    }  # fmt: skip
    artifact = ep.erase(target, "pizza", "leco", options=options)
    x = torch.randn((8, *target.info.latent_shape), generator=torch.Generator().manual_seed(4))
    cond = {text: target.encode([text] * 8) for text in ("pizza", "pizza rocket", "pizza guitar")}
    with torch.no_grad():
        base = {text: target.predict(x, 500, rows) for text, rows in cond.items()}
        along = (base["pizza rocket"] - base["pizza guitar"]).flatten()
        with apply(target.pipe, artifact) as handle:
            forward = (target.predict(x, 500, cond["pizza"]) - base["pizza"]).flatten()
            handle.set_strength(-1.0)
            back = (target.predict(x, 500, cond["pizza"]) - base["pizza"]).flatten()
    assert torch.cosine_similarity(forward, along, dim=0) > 0.3
    assert torch.cosine_similarity(back, along, dim=0) < -0.3


def test_attributes_multiply_every_prompt(target):
    asked = []
    encode = target.encode
    target.encode = lambda prompts: asked.extend(prompts) or encode(prompts)
    ep.erase(target, "pizza", "leco", options={**FAST, "attributes": "red,blue", "neutral": "dog", "templates": "{}"})
    assert {"red pizza", "blue pizza", "red dog", "blue dog"} <= set(asked)
    assert "pizza" not in asked


def test_all_four_prompts_of_a_state_have_the_same_attribute(target, monkeypatch):
    """y = eps(a nu) - eta (eps(a pi) - eps(a u)) for the attribute a of the trained prompt, asked again one by one."""
    for name, part in target.pipe.unet.named_parameters():
        if "attn2.to_v" in name or "attn2.to_out.0.weight" in name:
            part.data *= 8  # a random network that reads its prompt
    seen, real = [], pools.mean_squares
    monkeypatch.setattr(
        pools, "mean_squares", lambda owner, parts, *more: seen.append(parts[0]) or real(owner, parts, *more)
    )
    options = {
        **FAST, "iterations": 1, "batch": 12, "templates": "{}", "attributes": "red,blue", "positive": "hot pizza",
        "unconditional": "dog", "neutral": "guitar", "eta": 2.0,
    }  # fmt: skip
    ep.erase(target, "pizza", "leco", options=options)
    (part,) = seen
    words = [prompt.removesuffix(" pizza") for prompt in part.cond.prompts]
    assert sorted(words) == ["blue"] * 6 + ["red"] * 6  # two trajectories of three states for each

    def predict(words, text):
        cond = target.encode([f"{word} {text}" for word in words])
        with torch.no_grad():
            return target.predict(part.states.inputs, part.states.timestep, cond)

    def goal(words):
        return predict(words, "guitar") - 2.0 * (predict(words, "hot pizza") - predict(words, "dog"))

    torch.testing.assert_close(part.wanted, goal(words), atol=1e-4, rtol=1e-4)
    swapped = goal(["red" if word == "blue" else "blue" for word in words])
    assert float((part.wanted - swapped).abs().amax((1, 2, 3)).min()) > 1e-2  # the other attribute says something else


def test_to_is_the_neutral_prompt(target):
    asked = []
    encode = target.encode
    target.encode = lambda prompts: asked.extend(prompts) or encode(prompts)
    ep.erase(target, "pizza", "leco", to="guitar", options={**FAST, "templates": "{}"})
    assert "guitar" in asked


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"layers": "xattn2"}, UnknownName, "layers"),
        ({"modules": "lycoris"}, UnknownName, "modules"),
        ({"eta": -1.0}, RequestError, "eta"),
        ({"positive": "old", "unconditional": "old"}, RequestError, "no direction"),
        ({"templates": "a photo"}, RequestError, "no {}"),
    ],
)
def test_wrong_options_are_refused_at_plan_time(target, options, error, words):
    with pytest.raises(error, match=words):
        make_plan(target, "pizza", "leco", options=options)


def test_wrong_requests_are_refused_at_plan_time(target):
    with pytest.raises(RequestError, match="give one of them"):
        make_plan(target, "pizza", "leco", to="guitar", options={"neutral": "dog"})
    with pytest.raises(RequestError, match="would become itself"):
        make_plan(target, "pizza", "leco", to="pizza")


def test_published_defaults_for_full_sized_models():
    options = resolve(LECOOptions, {}, ("sd1",))
    assert (options.rank, options.alpha, options.iterations, options.eta) == (4, 1.0, 500, 1.0)
    assert (options.optimizer, options.guidance, options.steps, options.layers) == ("adamw", 3.0, 50, "full")


def test_sdxl_one_step(tiny_sdxl):
    model = target_of(tiny_sdxl(), "tiny")
    seen = []
    predict = model.predict
    model.predict = lambda x, t, cond: seen.append(cond) or predict(x, t, cond)
    artifact = ep.erase(model, "pizza", "leco", options={**FAST, "iterations": 1, "modules": "c3lier"})
    assert all(cond.pooled is not None for cond in seen)
    assert artifact.edit.kinds == {"lowrank"}
