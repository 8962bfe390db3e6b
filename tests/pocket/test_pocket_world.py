"""Facts about the world that prompts, suites and the card rely on."""

from __future__ import annotations

import re
from collections import Counter

from erase_plugins.pocket.world import pocket_world

WORLD = pocket_world()
GROUPS = {"animal": 44, "food": 40, "object": 28, "vehicle": 12, "nature": 14, "person": 10, "sensitive": 8}


def test_counts_by_group():
    assert Counter(item.group for item in WORLD.concepts) == GROUPS
    assert len(WORLD.concepts) == 156 == sum(GROUPS.values())


def test_styles_and_backgrounds():
    assert WORLD.styles == ("noto", "twemoji", "fluent")
    assert WORLD.backgrounds == ("red", "blue", "green", "yellow", "purple", "orange", "white", "black")
    colours = [WORLD.background_rgb[name] for name in WORLD.backgrounds]
    assert len(set(colours)) == 8
    assert all(len(colour) == 3 and all(0 <= value <= 255 for value in colour) for colour in colours)


def test_names_are_single_unique_words():
    names = [item.name for item in WORLD.concepts]
    assert len(set(names)) == len(names)
    assert all(re.fullmatch(r"[a-z]+", name) for name in names)


def test_codepoints_are_unique():
    codes = [item.codepoint for item in WORLD.concepts]
    assert len(set(codes)) == 156
    assert all(re.fullmatch(r"[0-9A-F]{4,5}(-FE0F)?", code) for code in codes)


def test_no_synonym_is_another_concept_or_shared():
    names = {item.name for item in WORLD.concepts}
    owners: dict[str, list[str]] = {}
    for item in WORLD.concepts:
        assert len(set(item.synonyms)) == len(item.synonyms)
        for word in item.synonyms:
            assert word not in names, f"'{word}' of {item.name} is a concept"
            owners.setdefault(word, []).append(item.name)
    assert {word: who for word, who in owners.items() if len(who) > 1} == {}
    assert len(owners) == 452


def test_words_with_two_meanings_are_known():
    """A few words name a concept (or its synonym) and a style or background too; no more may slip in."""
    looks = {*WORLD.backgrounds, *(word for words in WORLD.background_synonyms.values() for word in words)}
    looks |= {*WORLD.styles, *(word for words in WORLD.style_synonyms.values() for word in words)}
    double = {(item.name, word) for item in WORLD.concepts for word in (item.name, *item.synonyms) if word in looks}
    assert double == {
        ("orange", "orange"), ("tennis", "green"), ("eggplant", "purple"), ("star", "white"), ("tree", "rounded"),
    }  # fmt: skip
