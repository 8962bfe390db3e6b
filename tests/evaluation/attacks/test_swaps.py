"""The search by gradient: it finds what is known, keeps the best, begins anew, and its slopes are those of the loss."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from erase_plugins.evaluation.attacks import encoder_search
from erase_plugins.evaluation.attacks.encoder_search import encoder_slopes, found_words
from erase_plugins.evaluation.attacks.genetic import Search, search
from erase_plugins.evaluation.attacks.ring_a_bell import RingABellOptions, find_prompts
from erase_plugins.evaluation.attacks.swaps import GRADIENT, swap_search
from erase_plugins.evaluation.attacks.vocabulary import word_table
from erase_plugins.evaluation.prompts import quick_prompts
from erase_plugins.workflow.models import target_of
from tests.evaluation.attacks.fakes import budget_of
from tests.evaluation.attacks.stub import tiny_subject

WORDS, PLACES = 200, 4
VALUES = np.random.RandomState(3).permutation(WORDS).astype(float)


def fitness(rows):
    return VALUES[rows].sum(1)


def slopes(row):
    return np.repeat(VALUES[None], len(row), 0)


def test_it_comes_closer_than_the_genetic_search_with_fewer_rows():
    found = swap_search(fitness, slopes, PLACES, WORDS, 32, 15, seed=1)
    other = search(fitness, PLACES, WORDS, 32, 40, seed=1)
    assert found.losses[0] < other.losses[0] / 2 and found.evaluated < other.evaluated


def test_the_best_is_kept_where_it_begins_anew_and_all_that_is_asked_is_counted():
    asked, bests, gradients = [], [], []
    found = swap_search(
        lambda rows: asked.append(len(rows)) or fitness(rows), lambda row: gradients.append(0) or slopes(row),
        PLACES, WORDS, 16, 60, seed=0, each=lambda state: bests.append(state.losses[0]),
    )  # fmt: skip
    assert bests == sorted(bests, reverse=True) and found.losses[0] == fitness(np.array(found.rows[:1]))[0]
    assert max(np.diff(found.history)) > 0, "other random rows are worse than what it had"
    assert found.evaluated == sum(asked) + GRADIENT * len(gradients) and len(gradients) < 59


@pytest.mark.parametrize("stop", [1, 23])
def test_a_stopped_search_goes_on_as_if_it_had_not_been(stop):
    kept = []

    def each(state):
        if state.generation == stop:
            kept.append(json.dumps(state.to_dict()))

    whole = swap_search(fitness, slopes, PLACES, WORDS, 12, 40, 5, each=each)
    again = swap_search(fitness, slopes, PLACES, WORDS, 12, 40, 5, state=Search(**json.loads(kept[0])))
    assert whole == again


@pytest.fixture
def target(tiny_sd1):
    return target_of(tiny_sd1(), "tiny")


def test_slopes_are_those_of_the_loss(target):
    """A step of a hundredth from the word that is there towards another one."""
    table, step = word_table(target), 1e-2
    wanted = target.encode(["a owl"]).embeds[0]
    row, other = np.array([5, 9, 2]), 40
    found = encoder_slopes(target, table, wanted)(row)
    assert found.shape == (3, len(table.words))
    tokens = table.tokens(torch.from_numpy(row)[None])
    losses = []
    for share in (-step, step):
        plain = {name: target.token_rows(name, ids).clone() for name, ids in tokens.ids.items()}
        for name, part in plain.items():
            part[0, 2] += share * (target.token_rows(name, table.ids[name][other : other + 1])[0] - part[0, 2])
        with torch.no_grad():
            losses.append(float((target.encode_live(tokens, plain).embeds.double() - wanted).square().sum()))
    assert found[1, other] - found[1, 9] == pytest.approx((losses[1] - losses[0]) / (2 * step), rel=0.02)


def test_words_of_a_text_encoder_come_closer_than_by_the_genetic_search(target, tmp_path):
    table = word_table(target)
    wanted = target.encode(["a owl"]).embeds[0]
    found = {
        by: found_words(target, table, wanted, (3, 24, 30), 0, f"swaps-{by}", budget_of(tmp_path / by, 1),
                        lambda done: None, by)
        for by in ("genetic", "gradient")
    }  # fmt: skip
    assert found["gradient"]["loss"] < found["genetic"]["loss"]


def test_both_searches_are_kept_apart_and_the_genetic_one_under_its_old_name(target, tmp_path, monkeypatch):
    facts = []
    monkeypatch.setattr(encoder_search, "cache_key", lambda subject, table, given: facts.append(list(given)) or "key")
    monkeypatch.setattr(encoder_search, "direction", lambda subject, name, pairs: torch.zeros(1, 1))
    monkeypatch.setattr(
        encoder_search, "found_words", lambda *given: {"row": [0, 0], "loss": 1.0, "evaluated": given[-1]}
    )
    subject = tiny_subject(target.pipe)
    sources = quick_prompts(subject.judge, ["owl"], 1, 0)["target"]
    made = [
        find_prompts(subject, budget_of(tmp_path / by, 1), RingABellOptions(search=by, words=2), sources)
        for by in ("genetic", "gradient")
    ]
    assert [item["prompts"][0]["evaluated"] for item in made] == ["genetic", "gradient"]
    assert facts[1] == [*facts[0], "gradient"]
