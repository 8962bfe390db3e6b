"""Pictures of every family from given seeds, as many at once as memory allows."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

import erase_plugins as ep
from erase_plugins.engine import activations
from erase_plugins.evaluation.draw import draw, sampler_facts
from erase_plugins.testing.tiny import tiny_flux, tiny_sd1, tiny_sd3, tiny_sdxl
from erase_plugins.workflow.models import target_of


@pytest.mark.parametrize("distilled", [True, False])
def test_flux_draws_what_the_stock_pipeline_draws_from_that_seed(distilled):
    pipe = tiny_flux(distilled=distilled)
    sampler, options = pipe.scheduler, {"height": 16, "width": 16, "num_inference_steps": 2, "guidance_scale": 4.0}
    generator = torch.Generator().manual_seed(7)
    wanted = pipe("a cat", generator=[generator], output_type="pt", **options).images
    assert torch.equal(ep.generate(pipe, "a cat", seeds=7, steps=2), wanted)
    assert pipe.scheduler is sampler


@pytest.mark.parametrize(
    ("make", "name"), [(tiny_sd1, "dpm++"), (tiny_sd3, "dpm++"), (tiny_flux, "FlowMatchEulerDiscreteScheduler")]
)
def test_the_sampler_that_draws_is_named(make, name):
    pipe = make()
    subject = SimpleNamespace(pipe=pipe, target=target_of(pipe), steps=2, guidance=4.0)
    assert sampler_facts(subject) == {"steps": 2, "guidance": 4.0, "scheduler": name}


def test_a_model_that_keeps_its_own_sampler_says_so():
    pipe = tiny_sd3()
    pipe.scheduler.register_to_config(use_dynamic_shifting=True)
    subject = SimpleNamespace(pipe=pipe, target=target_of(pipe), steps=2, guidance=4.0)
    assert sampler_facts(subject)["scheduler"] == "FlowMatchEulerDiscreteScheduler"
    assert sampler_facts(SimpleNamespace(pipe=None, steps=2, guidance=4.0))["scheduler"] == ""


@pytest.mark.parametrize("make", [tiny_sdxl, tiny_flux])
def test_large_pictures_are_drawn_few_at_a_time_and_decoded_one_by_one(make, monkeypatch):
    pipe = make()
    prompts, seeds = ["a cat", "a dog", "a pizza"], [1, 2, 3]
    wanted = ep.generate(pipe, prompts, seeds=seeds, steps=2)
    denoiser = pipe.transformer if hasattr(pipe, "transformer") else pipe.unet
    passes, decoded = [], []
    denoiser.register_forward_pre_hook(
        lambda module, args, kwargs: passes.append(len(kwargs["encoder_hidden_states"])), with_kwargs=True
    )
    decode = pipe.vae._decode
    monkeypatch.setattr(
        pipe.vae, "_decode", lambda z, *rest, **more: decoded.append(len(z)) or decode(z, *rest, **more)
    )
    monkeypatch.setattr(activations, "MOST_PLACES", 4 * 8 * 8)
    found = ep.generate(pipe, prompts, seeds=seeds, steps=2)
    assert max(passes) <= 4
    assert set(decoded) == {1}
    assert not pipe.vae.use_slicing
    assert (found - wanted).abs().max() < 1e-5


def blackening(pipe):
    """A safety checker that finds fault with every picture, as stock pipelines call it."""
    from diffusers.pipelines.stable_diffusion import StableDiffusionSafetyChecker
    from transformers import CLIPConfig, CLIPImageProcessor

    tower = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    checker = StableDiffusionSafetyChecker(CLIPConfig(vision_config=tower, text_config=tower, projection_dim=8))
    checker.forward = lambda clip_input, images: (images * 0, [True] * len(images))
    parts = {**pipe.components, "safety_checker": checker, "feature_extractor": CLIPImageProcessor()}
    return type(pipe)(**parts)


def test_a_safety_checker_does_not_hide_what_is_measured():
    """Black pictures counted as pictures without the concept."""
    plain = tiny_sd1()
    pipe = blackening(plain)
    config, checker = dict(pipe.config), pipe.safety_checker
    assert draw(pipe, ["a cat"], [1], steps=2, fast=False).any()
    assert torch.equal(draw(pipe, ["a cat"], [1], steps=2), draw(plain, ["a cat"], [1], steps=2))
    assert pipe.safety_checker is checker
    assert dict(pipe.config) == config
    assert not ep.generate(pipe, "a cat", seeds=1, steps=2).any(), "who draws for others keeps the checker"


def test_a_picture_is_the_same_whatever_is_drawn_beside_it():
    pipe = tiny_sd1()
    prompts, seeds = [f"a {name}" for name in ("cat", "dog", "pizza", "owl")] * 2, list(range(8))
    together, alone = (draw(pipe, prompts, seeds, steps=3, batch=count, fast=False) for count in (8, 1))
    torch.testing.assert_close(together, alone, atol=1e-4, rtol=0)
    assert float((together[0] - together[4]).abs().max()) > 1e-3  # of another seed it is another one
