"""Rates are measured once for a machine, and estimates follow from them and from what is kept already."""

from __future__ import annotations

import pytest
import torch

import erase_plugins as ep
from erase_plugins.engine import disk_cache, estimate, rates
from erase_plugins.engine.vocabulary import Vocabulary, words_to_encode
from erase_plugins.workflow.models import find_model, target_of

SIZES = {"layer": (64,), "block": (32, 16, 2, "bfloat16", True, True), "solving": ()}


@pytest.fixture(autouse=True)
def fresh(tmp_path, monkeypatch):
    monkeypatch.setenv(disk_cache.VARIABLE, str(tmp_path))
    rates._kept.cache_clear()
    yield
    rates._kept.cache_clear()


@pytest.mark.parametrize("kind", sorted(SIZES))
def test_a_rate_is_measured_once_and_kept_for_later_sessions(kind, monkeypatch):
    state = torch.get_rng_state()
    first = getattr(rates, kind)(*SIZES[kind])
    assert first > 1e6
    assert torch.equal(torch.get_rng_state(), state), "whoever asks has random numbers of their own"
    monkeypatch.setitem(rates._MEASURED, kind, lambda *_: pytest.fail("measured again"))
    rates._kept.cache_clear()  # as in another process
    assert getattr(rates, kind)(*SIZES[kind]) == first
    if kind != "solving":
        with pytest.raises(pytest.fail.Exception, match="measured again"):
            getattr(rates, kind)(*(256, *SIZES[kind][1:]))


@pytest.mark.parametrize(
    ("method", "kinds"), [("uce", {"layer", "solving"}), ("esd", {"block", "layer"}), ("hirm", {"layer"})]
)
def test_estimates_are_work_over_rate(method, kinds, monkeypatch):
    """On a machine that is ten times as fast everything takes a tenth."""
    names = dict.fromkeys(rates._MEASURED)
    for name in names:
        monkeypatch.setitem(rates._MEASURED, name, lambda *_: 1e9)
    slow = ep.plan("pocket", "pizza", method).seconds
    for kind in names:
        before = ep.plan("pocket", "pizza", method).seconds
        rates._kept.cache_clear()
        for file in disk_cache.folder().glob("rate-*"):
            file.unlink()
        monkeypatch.setitem(rates._MEASURED, kind, lambda *_: 1e10)
        assert (ep.plan("pocket", "pizza", method).seconds < before) is (kind in kinds)
    assert ep.plan("pocket", "pizza", method).seconds == pytest.approx(slow / 10, rel=0.05)


def test_an_accelerator_is_not_as_slow_as_the_processor(monkeypatch):
    for name in dict.fromkeys(rates._MEASURED):
        monkeypatch.setitem(rates._MEASURED, name, lambda *_: 1e9)
    options = {"uce": {"vocabulary_frames": ("a {}",)}, "oce": {}, "semantic-surgery": {}}
    for method, asked in options.items():
        seconds = [ep.plan("pocket", "pizza", method, options=asked, device=name).seconds for name in ("cpu", "cuda:1")]
        assert seconds[0] > seconds[1] > 0, method
    text = [estimate.text_seconds(find_model("pocket").info, 1000, name) for name in ("cpu", "cuda", "mps")]
    assert text[0] == pytest.approx(3e4 * text[1]) == pytest.approx(2e3 * text[2])


def test_words_that_are_kept_are_not_counted_again(tiny_sd1):
    target = target_of(tiny_sd1(), "tiny")
    asked = (50, 3.0, ("{}", "a {}"), 0)
    assert words_to_encode(target.info, *asked) == 2 * 50, "in their frames for the sum, alone for their meaning"
    Vocabulary.of(target, asked[0], None, *asked[1:])
    assert words_to_encode(target.info, *asked) == 0
    assert words_to_encode(target.info, 60, *asked[1:]) == 2 * 60


def test_words_that_came_along_are_only_compared():
    """The embedded models' own words, as `uce` asks for them, and nothing else."""
    info = find_model("pocket").info
    options = ep.plan("pocket", "pizza", "uce").options
    asked = [2000, options["vocabulary_scale"], tuple(options["vocabulary_frames"]), options["vocabulary_tail"]]
    assert words_to_encode(info, *asked) == words_to_encode(find_model("pocket-natural").info, *asked) == 50
    assert words_to_encode(find_model("pocket-flow").info, *asked) > 3000, "the same words for two text encoders"
    assert words_to_encode(info, *asked[:2], ("a {}",), 0) > 3000
    with_words = ep.plan("pocket", "pizza", "uce").seconds
    assert ep.plan("pocket", "pizza", "uce", options={"vocabulary_frames": ("a {}",)}).seconds > 20 * with_words
