"""Estimates agree with what is built; impossible models are refused."""

from __future__ import annotations

from dataclasses import replace

import pytest

from erase_plugins.api import build_request
from erase_plugins.engine import disk_cache, vocabulary
from erase_plugins.engine.adapters import Adapters
from erase_plugins.engine.vocabulary import Vocabulary, rows_to_search
from erase_plugins.errors import Unsupported
from erase_plugins.testing.tiny import tiny_flux
from erase_plugins.training.plan import check_trainable, estimate, trainable
from erase_plugins.workflow.models import as_target, find_model, target_of
from erase_plugins.workflow.run import make_plan


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
