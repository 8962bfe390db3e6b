"""Learned rows: in their slots, through stock loaders, and nothing else moves."""

from __future__ import annotations

import pytest
import torch

from erase_plugins.engine.inversion import LearnedRows, denoising_loss, slots, start_rows
from erase_plugins.errors import RequestError
from erase_plugins.evaluation.attacks.rows import write_rows
from erase_plugins.testing.models import changed_since, fresh_pipeline, shared_pipeline
from erase_plugins.testing.observe import snapshot
from erase_plugins.testing.tiny import tiny_sd1
from erase_plugins.workflow.models import target_of

MODELS = ("tiny_sd1", "tiny_sdxl")


@pytest.fixture(params=MODELS)
def name(request):
    return request.param


@pytest.fixture
def target(name):
    return target_of(shared_pipeline(name), "tiny")


def test_a_row_equal_to_a_token_is_that_token(target):
    learned = LearnedRows(target, start_rows(target, ["owl"], 1))
    where = slots(target, ["a cat", "a red cat, on a road"], "cat", 1)
    plain = target.encode(["a owl", "a red owl, on a road"])
    found = learned.encode(where)
    assert torch.equal(found.embeds, plain.embeds) and found.last == plain.last
    assert (found.pooled is None) == (plain.pooled is None)
    assert found.pooled is None or torch.equal(found.pooled, plain.pooled)
    second = learned.encode(where, [1])
    torch.testing.assert_close(second.embeds[0], plain.embeds[1])


@pytest.mark.parametrize("count", [1, 3])
def test_stock_diffusers_loads_the_file_and_encodes_the_same(name, target, count, tmp_path):
    from safetensors.torch import load_file

    width = sum(target.token_table(part).shape[1] for part in target.tokens([""]).ids)
    learned = LearnedRows(target, torch.randn(count, width, generator=torch.Generator().manual_seed(3)))
    with torch.no_grad():
        wanted = learned.encode(slots(target, ["a red cat"], "cat", count))
    write_rows(learned.by_encoder(), "<found>", tmp_path / "token.safetensors")
    pipe = fresh_pipeline(name)
    if name == "tiny_sd1":
        pipe.load_textual_inversion(tmp_path / "token.safetensors")
    else:
        rows = load_file(tmp_path / "token.safetensors")
        assert sorted(rows) == ["clip_g", "clip_l"]
        pipe.load_textual_inversion(rows["clip_l"], "<found>", tokenizer=pipe.tokenizer, text_encoder=pipe.text_encoder)
        pipe.load_textual_inversion(
            rows["clip_g"], "<found>", tokenizer=pipe.tokenizer_2, text_encoder=pipe.text_encoder_2
        )
    out = pipe.encode_prompt("a red <found>", device="cpu", num_images_per_prompt=1, do_classifier_free_guidance=False)
    torch.testing.assert_close(out[0], wanted.embeds, atol=1e-6, rtol=0)
    if wanted.pooled is not None:
        torch.testing.assert_close(out[2], wanted.pooled, atol=1e-6, rtol=0)


def test_only_the_rows_take_a_gradient(name, target):
    before = snapshot(shared_pipeline(name))
    learned = LearnedRows(target, start_rows(target, ["owl"], 2))
    with learned:
        cond = learned.encode(slots(target, ["a cat"], "cat", 2))
        noise = torch.ones(1, *target.info.latent_shape)
        target.predict(noise, torch.tensor([7]), cond).square().sum().backward()
    assert learned.rows.grad is not None and float(learned.rows.grad.abs().min()) > 0
    linear = [target.module(ref).weight.grad for ref in target.modules("cross_kv")]
    assert linear == [None] * len(linear)
    assert changed_since(shared_pipeline(name), before) == ""


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_a_model_that_says_the_truth_has_no_loss(prediction, monkeypatch):
    """Noise, or the velocity sqrt(a) noise - sqrt(1 - a) picture."""
    target = target_of(tiny_sd1(prediction=prediction), "tiny")
    alphas, times = target.scheduler(1, "ddim").alphas_cumprod, torch.tensor([3, 500, 990])
    picture, noise = torch.randn(2, 3, 4, 8, 8, generator=torch.Generator().manual_seed(0)).unbind(0)
    a = alphas[times].view(-1, 1, 1, 1)
    truth = noise if prediction == "epsilon" else a.sqrt() * noise - (1 - a).sqrt() * picture
    monkeypatch.setattr(type(target), "predict", lambda self, noisy, steps, cond: truth)
    cond = target.encode(["a cat"] * 3)
    assert float(denoising_loss(target, picture, noise, times, alphas, cond)) < 1e-12
    truth = truth + 0.5
    assert float(denoising_loss(target, picture, noise, times, alphas, cond)) == pytest.approx(0.25, rel=1e-4)


def test_where_rows_begin(target):
    owl = start_rows(target, ["owl"], 2)
    assert torch.equal(owl[0], owl[1])
    assert torch.equal(start_rows(target, ["motorcycles upside down", "owl"], 2), owl), "the first that is one token"
    mean = start_rows(target, ["motorcycles upside down"], 1)
    first = next(iter(target.tokens([""]).ids))
    table = target.token_table(first)
    torch.testing.assert_close(mean[0, : table.shape[1]], table.mean(0))
    with pytest.raises(RequestError, match="start 'upside down' is not one token"):
        start_rows(target, ["upside down"], 1, chosen=True)


def test_prompts_without_the_word_and_without_room_are_refused(target):
    with pytest.raises(RequestError, match="'a cathedral' does not name 'cat'"):
        slots(target, ["a cathedral"], "cat", 1)
    with pytest.raises(RequestError, match="with 40 learned rows has"):
        slots(target, ["a cat"], "cat", 40)
