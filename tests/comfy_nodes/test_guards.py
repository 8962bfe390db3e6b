"""Guards in front of a CLIP: texts are looked at, clones keep them, our own nodes are not asked, nothing is silent."""

from __future__ import annotations

import copy
import pickle
from types import SimpleNamespace

import pytest

from comfy_nodes import host
from comfy_nodes.guards import check_measurable, guarded
from comfy_nodes.target import ComfyTarget
from erase_plugins import hookimpl
from erase_plugins.artifacts.keyword_guard import keyword_guard
from erase_plugins.artifacts.policy import make
from erase_plugins.errors import Blocked, PluginError, RequestError, RunRefused, Unsupported
from erase_plugins.manager import get_manager


class Plain:
    """As much of a tokenizer of ComfyUI as a CLIP asks for."""

    clip_l = "the inner one"

    def tokenize_with_weights(self, text, return_word_ids=False, **options):
        return [text, return_word_ids, options]


class Clip:
    def __init__(self, tokenizer):
        self.tokenizer = tokenizer

    def clone(self):
        return Clip(self.tokenizer)

    def tokenize(self, text, **options):
        return self.tokenizer.tokenize_with_weights(text, False, **options)


def artifact(*policies):
    return SimpleNamespace(manifest=SimpleNamespace(guards=policies, base={}, name="no-pizza"))


def pizza(action="block", **more):
    return keyword_guard("pizza", ["pizza"], action=action, message="Not here.", **more).to_policy()


@pytest.fixture
def target(fake_model):
    return ComfyTarget(fake_model[0])


def test_a_hit_is_refused_in_every_spelling_and_the_clip_in_front_is_as_before(target):
    plain = Clip(Plain())
    _, clip, lines = guarded(None, plain, artifact(pizza()), target, False)
    assert clip.tokenize("a dog") == ["a dog", False, {}]
    for text in ("a pizza", "a P1ZZA", "(pizza:1.2)"):
        with pytest.raises(RunRefused, match="Not here"):
            clip.clone().tokenize(text)
    assert plain.tokenize("a pizza")[0] == "a pizza"
    assert clip.tokenizer.clip_l == "the inner one"
    assert "negative prompts" in lines[0]
    assert "Nothing is removed" in lines[0]


def test_a_refusal_says_whose_it_is_and_what_can_be_done(target):
    """ComfyUI shows nothing but the message, at a node of its own that encodes the prompt."""
    _, clip, _ = guarded(None, Clip(Plain()), artifact(pizza()), target, False)
    with pytest.raises(Blocked) as caught:
        clip.tokenize("a pizza")
    said = str(caught.value)
    assert said.startswith("Not here. (the guard 'no-pizza' blocks this prompt, pizza: keyword; write another")
    assert "action=empty" in said


def test_a_guard_is_not_measured_where_nothing_of_it_is_seen():
    with pytest.raises(Unsupported, match=r"'no-pizza' is a guard.*measure it with the command"):
        check_measurable(artifact(pizza()))
    check_measurable(artifact())


def test_empty_and_flag(target, caplog):
    _, emptied, _ = guarded(None, Clip(Plain()), artifact(pizza("empty")), target, False)
    assert emptied.tokenize("a pizza")[0] == ""
    assert emptied.tokenize(["a pizza", "a dog"])[0] == ["", "a dog"]
    _, flagged, _ = guarded(None, Clip(Plain()), artifact(pizza("flag")), target, False)
    assert flagged.tokenize("a pizza")[0] == "a pizza"
    assert "a guard was hit" in caplog.text


def test_two_guards_stand_together(target):
    dog = keyword_guard("dog", ["dog"], action="block", message="No dog.").to_policy()
    _, first, _ = guarded(None, Clip(Plain()), artifact(pizza()), target, False)
    _, both, _ = guarded(None, first, artifact(dog), target, False)
    for text in ("a pizza", "a dog"):
        with pytest.raises(RunRefused):
            both.tokenize(text)
    assert first.tokenize("a dog")[0] == "a dog"


