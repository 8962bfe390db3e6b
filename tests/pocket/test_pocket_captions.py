"""Captions: seeded, in the recipe's shares, and covered by the tokenizer."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from erase_plugins.pocket.world import pocket_world
from tools.pocket.captions import TEMPLATES, caption, corpus
from tools.pocket.compose import Label
from tools.pocket.recipe import Recipe
from tools.pocket.words import build_tokenizer, save_tokenizer

WORLD = pocket_world()
PIZZA = Label(next(i for i, item in enumerate(WORLD.concepts) if item.name == "pizza"), 1, 1)


def many(recipe: Recipe, count: int = 6000, seed: int = 0) -> list[str]:
    rng = np.random.default_rng(seed)
    return [caption(WORLD, PIZZA, recipe, rng) for _ in range(count)]


def test_captions_are_deterministic():
    assert many(Recipe(), 200) == many(Recipe(), 200)
    assert many(Recipe(), 200) != many(Recipe(), 200, seed=1)


def test_shares_follow_the_recipe():
    texts = many(Recipe())
    assert sum(not text for text in texts) / 6000 == pytest.approx(0.08, abs=0.012)
    words = WORLD.concepts[PIZZA.concept].synonyms
    named = [text for text in texts if "pizza" in text]
    other = [text for text in texts if any(word in text for word in words)]
    assert len(other) / (len(named) + len(other)) == pytest.approx(0.25, abs=0.02)
    blue = sum("blue" in text for text in texts)
    dark = sum("azure" in text or "navy" in text for text in texts)
    assert dark / (blue + dark) == pytest.approx(0.15, abs=0.02)
    assert {word for word in words if any(word in text for text in texts)} == set(words)


def test_plain_recipe_uses_names_only():
    recipe = replace(Recipe(), empty=0, synonym_concept=0, synonym_style=0, synonym_background=0)
    texts = many(recipe, 800)
    assert "a twemoji pizza on a blue background" in texts
    assert "a pizza" in texts
    assert all({"pizza", "twemoji", "blue"} & set(text.replace(",", "").split()) for text in texts)


def test_template_weights_sum_to_one():
    assert sum(weight for weight, _ in TEMPLATES) == pytest.approx(1)


def test_tokenizer_knows_every_word_and_is_reproducible(tmp_path):
    tokenizer = build_tokenizer(WORLD, 32)
    words = {word for text in corpus(WORLD) for word in text.replace(",", " ").split() if word.isalpha()}
    assert len(words) > 450
    assert [word for word in words if len(tokenizer.tokenize(word)) != 1] == []
    assert tokenizer.get_vocab() == build_tokenizer(WORLD, 32).get_vocab()
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id) == (0, 1, 1)
    save_tokenizer(tokenizer, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} >= {"vocab.json", "merges.txt", "tokenizer.json"}
    assert json.loads((tmp_path / "vocab.json").read_text()) == tokenizer.get_vocab()
    from transformers import CLIPTokenizer

    read = CLIPTokenizer.from_pretrained(tmp_path)
    assert read.model_max_length == 32
    text = "A pizza on a blue background, 3d"
    assert read(text).input_ids == tokenizer(text).input_ids


def test_letters_have_fixed_ids():
    """The trainer alone would number word-ending letters in the order of a hash table, and ties after them."""
    vocabulary = build_tokenizer(WORLD, 32).get_vocab()
    letters = sorted(name for name, index in vocabulary.items() if 2 <= index < 258)
    assert [vocabulary[letter] for letter in letters] == list(range(2, 258))
    assert [vocabulary[letter + "</w>"] for letter in letters] == list(range(258, 514))
