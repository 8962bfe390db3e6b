"""Which items are hardest to forget: the upper level of the bi-level search of Challenging Forgets (arXiv 2403.07362).

    min_w  sum_i w_i c_i(theta_u(w)) + gamma ||w||^2     with 0 <= w <= 1 and sum(w) = m

c_i is the loss of item i after unlearning: small means that it is still known. The lower level is trained with signs
of gradients, or is a method that takes a set, so theta_u does not change with w almost everywhere and the gradient is
c + 2 gamma w. Numpy only.

Differs from the official code:
    - the step is free of scale (its size is divided by the spread of the losses), since the published ones barely move
      the start on small data; the losses are taken in evaluation mode;
    - the projection is exact; the official bisection may miss the sum by some tenths;
    - weights become 0 or 1 after every round (there after every 20 steps);
    - a quota per group, since the sets collapse onto a few classes;
    - of all sets that were unlearned on the way, the one that is forgotten worst is returned. A method that pushes far
      away whatever it is given makes the search jump, and the last set would be an accident.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from erase_plugins.errors import NotFiniteError, RequestError

#: a step of this size, over the spread of the losses, moves everything to its end
FREE = 1e3
#: share of the set that is the same as in the round before, from which nothing more happens
SETTLED = 0.99


def budget_of(text: str | int | float, count: int, what: str = "rows") -> int:
    """Number of items from "10%", a share below 1, or a number.

    Raises:
        RequestError: no number, nothing, or everything.
    """
    given = str(text).strip()
    try:
        share = float(given.removesuffix("%")) / (100 if given.endswith("%") else 1)
    except ValueError:
        raise RequestError(f"budget '{given}' is no number; give a share such as 10%, or a number of {what}") from None
    relative = given.endswith("%") or 0 < share < 1
    if not relative and share != int(share):
        raise RequestError(f"budget '{given}' is no whole number of {what}; give one, or a share such as 10%")
    found = round(share * count) if relative else int(share)
    if not 0 < found < count:
        raise RequestError(
            f"budget '{given}' is {found} of {count} {what}; it must leave some, and forget at least one"
        )
    return found


def project(w: np.ndarray, total: float) -> np.ndarray:
    """The nearest vector with entries in 0..1 that sum to ``total``: clip(w - mu, 0, 1), mu exact."""
    edges = np.unique(np.concatenate([w, w - 1.0]))  # where the sum bends, rising; the sum falls
    low, high = 0, len(edges) - 1

    def at(mu: float) -> float:
        return float(np.clip(w - mu, 0.0, 1.0).sum())

    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if at(edges[middle]) >= total else (low, middle)
    above, below = at(edges[low]), at(edges[high])
    part = 0.0 if above == below else (above - total) / (above - below)
    return np.clip(w - (edges[low] + part * (edges[high] - edges[low])), 0.0, 1.0)


def gradient(losses: np.ndarray, w: np.ndarray, gamma: float) -> np.ndarray:
    """Derivative of the upper level by w."""
    return losses + 2 * gamma * w


def smallest(values: np.ndarray, count: int, groups: np.ndarray | None = None, quota: int | None = None) -> np.ndarray:
    """Sorted numbers of the ``count`` smallest values, at most ``quota`` of each group; the first wins a tie.

    Raises:
        RequestError: the quota leaves too few.
    """
    order = np.argsort(values, kind="stable")
    if groups is not None and quota is not None:
        taken: dict[int, int] = {}
        picked = []
        for place in order:
            taken[int(groups[place])] = taken.get(int(groups[place]), 0) + 1
            if taken[int(groups[place])] <= quota:
                picked.append(place)
        if len(picked) < count:
            raise RequestError(f"a quota of {quota} per class allows {len(picked)} rows, and {count} are asked for")
        order = np.array(picked)
    return np.sort(order[:count])


@dataclass(frozen=True)
class Found:
    """What the search found.

    Attributes:
        picked: sorted items of the best set.
        losses: of all items after that set was unlearned.
        kept: how much of the set stayed, round by round.
        scores: mean loss of each set on itself, after it was unlearned; the start first.
        best: number of the set in ``scores``.
    """

    picked: np.ndarray
    losses: np.ndarray
    kept: tuple[float, ...]
    scores: tuple[float, ...] = ()
    best: int = 0


def search(
    count: int, total: int, losses_of: Callable[[np.ndarray, int], np.ndarray], start: np.ndarray, *, rounds: int,
    step: float | None = None, gamma: float = 0.0, groups: np.ndarray | None = None, quota: int | None = None,
    easiest: bool = False, forgotten: Callable[[np.ndarray], float] | None = None,
) -> Found:  # fmt: skip
    """Unlearn, look which items are least forgotten, exchange, until the set stays; gives the worst forgotten set.

    Args:
        count: number of items.
        total: how many are selected.
        losses_of: unlearns the items (sorted numbers) in a round and gives the loss (count,) of every item. The last
            set is asked with the number ``rounds``, unless it was unlearned before.
        start: the first selection.
        rounds: at most.
        step: of the upper level; None is the step free of scale.
        gamma: weight of ||w||^2.
        groups, quota: at most so many of a group, (count,) numbers of groups.
        easiest: look for the set that is easiest to forget instead.
        forgotten: how much of a set was forgotten when it was unlearned (share of wrong labels). The set of which least
            is forgotten is the worst, and among equal ones that with the smallest mean loss. None: the loss alone.

    Raises:
        NotFiniteError: unlearning left a model whose losses are not finite.
        RequestError: a quota that cannot be met.
    """
    w, picked, kept = np.zeros(count), np.sort(start), []
    w[picked] = 1.0
    seen: list[tuple[np.ndarray, np.ndarray]] = []
    way = -1.0 if easiest else 1.0

    def probe(number: int) -> np.ndarray:
        found = np.asarray(losses_of(picked, number), dtype=np.float64)
        if not np.isfinite(found).all():
            raise NotFiniteError(
                f"round {number + 1} of {rounds} left a model with losses that are not finite; lower lr"
            )
        seen.append((picked, found))
        return found

    for number in range(rounds):
        losses = probe(number)
        slope = gradient(losses, w, gamma) * way
        spread = float(losses.std()) or 1.0
        w = project(w - (FREE / spread if step is None else step) * slope, total)
        # entries at their end are told apart by their loss, so that a quota passes on to the next best
        now = smallest(-w + 1e-9 * np.argsort(np.argsort(slope, kind="stable")) / count, total, groups, quota)
        kept.append(len(np.intersect1d(picked, now)) / total)
        picked = now
        if step is None:
            w = np.zeros(count)
            w[picked] = 1.0
            if kept[-1] > SETTLED:
                break
    if not any(np.array_equal(picked, old) for old, _ in seen):
        probe(rounds)
    scores = tuple(float(found[old].mean()) for old, found in seen)
    wrong = [0.0 if forgotten is None else forgotten(old) for old, _ in seen]
    best = min(range(len(seen)), key=lambda place: (way * wrong[place], way * scores[place]))
    return Found(*seen[best], tuple(kept), scores, best)
