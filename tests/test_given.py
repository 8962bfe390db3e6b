"""Functions that users call refuse arguments of another kind by their names, before anything is loaded or drawn."""

from __future__ import annotations

import multiprocessing
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy
import pytest
import torch

import erase_plugins as ep
from erase_plugins.errors import RequestError
from erase_plugins.given import checked
from erase_plugins.runtime.twice import same_edit
from erase_plugins.types import Concept, EraseRequest


@checked
def called(
    words: Sequence[str | Concept] = (), name: str | None = None, place: str | Path = "", count: int = 0,
    share: float = 1.0, sure: bool = False, options: Mapping[str, int] | None = None, other: Unknown = None,  # noqa: F821
    stop: threading.Event | None = None, sizes: Sequence[int] = (),
    **more: int,
):  # fmt: skip
    return words, name, place, count, share, sure, options, other, stop, sizes, more


@pytest.mark.parametrize(("given", "said"), [
    ({"words": "dog"}, r"words takes a list of text or ForgetItem, not 'dog'; put it into \[ \]"),
    ({"words": b"dog"}, "words takes a list of text or ForgetItem, not b'dog'$"),
    ({"sizes": b"12"}, "sizes takes a list of whole number, not b'12'$"),
    ({"words": None}, "words takes a list of text or ForgetItem, not None"),
    ({"words": ["dog", 3]}, r"words takes a list of text or ForgetItem, not \['dog', 3\]$"),
    ({"words": {"dog": 1}}, "words takes"),
    ({"name": Path("dog")}, "name takes text or None, not PosixPath"),
    ({"place": 3}, "place takes text or a path, not 3$"),
    ({"count": 1.5}, "count takes a whole number, not 1.5"),
    ({"share": "1"}, "share takes a number, not '1'"),
    ({"sure": "no"}, "sure takes True or False, not 'no'"),
    ({"options": {3: 4}}, "options takes values by name or None, not {3: 4}"),
    ({"options": [1]}, "options takes"),
    ({"stop": True}, "stop takes a threading.Event or None, not True"),
    ({"stop": threading.Event}, "stop takes"),
])  # fmt: skip
def test_what_is_of_another_kind_is_refused_by_its_name(given, said):
    with pytest.raises(RequestError, match=f"^{said}"):
        called(**given)


def test_what_fits_comes_as_it_is():
    words, concept = ["dog"], Concept("dog")
    assert called(words)[0] is words
    assert called((concept, "cat"))[0] == (concept, "cat")
    assert called(item for item in "ab")[0] == ("a", "b")
    assert called(place=Path("a"), count=numpy.int64(3), share=2, other=object)[2:5] == (Path("a"), 3, 2)
    assert called(options={"a": 1}, more="anything")[-1] == {"more": "anything"}
    for event in (threading.Event(), multiprocessing.Event()):
        assert called(stop=event)[8] is event
    assert called(name=torch.float16, place=torch.device("cuda:1"))[1:3] == ("float16", "cuda:1")


def test_unknown_arguments_are_told_as_python_tells_them():
    with pytest.raises(TypeError, match=r"load\(\) got an unexpected keyword argument 'color'"):
        ep.load(color=3)


@pytest.mark.parametrize(("call", "name"), [
    (lambda: ep.load(3), "model"),
    (lambda: ep.plan("pocket", None), "concepts"),
    (lambda: ep.plan("pocket", "owl", keep="hamburger"), "keep"),
    (lambda: ep.erase("pocket", "owl", layouts="diffusers"), "layouts"),
    (lambda: ep.erase("pocket", "owl", to=3), "to"),
    (lambda: ep.erase("pocket", "owl", preset=3), "preset"),
    (lambda: ep.load_artifact(None), "path"),
    (lambda: ep.apply(object(), None), "artifact"),
    (lambda: ep.apply(object(), "x", any_base="no"), "any_base"),
    (lambda: ep.generate("pocket", 3), "prompts"),
    (lambda: ep.evaluate("pocket", [], suite=3), "suite"),
    (lambda: ep.attack("pocket", [], name=3), "name"),
    (lambda: ep.merge("no-pizza"), "artifacts"),
    (lambda: ep.add("a", 3, "pocket"), "concepts"),
    (lambda: ep.revoke("a", None), "concepts"),
    (lambda: ep.auto("pocket", None), "concept"),
    (lambda: ep.auto("pocket", "owl", keep="dog"), "keep"),
    (lambda: ep.clean_lora(3, "owl"), "lora"),
    (lambda: ep.erase("pocket", "owl", cancel=True), "cancel"),
    (lambda: ep.erase("pocket", "owl", cancel=threading.Event), "cancel"),
    (lambda: ep.push("a", 3), "repo"),
    (lambda: ep.pull(3), "spec"),
    (lambda: ep.search(3), "query"),
])  # fmt: skip
def test_every_public_function_names_the_argument(call, name):
    with pytest.raises(RequestError, match=f"^{name} takes "):
        call()


@pytest.mark.parametrize(("make", "said"), [
    (lambda: Concept("owl", prompts="a small owl"), r"prompts takes a list of text, not 'a small owl'; put it into \[ \]"),
    (lambda: Concept("owl", images=3), "images takes a list of text, not 3"),
    (lambda: Concept("owl", anchor=3), "anchor takes text or None, not 3"),
    (lambda: EraseRequest("pocket", Concept("owl"), "uce"), "forget takes a list of ForgetItem, not ForgetItem"),
    (lambda: EraseRequest("pocket", (Concept("owl"),), "uce", retain="dog"), r"retain takes .*; put it into \[ \]"),
])  # fmt: skip
def test_records_hold_lists_and_no_letters(make, said):
    with pytest.raises(RequestError, match=f"^{said}"):
        make()


@pytest.mark.parametrize("settings", [{"steps": 0}, {"steps": -1}, {"guidance": float("nan")}, {"prompts": []}])
def test_what_draws_nothing_is_refused(tiny_sd1, settings):
    with pytest.raises(RequestError, match="draw nothing; give one or more prompts"):
        ep.generate(tiny_sd1(), **{"prompts": "an owl", **settings})


def test_settings_that_would_be_passed_over_are_refused(tiny_sd1):
    with pytest.raises(RequestError, match="generate knows no height"):
        ep.generate(tiny_sd1(), "an owl", height=512)


def test_concepts_are_added_and_revoked_by_what_people_hold(tiny_sd1):
    pipe, options = tiny_sd1(), {"vocabulary": 0}
    first = ep.erase(pipe, "pizza", options=options)
    both = ep.add(first, "car", pipe)
    assert set(both.manifest.erased) == {"pizza", "car"}
    assert same_edit(both.edit, ep.merge([first, ep.erase(pipe, "car", options=options)]).edit)
    with pytest.raises(RequestError, match="nothing to revoke was named"):
        ep.revoke(both, [])


def test_a_path_names_a_model_as_text_does(tmp_path):
    with pytest.raises(RequestError, match="nothing-here"):
        ep.load(tmp_path / "nothing-here")
