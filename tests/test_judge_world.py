"""What a judge says that there is: a plugin's own, whole or in parts."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from erase_plugins.cli.group import describe
from erase_plugins.errors import PluginError, UnknownName
from erase_plugins.evaluation.prompts import quick_prompts
from erase_plugins.judge_world import concept_of, synonyms_of, world_of

RED, BLUE = (SimpleNamespace(name=name, group="colour", synonyms=()) for name in ("red", "blue"))


def judge(**parts):
    made = SimpleNamespace(**{"concepts": (RED, BLUE), "styles": (), "backgrounds": (), **parts})
    axes = {"concept": ("red", "blue"), **({"style": made.styles} if made.styles else {})}
    return SimpleNamespace(id="colours", axes=axes, world=lambda: made)


@pytest.mark.parametrize(
    ("world", "told"),
    [
        (None, "returned None without concepts, styles, backgrounds"),
        ({"concepts": (), "styles": (), "backgrounds": ()}, "returned a dict without concepts, styles, backgrounds"),
        (SimpleNamespace(concepts=()), "returned a SimpleNamespace without styles, backgrounds; return an object with"),
        (judge(concepts={"red": RED}).world(), "has a dict for concepts; a tuple of objects"),
        (judge(concepts=("red",)).world(), "has a concept (number 1) without the texts name and group"),
        (judge(concepts=(RED, SimpleNamespace(name="blue"))).world(), "has a concept (number 2) without the texts"),
        (judge(concepts=(SimpleNamespace(name="a", group="b"),)).world(), "has the concept 'a' without synonyms"),
        (
            judge(concepts=(SimpleNamespace(name="a", group="b", synonyms="word"),)).world(),
            "has the concept 'a' without synonyms",
        ),
        (judge(styles="flat").world(), "has a str for styles; a tuple of texts"),
        (judge(backgrounds=(1, 2)).world(), "has a tuple for backgrounds; a tuple of texts"),
        (judge(style_synonyms={"flat": "even"}).world(), "has style_synonyms that do not map names to tuples"),
    ],
)
def test_a_world_that_lacks_something_is_refused_in_one_line_with_the_judge_s_name(world, told):
    odd = SimpleNamespace(id="colours", axes={"concept": ("red",)}, world=lambda: world)
    with pytest.raises(PluginError) as caught:
        quick_prompts(odd, ["red"], 4, 0)
    code, _, message = describe(caught.value)
    assert message.startswith("judge 'colours' (types): world() ") and told in message and code == PluginError.exit_code


def test_a_world_of_concepts_alone_is_enough():
    sets = quick_prompts(judge(), ["red"], 4, 0)
    assert [item.text for item in sets["target"]] == ["a red"] * 4
    assert {name: len(items) for name, items in sets.items()} == {"target": 4, "synonym": 0, "neighbour": 4, "kept": 4}
    assert {tuple(item.expected.items()) for item in sets["kept"]} == {(("concept", "blue"),)}


def test_a_world_of_styles_alone_is_enough():
    sets = quick_prompts(judge(concepts=(), styles=("flat", "round"), backgrounds=("red",)), ["flat"], 2, 0)
    assert [(item.text, item.expected) for item in sets["target"]] == [
        ("a flat picture", {"style": "flat"}),
        ("a flat picture on a red background", {"style": "flat", "background": "red"}),
    ]


def test_names_and_synonyms_are_found_without_the_help_of_the_plugin():
    world = world_of(judge(styles=("flat",), style_synonyms={"flat": ("even",)}))
    assert concept_of(world, "blue") is BLUE and synonyms_of(world, "style", "flat") == ("even",)
    with pytest.raises(UnknownName, match="did you mean 'blue'"):
        synonyms_of(world, "concept", "blu")
