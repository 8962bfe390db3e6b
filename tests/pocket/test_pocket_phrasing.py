"""Sentences in free phrasing: what they are about, and what they are made of."""

from __future__ import annotations

import re

import numpy as np

from erase_plugins.pocket.world import pocket_world
from tools.pocket.measure import free_prompts
from tools.pocket.phrasing import FILLERS, Phrasing


def about(phrasing: Phrasing, sentence: str) -> tuple[str, int]:
    """The first concept by its name, else by another word; and how many concepts the whole names."""
    words = zip(phrasing.world.concepts, phrasing.names, strict=True)
    names = {word: item.name for item, several in words for word in several}
    longest_first = "|".join(re.escape(word) for word in sorted(names, key=len, reverse=True))
    found = re.findall(rf"(?<!\S)({longest_first})(?![^\s,.!?])", sentence)
    first = next((word for word in found if names[word] == word), found[0])
    return names[first], len({names[word] for word in found})


def test_a_sentence_is_about_the_first_name_and_else_about_the_first_word_for_a_thing():
    world = pocket_world()
    phrasing, rng = Phrasing(world), np.random.default_rng(0)
    other = {word for words in (world.style_synonyms, world.background_synonyms) for key in words
             for word in (key, *words[key])}  # fmt: skip
    several, counted = 0, 0
    for _ in range(800):
        sentence, caption = phrasing.ask(rng)
        if not other & set(re.split(r"[\s,.!?-]+", sentence)):  # a few words mean a look and a thing
            said, count = about(phrasing, sentence)
            assert caption == f"a {said}", sentence
            several, counted = several + (count > 1), counted + 1
    assert counted > 300 and several > 100


def test_a_style_and_a_background_are_said_in_both():
    phrasing = Phrasing(pocket_world())
    asked = [phrasing.ask(np.random.default_rng(seed)) for seed in range(300)]
    with_ground = [pair for pair in asked if pair[1].endswith(" background")]
    assert len(with_ground) > 20
    for sentence, caption in with_ground:
        ground = caption.split()[-2]
        words = (ground, *pocket_world().background_synonyms[ground])
        assert {*words} & {*re.split(r"[\s,.!?]+", sentence)}


def test_no_filler_and_no_invented_word_is_one_of_the_world():
    phrasing, rng = Phrasing(pocket_world()), np.random.default_rng(0)
    text = FILLERS.read_text(encoding="utf-8")
    assert "nurse" not in phrasing.fillers["noun"] and " nurse " in text  # a word for the syringe
    for words in phrasing.fillers.values():
        assert words and not phrasing.taken & {*words}
    assert not phrasing.taken & {phrasing._invented(rng) for _ in range(3000)}


def test_what_is_kept_aside_is_never_made():
    world, rng = pocket_world(), np.random.default_rng(0)
    aside = {ask.prompt for ask in free_prompts(world)}
    assert len(aside) == 2 * len(world.concepts)
    phrasing = Phrasing(world)
    assert not aside & {phrasing.ask(rng)[0] for _ in range(3000)}
