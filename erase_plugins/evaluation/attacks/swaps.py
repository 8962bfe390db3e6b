"""A search over rows of whole numbers by gradient: one at a time is swapped for one that promises a smaller loss.

As in GCG (Zou et al., "Universal and Transferable Adversarial Attacks on Aligned Language Models", arXiv 2307.15043):
at each place the numbers are ranked by a linear view of the loss, and some of the first are tried. Differs from it: a
swap is only kept if it makes the loss smaller, and where none does the search begins anew with other random rows. Every
generation has random numbers of its own, so a search that was stopped goes on as if it had not been.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from erase_plugins.evaluation.attacks.genetic import Fitness, Search

#: numbers that are tried at a place, and generations without progress after which the search begins anew
_FIRST, _STUCK = 48, 3
#: what a gradient counts as: a row forward, and twice as much work back
GRADIENT = 3

Slopes = Callable[[np.ndarray], np.ndarray]


def swap_search(
    fitness: Fitness, slopes: Slopes, places: int, words: int, population: int, generations: int, seed: int, *,
    state: Search | None = None, each: Callable[[Search], None] = lambda state: None,
) -> Search:  # fmt: skip
    """The search; ``rows`` of its state are the best row and the present one.

    Args:
        fitness: (n, places) -> (n,) losses, all at once.
        slopes: (places,) -> (places, words): how the loss changes where a place holds that word, seen linearly.
        places: numbers in a row.
        words: each number is below this.
        population: random rows at each beginning; half as many swaps are tried in a generation.
        generations: all are run.
        seed: of everything random.
        state: to go on from.
        each: told after each generation.
    """
    state = state or Search()
    while state.generation < generations:
        draws = np.random.RandomState([seed, state.generation])
        if _at_an_end(state.history):
            rows = draws.randint(0, words, size=(population, places))
            state.rows, state.losses = state.rows[:1], state.losses[:1]
        else:
            rows = _swapped(np.array(state.rows[1]), slopes, draws, max(population // 2, 1))
            state.evaluated += GRADIENT
        rows = np.unique(rows, axis=0)
        losses = fitness(rows)
        state.evaluated += len(rows)
        found = [*zip(state.losses, state.rows, strict=True), (float(losses.min()), rows[losses.argmin()].tolist())]
        present = min(found[1:] or found)
        state.losses, state.rows = map(list, zip(min(found), present, strict=True))
        state.history.append(present[0])
        state.generation += 1
        each(state)
    return state


def _swapped(row: np.ndarray, slopes: Slopes, draws: np.random.RandomState, count: int) -> np.ndarray:
    first = np.argsort(slopes(row), axis=1, kind="stable")[:, :_FIRST]
    rows, at = np.repeat(row[None], count, 0), draws.randint(0, len(row), size=count)
    rows[np.arange(count), at] = first[at, draws.randint(0, first.shape[1], size=count)]
    return rows


def _at_an_end(history: list[float]) -> bool:
    return not history or (len(history) > _STUCK and history[-1] == history[-1 - _STUCK])
