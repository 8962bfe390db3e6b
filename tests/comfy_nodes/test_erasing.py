"""Boxes of the Erase node: rows with strengths, methods by id, options as text."""

from __future__ import annotations

import pytest

from comfy_nodes import erasing
from comfy_nodes.nodes.erase import SPECS, _too_strong, method_problem
from erase_plugins.errors import RequestError, UnknownName
from erase_plugins.manager import get_manager
from erase_plugins.types import PluginProblem

UCE, ESD = get_manager().method("uce"), get_manager().method("esd")


def read(text, kind="object"):
    return [(row.concept.text, row.concept.anchor, row.strength) for row in erasing.read_erasures(text, kind)]


def test_a_row_is_a_concept_its_replacement_and_its_strength():
    text = "pizza -> cake : 0.8\n# dog -> cat\nvan gogh\ncar: -0.5 # why\n"
    assert read(text) == [("pizza", "cake", 0.8), ("van gogh", None, 1.0), ("car", None, -0.5)]
    assert erasing.read_erasures("x", "style")[0].concept.kind == "style"


def test_colons_in_quotes_belong_to_the_phrase():
    assert read('"Star Wars: A New Hope"') == [("Star Wars: A New Hope", None, 1.0)]
    assert read('"Star Wars: A New Hope" -> film : 0.5') == [("Star Wars: A New Hope", "film", 0.5)]
    assert read('x -> "a : b"') == [("x", "a : b", 1.0)]


def test_all_rows_off_is_no_mistake_and_an_empty_box_is():
    assert read("# pizza") == []
    with pytest.raises(RequestError, match="no concept to erase"):
        read(" \n")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("pizza : much", "'much' is not a number"),
        ("pizza : 0.5\nPizza -> cake", "'Pizza' is named twice"),
        ("pizza, dog", "looks like several concepts"),
        ("pizza -> pizza : 0.5", "would become itself"),
        ("pizza : 1e9", "not a usable number"),
    ],
)
def test_a_wrong_row_is_refused_before_the_queue(text, said):
    assert said in SPECS[0].checks["erase"](text)


def test_options_are_lines():
    assert erasing.read_options("# none\naliases = true\nlr=1e-4") == {"aliases": "true", "lr": "1e-4"}
    for text, said in (("aliases", "is no option"), ("= 3", "is no option"), ("a = 1\na = 2", "written twice")):
        with pytest.raises(RequestError, match=said):
            erasing.read_options(text)


def test_options_of_the_method_and_of_its_training_are_told_apart():
    assert erasing.split_options(UCE, "aliases = true")[0] == {"aliases": "true"}
    given, training = erasing.split_options(ESD, "iterations = 5\nseed = 3\npreview_every = 0")
    assert (given, training) == ({"iterations": "5"}, {"seed": 3, "preview_every": 0})
    with pytest.raises(UnknownName, match="'alias'"):
        erasing.split_options(UCE, "alias = true")
    with pytest.raises(UnknownName, match="'seed'"):  # nothing random in it
        erasing.split_options(UCE, "seed = 3")
    with pytest.raises(RequestError, match="no whole number"):
        erasing.split_options(ESD, "seed = x")


def test_a_method_is_known_by_its_id_whatever_its_title():
    assert erasing.id_of(erasing.label(ESD)) == "esd"
    assert method_problem("uce") is None
    assert method_problem("uce: an older title") is None
    assert "did you mean 'uce'" in method_problem("uze: x")


def test_methods_that_solve_come_first():
    assert erasing.labels([ESD, get_manager().method("rece"), UCE])[0].startswith("uce: ")
    assert [entry.rpartition(", ")[2] for entry in erasing.labels([ESD, UCE])] == ["in seconds", "searches", "trains"]


def test_an_unknown_method_is_told_those_that_this_node_runs():
    said = method_problem("ucee")
    assert "did you mean 'uce'" in said
    assert "gs-lora" not in said and "npo" not in said  # for classifiers and language models


def test_the_method_of_a_plugin_that_did_not_load_is_told(monkeypatch):
    lost = PluginProblem("theirs", "their-package", "1.0", "load", "ImportError")
    monkeypatch.setattr(get_manager(), "problems", [lost])
    assert "left out: theirs" in method_problem("gone: a method of their package")


def test_a_strength_that_was_meant_as_a_percentage_is_told():
    rows = erasing.read_erasures("pizza : 80\ndog : 2")
    (said,) = _too_strong(rows, 1.0)
    assert said == "strength 80 of 'pizza' damages other pictures; 1 erases"
    assert _too_strong(rows, 0.01) == []
