"""A genetic search over rows of whole numbers, smallest loss first.

As in Ring-A-Bell (arXiv 2310.10012): the better half stays, one-point crossover, one changed place per mutation.
Differs from the official code: the best row is never changed, no row is evaluated twice, and the search ends when
nothing gets better. Every generation has random numbers of its own, so a search that was stopped goes on as if it had
not been.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

import numpy as np

CROSSOVER, MUTATION = 0.5, 0.25
#: the search ends when the loss has not fallen by this share within so many generations
_BETTER, PATIENCE = 1e-3, 200
#: losses that are remembered
_MEMORY = 200_000

Fitness = Callable[[np.ndarray], np.ndarray]


class Draws(Protocol):
    """Where random numbers come from: numpy's ``RandomState``."""

    def random(self) -> float:
        """In 0..1."""

    def randint(self, low: int, high: int) -> int:
        """From ``low`` up to ``high`` - 1."""


@dataclass
class Search:
    """Where a search stands; JSON-ready.

    Attributes:
        rows: population, the best first.
        losses: of ``rows``.
        generation: how many are done.
        history: best loss after each generation.
        evaluated: rows whose loss was computed.
    """

    rows: list[list[int]] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    generation: int = 0
    history: list[float] = field(default_factory=list)
    evaluated: int = 0

    def to_dict(self) -> dict[str, Any]:
        """For a file."""
        return asdict(self)


def next_generation(kept: np.ndarray, draws: Draws, values: tuple[int, int], elite: bool = True) -> np.ndarray:
    """Children and mutants of the rows that stayed.

    Args:
        kept: (n, places), the best first.
        draws: random numbers; used in the order of the paper's code.
        values: a place holds a number from the first up to below the second.
        elite: the first row is not mutated.

    Returns:
        (m, places); the first row is ``kept[0]``.
    """
    places = kept.shape[1]
    rows = []
    for row in kept:
        rows.append(row.copy())
        if draws.random() < CROSSOVER:
            mate = kept[draws.randint(0, len(kept))]
            cut = draws.randint(1, places + 1) - 1
            rows += [np.concatenate([row[:cut], mate[cut:]]), np.concatenate([mate[:cut], row[cut:]])]
    for number, row in enumerate(rows):
        if draws.random() < MUTATION:
            place, value = draws.randint(1, places + 1) - 1, draws.randint(*values)
            if number or not elite:
                row[place] = value
    return np.stack(rows)


def search(
    fitness: Fitness, places: int, words: int, population: int, generations: int, seed: int, *,
    patience: int = PATIENCE, start: Sequence[Sequence[int]] = (), state: Search | None = None,
    each: Callable[[Search], None] = lambda state: None,
) -> Search:  # fmt: skip
    """The search.

    Args:
        fitness: (n, places) -> (n,) losses, all at once.
        places: numbers in a row.
        words: each number is below this.
        population: rows at the start; half of it stays in each generation.
        generations: at most.
        seed: of everything random.
        patience: generations without progress that end the search.
        start: rows to begin with, beside random ones.
        state: to go on from.
        each: told after each generation.
    """
    known: dict[bytes, float] = {}
    if state is None:
        draws = np.random.RandomState([seed, 0])
        rows = draws.randint(0, words, size=(population, places))
        rows[: len(start)] = np.array(start, dtype=rows.dtype).reshape(-1, places)
        state = Search()
        _rank(state, rows, fitness, known, population)
    while state.generation < generations and not _stuck(state.history, patience):
        kept = np.array(state.rows[: max(population // 2, 1)], dtype=np.int64)
        known = known or {row.tobytes(): loss for row, loss in zip(kept, state.losses, strict=False)}
        draws = np.random.RandomState([seed, state.generation + 1])
        _rank(state, next_generation(kept, draws, (0, words)), fitness, known, population)
        state.generation += 1
        each(state)
    return state


def _rank(state: Search, rows: np.ndarray, fitness: Fitness, known: dict[bytes, float], population: int) -> None:
    rows = np.ascontiguousarray(rows, dtype=np.int64)
    keys = [row.tobytes() for row in rows]
    if len(known) > _MEMORY:
        known.clear()
    fresh = {key: place for place, key in enumerate(keys) if key not in known}
    if fresh:
        known.update(zip(fresh, map(float, fitness(rows[list(fresh.values())])), strict=True))
        state.evaluated += len(fresh)
    ranked = np.array([known[key] for key in keys])
    order = np.argsort(ranked, kind="stable")[: max(population // 2, 1)]
    state.rows = rows[order].tolist()
    state.losses = [float(value) for value in ranked[order]]
    state.history.append(state.losses[0])


def _stuck(history: Sequence[float], patience: int) -> bool:
    return len(history) > patience and history[-1] > history[-1 - patience] * (1 - _BETTER)
