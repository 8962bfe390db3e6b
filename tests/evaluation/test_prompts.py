"""Prompt sets of the quick suite."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest

from erase_plugins.errors import Unsupported
from erase_plugins.evaluation.prompts import SETS, prompts_hash, quick_prompts
from erase_plugins.pocket.judge import PocketJudge

JUDGE = PocketJudge()


def test_sets_hold_what_they_say() -> None:
    sets = quick_prompts(JUDGE, ["pizza"], 24, 3)
    world = JUDGE.world()
    assert tuple(sets) == SETS
    assert {item.expected["concept"] for item in sets["target"]} == {"pizza"}
    synonyms = world.concept("pizza").synonyms
    assert all(item.expected["concept"] == "pizza" and "pizza" not in item.text for item in sets["synonym"])
    assert all(any(word in item.text for word in synonyms) for item in sets["synonym"])
    assert {world.concept(item.expected["concept"]).group for item in sets["neighbour"]} == {"food"}
    assert "food" not in {world.concept(item.expected["concept"]).group for item in sets["kept"]}
    for items in sets.values():
        for item in items:
            assert item.expected.get("style", "a ") in item.text
            assert item.expected.get("background", "a ") in item.text


def test_every_picture_has_its_own_seed_and_all_is_reproducible() -> None:
    sets = quick_prompts(JUDGE, ["pizza"], 32, 0)
    seeds = [item.seed for items in sets.values() for item in items]
    assert len(set(seeds)) == len(seeds)
    assert prompts_hash(sets) == prompts_hash(quick_prompts(JUDGE, ["pizza"], 32, 0))
    assert prompts_hash(sets) != prompts_hash(quick_prompts(JUDGE, ["pizza"], 32, 1))


def test_style_erasure_measures_styles_and_keeps_concepts() -> None:
    sets = quick_prompts(JUDGE, ["twemoji"], 12, 0)
    assert {item.expected["style"] for item in sets["target"]} == {"twemoji"}
    assert {item.expected["style"] for item in sets["neighbour"]} == {"noto", "fluent"}
    assert all("twemoji" not in item.text for item in sets["kept"])


def test_concepts_without_synonyms_and_unknown_ones() -> None:
    assert quick_prompts(JUDGE, ["fox"], 8, 0)["synonym"] == []
    with pytest.raises(Unsupported, match="van gogh"):
        quick_prompts(JUDGE, ["van gogh"], 8, 0)
    with pytest.raises(Unsupported, match=r"different kinds.*erased="):
        quick_prompts(JUDGE, ["pizza", "twemoji"], 8, 0)


def lacking(*names: str) -> SimpleNamespace:
    """The pocket judge with a world that has none of some things."""
    world = replace(JUDGE.world(), **dict.fromkeys(names, ()))
    return SimpleNamespace(axes=JUDGE.axes, world=lambda: world)


def test_what_the_world_lacks_is_left_out_of_prompts() -> None:
    """Without backgrounds or styles, building them ended in a division by zero."""
    bare = quick_prompts(lacking("styles", "backgrounds"), ["pizza"], 4, 0)["target"]
    assert [item.text for item in bare] == ["a pizza"] * 4
    assert [item.expected for item in bare] == [{"concept": "pizza"}] * 4
    white = JUDGE.world().backgrounds
    plain = quick_prompts(lacking("styles"), ["pizza"], 4, 0)["target"]
    told = [f" on a {white[place]} background" if place % 2 else "" for place in range(4)]
    assert [item.text for item in plain] == [f"a pizza{part}" for part in told]
    styles = quick_prompts(lacking("concepts", "backgrounds"), ["twemoji"], 2, 0)["target"]
    assert [(item.text, item.expected) for item in styles] == [("a twemoji picture", {"style": "twemoji"})] * 2
