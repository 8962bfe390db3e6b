"""A filter of finished pictures from another package: a guard with a type of stage of its own, and a stand-in classifier."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import erase_plugins as ep
from erase_plugins.errors import CorruptArtifact, PluginError, RequestError, Unsupported
from erase_plugins.manager import get_manager
from erase_plugins.runtime.guardrails.attach import carried
from erase_plugins.runtime.guardrails.watch import Quiet
from erase_plugins.testing.contract import contract_report
from tests.evaluation.attacks.stub import tiny_subject
from tests.outside import erase_image_filter
from tests.outside.erase_image_filter import CLASSIFIERS, PictureFilter

ASKED = {"num_inference_steps": 1, "output_type": "pil"}


def second(pictures):
    """A stand-in: is sure of every second picture."""
    return [float(place % 2) for place in range(len(pictures))]


@pytest.fixture(autouse=True)
def package(monkeypatch):
    for name, score in (
        ("stand-in", second),
        ("all", lambda pictures: [0.9 for _ in pictures]),
        ("none", lambda _: []),
    ):
        monkeypatch.setitem(CLASSIFIERS, name, score)
    with get_manager().temporary(erase_image_filter, "erase-image-filter"):
        yield


def guard(pipe, classifier="stand-in", **options):
    return ep.erase(pipe, "pizza", "picture-filter", options={"classifier": classifier, **options})


def drawn(pipe, **more):
    draw = [torch.Generator().manual_seed(seed) for seed in (0, 1)]
    return [np.asarray(item) for item in pipe(["a dog", "a cat"], generator=draw, **{**ASKED, **more}).images]


def same(ones, others):
    return all(np.array_equal(one, other) for one, other in zip(ones, others, strict=True))


def test_a_hit_is_black_and_the_others_are_untouched(tiny_sd1, tmp_path):
    pipe = tiny_sd1()
    plain = drawn(pipe)
    guard(pipe).save(tmp_path / "guard")
    with ep.apply(pipe, tmp_path / "guard") as handle:
        found = drawn(pipe)
        handle.set_strength(0.0)
        assert same(drawn(pipe), plain)
    assert np.array_equal(found[0], plain[0]) and plain[1].any()
    assert not found[1].any() and found[1].shape == plain[1].shape
    assert same(drawn(pipe), plain) and "postprocess" not in vars(pipe.image_processor)
    assert "guard, not an erasure" in " ".join(handle.warnings)


@pytest.mark.parametrize("form", ["np", "pt"])
def test_arrays_are_looked_at_as_pictures_are(tiny_sd1, form):
    pipe = tiny_sd1()
    with ep.apply(pipe, guard(pipe)):
        found = drawn(pipe, output_type=form)
    assert [bool(item.any()) for item in found] == [True, False]


def test_two_filters_stand_together_and_go_one_by_one(tiny_sd1):
    pipe = tiny_sd1()
    plain = drawn(pipe)
    with ep.apply(pipe, guard(pipe)):
        with ep.apply(pipe, guard(pipe, "all")):
            assert not any(item.any() for item in drawn(pipe))
        with ep.apply(pipe, guard(pipe, "all", threshold=0.95)):
            assert [bool(item.any()) for item in drawn(pipe)] == [True, False]
        assert [bool(item.any()) for item in drawn(pipe)] == [True, False]
    assert "postprocess" not in vars(pipe.image_processor)
    assert same(drawn(pipe), plain)


def test_suites_go_through_it(tiny_sd1):
    """What is drawn with the edit is black where the filter hits."""
    pipe = tiny_sd1()
    subject = tiny_subject(pipe, artifacts=[guard(pipe, "all")])
    assert float(subject.generate(["a pizza"], [1], edit="off").max()) > 0
    assert float(subject.generate(["a pizza"], [1], edit="on").max()) == 0


def test_another_pipeline_of_the_same_parts_is_filtered_too(tiny_sd1):
    """Attacks draw with such pipelines, which have an image processor of their own."""
    from diffusers import StableDiffusionPipeline

    pipe = tiny_sd1()
    other = StableDiffusionPipeline(**pipe.components, requires_safety_checker=False)
    other.set_progress_bar_config(disable=True)
    plain = drawn(other)
    with ep.apply(pipe, guard(pipe)), carried(pipe, other):
        assert [bool(item.any()) for item in drawn(other)] == [True, False]
    assert same(drawn(other), plain) and "postprocess" not in vars(other.image_processor)


def test_latents_are_refused_and_leave_nothing(tiny_sd1):
    pipe = tiny_sd1()
    with ep.apply(pipe, guard(pipe)), pytest.raises(Unsupported, match="ask for 'pil'"):
        pipe("a dog", num_inference_steps=1, output_type="latent")
    assert "postprocess" not in vars(pipe.image_processor)


def test_a_strange_classifier_or_threshold_is_one_line(tiny_sd1, monkeypatch):
    pipe = tiny_sd1()
    with ep.apply(pipe, guard(pipe, "none")), pytest.raises(RequestError, match="0 scores for 2"):
        drawn(pipe)
    with pytest.raises(RequestError, match="threshold"):
        guard(pipe, threshold=0.0)
    with pytest.raises(RequestError, match="no classifier 'owls' is registered; known: stand-in, all, none"):
        guard(pipe, "owls")
    made = guard(pipe)
    monkeypatch.delitem(CLASSIFIERS, "stand-in")
    with pytest.raises(Unsupported, match="register the one it was made with"):
        ep.apply(pipe, made)


def test_without_the_package_the_guard_is_refused_and_says_why(tiny_sd1, monkeypatch):
    pipe = tiny_sd1()
    made = guard(pipe)
    monkeypatch.setattr(PictureFilter, "id", "another")
    get_manager()._forget()
    with pytest.raises(
        CorruptArtifact, match="has a stage 'picture-filter' that nothing installed knows; install the package"
    ):
        ep.apply(pipe, made)


class Hanging(Quiet):
    gone = 0

    def detach(self):
        Hanging.gone += 1


@pytest.mark.parametrize(
    ("attach", "told"),
    [
        (lambda *_: 1 / 0, "ZeroDivisionError"),
        (lambda *_: [("two", "parts")], "ValueError"),
        (lambda _, placing: [(placing.target.host, "encode_prompts", Hanging())], "AttributeError"),
        (
            lambda _, placing: [(placing.target.host, "encode_prompt", Hanging()), (1, "real", Hanging())],
            "TypeError: Hang",
        ),
        (
            lambda _, placing: [(placing.target.host, "encode_prompt", 1)],
            "TypeError: int around encode_prompt is no stage",
        ),
    ],
    ids=["error", "form", "name", "no function", "no stage"],
)
def test_a_stage_that_breaks_leaves_the_model_alone_and_is_named(tiny_sd1, monkeypatch, attach, told):
    pipe = tiny_sd1()
    made = guard(pipe)
    Hanging.gone = 0
    monkeypatch.setattr(PictureFilter, "attach", attach)
    with pytest.raises(PluginError, match=rf"^the guard stage 'picture-filter' failed: {told}"):
        ep.apply(pipe, made)
    assert not ep.applied(pipe) and "encode_prompt" not in vars(pipe)
    assert Hanging.gone == {"AttributeError": 1, "TypeError: Hang": 2}.get(told, 0)


def test_the_stage_is_listed_with_its_package():
    entry = next(entry for entry in get_manager().guard_stages() if entry.item.id == "picture-filter")
    assert entry.plugin == "erase-image-filter"


def test_it_keeps_the_contract_of_guards():
    assert contract_report("picture-filter", "tiny_sd1") == {}
