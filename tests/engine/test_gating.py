"""Gates made for concepts: open for the concept, its phrasings and synonyms, closed for the rest."""

from __future__ import annotations

import pytest

from erase_plugins.engine.context import RunContext
from erase_plugins.engine.gating import GateRecipe, make_gate
from erase_plugins.engine.words import real_words
from erase_plugins.runtime.gates import gate_table
from erase_plugins.workflow.models import target_of


def gate_of(target, concepts, measure="probe", low=0.3, high=0.6, words=1000):
    recipe = GateRecipe(measure, words, 0.8, low, high)
    return make_gate(target, concepts, [[text] for text in concepts], [], recipe, RunContext("spm"))


def opened(target, gate, prompts):
    return gate_table(target.encode(prompts).embeds, gate.weights["embeddings"], gate.config)


@pytest.fixture(scope="module")
def pocket_gate(pocket_target):
    return gate_of(pocket_target, ["tiger", "rocket"])


def test_the_gate_is_open_for_the_concept_its_phrasings_and_its_synonyms(pocket_target, pocket_gate):
    tigers = ["tiger", "a tiger", "a tiger on a red background", "a noto tiger", "a roar", "a tiger face"]
    rockets = ["a rocket", "a shuttle on a blue background", "nasa"]
    table = opened(pocket_target, pocket_gate, [*tigers, *rockets])
    assert table[: len(tigers), 0].min() == 1.0
    assert table[len(tigers) :, 1].min() == 1.0
    assert table[: len(tigers), 1].max() == 0.0
    assert table[len(tigers) :, 0].max() == 0.0


def test_the_gate_is_closed_for_other_prompts_and_for_the_empty_one(pocket_target, pocket_gate):
    words = ["dog", "lion", "pizza", "guitar", "umbrella", "car", "rose", "ghost", "syringe", "cat", "house", "bear"]
    prompts = ["", *words, *(f"a {word} on a blue background" for word in words)]
    assert opened(pocket_target, pocket_gate, prompts).mean() < 0.05
    assert opened(pocket_target, pocket_gate, [""]).max() == 0.0


def test_the_published_cosine_does_not_separate_short_prompts(pocket_target):
    """Padding dominates: why the probe is the default."""
    gate = gate_of(pocket_target, ["tiger"], "cosine", 0.0, 1.0)
    table = opened(pocket_target, gate, ["tiger", "a tiger on a red background", "a lion"])[:, 0]
    assert table[0] == pytest.approx(1.0, abs=1e-6)
    assert table[2] > 0.9
    assert table[1] - table[2] < 0.1


def test_rows_of_phrasings_are_not_kept(tiny_sdxl):
    """Thousands of them: a gigabyte of SDXL's rows, ten of T5's."""
    target = target_of(tiny_sdxl(), "tiny")
    make_gate(target, ["pizza"], [["pizza"]], [], GateRecipe("probe", 40, 0.9, 0.45, 0.75), RunContext("spm"))
    words = set(real_words(target))
    assert {prompt for prompt in target._cache if prompt not in words} <= {"", "pizza"}
