"""Estimates agree with what is built; impossible models are refused."""

from __future__ import annotations

import inspect
from dataclasses import replace

import pytest

from erase_plugins.api import build_request
from erase_plugins.engine import disk_cache, rates, vocabulary
from erase_plugins.engine.activations import look_bytes, per_sample
from erase_plugins.engine.adapters import Adapters
from erase_plugins.engine.vocabulary import Vocabulary, rows_to_search
from erase_plugins.errors import Unsupported
from erase_plugins.testing.tiny import tiny_flux
from erase_plugins.training.plan import check_trainable, estimate, trainable
from erase_plugins.workflow.models import as_target, find_model, target_of
from erase_plugins.workflow.run import make_plan
from tests.families.test_flow import published


@pytest.fixture
def target(tiny_sd1):
    return target_of(tiny_sd1(), "tiny")


@pytest.mark.parametrize("rank", [3, None])
def test_value_count_is_that_of_the_adapters(target, rank):
    refs = [ref for ref in target.modules("denoiser") if ref.kind in ("linear", "conv")]
    built = sum(part.numel() for part in Adapters(target, refs, rank).parameters())
    assert trainable(refs, rank) == built


def test_more_work_costs_more(target):
    request = build_request("tiny", "esd", "pizza")
    small = estimate(target.info, request, 100, forwards=10, iterations=1, batch=1, states=10)
    large = estimate(target.info, request, 1000, forwards=1e6, iterations=1000, batch=4, states=100)
    assert all(large[name] > small[name] for name in ("seconds", "memory_bytes", "file_bytes"))
    assert small["file_bytes"] == 400


def test_what_takes_nothing_but_the_model_costs_no_memory(target):
    """What is said is said besides the model, whose weights nobody counts twice."""
    request = build_request("tiny", "esd", "pizza")
    assert estimate(target.info, request, 0, forwards=0, iterations=0, batch=0, states=0)["memory_bytes"] == 0


def test_inpainting_and_distilled_models_are_refused(target):
    check_trainable("esd", target.info)
    with pytest.raises(Unsupported, match="inpainting"):
        check_trainable("esd", with_denoiser(target.info, in_channels=9))
    with pytest.raises(Unsupported, match="distilled"):
        check_trainable("esd", with_denoiser(target.info, time_cond_proj_dim=256))


def test_flow_models_that_take_a_picture_beside_the_latents_are_refused():
    """FLUX Fill takes latents, the picture without the hole and the hole: 384 packed channels for 64."""
    info = as_target(tiny_flux()).info
    size = info.configs["transformer"]["in_channels"]
    check_trainable("esd", info)
    with pytest.raises(Unsupported, match=f"latents of {size} channels"):
        check_trainable("esd", with_denoiser(info, in_channels=6 * size, out_channels=size))


def with_denoiser(info, **changes):
    """The same facts of a model, with changes in its denoiser's configuration."""
    part = info.family.denoiser
    return replace(info, configs={**info.configs, part: {**info.configs[part], **changes}})


def test_a_search_among_all_words_is_in_the_estimate_until_its_facts_are_kept(target, tmp_path, monkeypatch):
    monkeypatch.setenv(disk_cache.VARIABLE, str(tmp_path))
    monkeypatch.setattr(rates, "of_accelerator", lambda device: 1e8)  # a fast processor is done in no time
    info, asked = target.info, {"forwards": 10, "iterations": 1, "batch": 1, "states": 10}
    request = build_request("tiny", "esd", "pizza")
    rows = rows_to_search(info)
    assert rows >= 1000
    plain, searched = (estimate(info, request, 100, **asked, prompts=prompts) for prompts in (0, rows / info.tokens))
    assert estimate(info, request, 100, **asked, searches=True) == searched != plain
    Vocabulary.whole(target)
    assert rows_to_search(info) == 0


@pytest.mark.parametrize(("method", "options", "searches"), [
    ("esd", {"keep_words": 2}, True), ("esd", {"keep_words": 2, "keep_weight": 0.0}, False),
    ("esd", {"keep_words": 0}, False), ("ace", {}, True), ("ace", {"priors": ("dog", "cat"), "keep_words": 0}, False),
    ("sae", {}, True), ("gloce", {}, True),
])  # fmt: skip
def test_plans_count_the_search_where_words_are_searched(monkeypatch, method, options, searches):
    def planned():
        return make_plan(build_request("pocket", method, "pizza", options=options), find_model("pocket").info).seconds

    monkeypatch.setattr(vocabulary, "rows_to_search", lambda info: 0)
    before = planned()
    monkeypatch.setattr(vocabulary, "rows_to_search", lambda info: 10**9)
    assert (planned() > before + 1) is searches


@pytest.mark.parametrize(("size", "kept", "again", "looking"), [
    ("flux", 26.8, 2.26, 0.48), ("sd3m", 4.9, 0.55, 0.17), ("sd35m", 8.2, 0.63, 0.20), ("sd35l", 16.8, 1.28, 0.27),
])  # fmt: skip
def test_passes_of_flow_transformers_are_counted(size, kept, again, looking):
    """In GiB for one sample in bfloat16, as `python -m benchmarks.memory_flow` counts them with fake tensors."""
    info, gib = published(size), 2**30
    said = [per_sample(info, False, 2), per_sample(info, True, 2), look_bytes(info, 1, "bfloat16", "bfloat16")]
    for bytes_, counted, cautious in zip(said, (kept, again, looking), (1.3, 1.3, 1.7), strict=True):
        assert 0.9 < bytes_ / gib / counted < cautious


def test_a_plan_for_flux_counts_the_passes_besides_weights_and_t5():
    info = published("flux")
    request = build_request("tiny", "esd", "pizza", dtype="bfloat16", device="cuda")
    plain = {"forwards": 10, "iterations": 1, "states": 0}
    found = [estimate(info, request, 0, batch=batch, again=True, **plain)["memory_bytes"] for batch in (1, 2, 20)]
    assert 2e9 < found[0] < 8e9
    assert found[1] == found[2]  # some at a time: as many as 5 GiB hold


def test_a_denoiser_whose_configuration_leaves_out_its_widths_is_no_toy():
    """diffusers builds 320 to 1280 channels then; settings for toys would erase nothing there."""
    from diffusers import UNet2DConditionModel

    from erase_plugins.manager import get_manager

    assert min(inspect.signature(UNet2DConditionModel.__init__).parameters["block_out_channels"].default) == 320
    family = get_manager().family("sd1")
    assert family.profiles({"unet": {}}) == ("sd1",)
    assert family.profiles({"unet": {"block_out_channels": [32, 64]}}) == ("pocket", "sd1")
