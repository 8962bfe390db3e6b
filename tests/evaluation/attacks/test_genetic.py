"""The genetic search against exhaustive minima."""

from __future__ import annotations

import json

import numpy as np
import pytest

from erase_plugins.evaluation.attacks.genetic import Search, next_generation, search


def bowl(wanted):
    """Squared distance of looked-up values to those of the wanted row; order matters."""
    values = np.random.RandomState(3).permutation(32)

    def fitness(rows):
        return ((values[rows] - values[np.array(wanted)]) ** 2 * (1 + np.arange(len(wanted)))).sum(1).astype(float)

    return fitness


def test_the_exhaustive_minimum_is_found_for_nine_of_ten_seeds():
    fitness = bowl([7, 29])
    hits = [search(fitness, 2, 32, 32, 60, seed).rows[0] == [7, 29] for seed in range(10)]
    assert sum(hits) >= 9


def test_the_best_is_never_lost_and_nothing_is_evaluated_twice():
    seen = []

    def fitness(rows):
        seen.extend(map(tuple, rows))
        return bowl([1, 2, 3])(rows)

    done = search(fitness, 3, 32, 20, 40, 0)
    assert all(after <= before for before, after in zip(done.history, done.history[1:], strict=False))
    assert len(seen) == len(set(seen)) == done.evaluated


def test_a_start_that_is_the_optimum_stays():
    done = search(bowl([5, 6, 7]), 3, 32, 16, 30, 1, start=[[5, 6, 7]])
    assert done.rows[0] == [5, 6, 7] and set(done.history) == {0.0}


def test_it_ends_when_nothing_gets_better():
    done = search(lambda rows: np.ones(len(rows)), 2, 32, 8, 1000, 0, patience=15)
    assert done.generation == 15


@pytest.mark.parametrize("stop", [1, 7])
def test_a_stopped_search_goes_on_as_if_it_had_not_been(stop):
    kept = []

    def each(state):
        if state.generation == stop:
            kept.append(json.dumps(state.to_dict()))

    whole = search(bowl([4, 9, 2]), 3, 32, 12, 20, 5, each=each)
    again = search(bowl([4, 9, 2]), 3, 32, 12, 20, 5, state=Search(**json.loads(kept[0])))
    assert (again.rows, again.losses, again.history) == (whole.rows, whole.losses, whole.history)


def test_children_share_no_memory_and_the_elite_is_not_mutated():
    kept = np.arange(12).reshape(4, 3)
    before = kept.copy()
    for seed in range(20):
        made = next_generation(kept, np.random.RandomState(seed), (50, 60))
        assert (kept == before).all() and (made[0] == kept[0]).all()
        assert not np.shares_memory(made, kept)