def test_our_own_nodes_are_not_asked(target):
    _, clip, _ = guarded(None, Clip(Plain()), artifact(pizza()), target, False)
    with host.computing():
        assert clip.tokenize("a pizza")[0] == "a pizza"
    with pytest.raises(RunRefused):
        clip.tokenize("a pizza")


def test_a_guarded_tokenizer_can_be_copied(target):
    _, clip, _ = guarded(None, Clip(Plain()), artifact(pizza()), target, False)
    for again in (copy.deepcopy(clip.tokenizer), pickle.loads(pickle.dumps(clip.tokenizer))):
        with pytest.raises(RunRefused):
            again.tokenize_with_weights("a pizza")


@pytest.mark.parametrize(
    ("stage", "said"),
    [
        ({"type": "negative-prompt", "text": "pizza"}, "negative prompt: 'pizza'"),
        ({"type": "sld", "text": "pizza"}, "negative prompt: 'pizza'"),
        ({"type": "safree"}, "keyword-guard"),
        ({"type": "nag", "text": "pizza"}, "ComfyUI-NAG with this negative prompt: 'pizza'"),
        ({"type": "negpip", "text": "pizza"}, "(pizza:-1)"),
        ({"type": "refusal-prompt", "text": "x"}, "keyword-guard"),
    ],
)
def test_guards_that_steer_are_refused_with_a_way(target, stage, said):
    with pytest.raises(Unsupported, match="no place in ComfyUI") as caught:
        guarded(None, Clip(Plain()), artifact(make("pizza", [stage], "block", "No.")), target, False)
    assert said in str(caught.value)


class Filtered:
    """A model of ComfyUI behind which a package looks at pictures."""

    def __init__(self, plain, score):
        self.plain, self.score = plain, score


class PictureStage:
    """Of another package: no texts to look at."""

    id, title, roles = "picture-stage", "Looks at pictures", frozenset({"text"})

    def attach(self, placing):
        return []

    def in_graph(self, placing, model, clip):
        score = float(placing.stage["score"])
        return Filtered(model, score), clip, f"looks at every picture, from {score} on"


@pytest.fixture
def package():
    with get_manager().temporary(SimpleNamespace(erase_guard_stages=hookimpl(lambda: [PictureStage()])), "a-package"):
        yield


def test_a_stage_of_a_package_that_looks_at_pictures_acts_on_the_model(target, package):
    """Only those that look at texts were taken; an artifact with any other could not be loaded in a graph."""
    stage = {"type": "picture-stage", "score": 0.5}
    model, plain = object(), Clip(Plain())
    both = [artifact(make("pizza", [stage], "flag"), pizza()), artifact(make("pizza", [stage], "flag"))]
    made, clip, lines = guarded(model, plain, both[0], target, False)
    assert (made.plain, made.score) == (model, 0.5)
    assert lines[0] == "guard of pizza (picture-stage): looks at every picture, from 0.5 on" and len(lines) == 2
    with pytest.raises(Blocked):
        clip.tokenize("a pizza")
    assert guarded(model, None, both[1], target, False)[1] is None, "nothing of it needs a CLIP"


def test_a_stage_that_fails_in_a_graph_is_named(target, package):
    for stage in ({"type": "picture-stage"}, {"type": "picture-stage", "score": "high"}):
        with pytest.raises(PluginError, match=r"the guard stage 'picture-stage' failed: (KeyError|ValueError)"):
            guarded(object(), None, artifact(make("pizza", [stage], "flag")), target, False)


def test_hashed_words_need_a_key_that_no_graph_may_hold(target):
    with pytest.raises(RequestError, match="key"):
        guarded(None, Clip(Plain()), artifact(pizza(key=b"0" * 32)), target, False)


def test_a_guard_needs_the_clip(target):
    with pytest.raises(Unsupported, match="connect the CLIP"):
        guarded(None, None, artifact(pizza()), target, False)


def test_an_artifact_without_guards_leaves_the_clip(target):
    clip = Clip(Plain())
    assert guarded(None, clip, artifact(), target, False) == (None, clip, [])
