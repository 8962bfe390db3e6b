"""A judge trained on the spot: logistic regression on features, with a gate that refuses a bad one. No torch."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from erase_plugins.errors import Unsupported
from erase_plugins.evaluation.erase_eval.metrics import Array, unit

#: a judge is refused below
AUROC, BALANCED = 0.95, 0.9
#: share of neighbours that may be taken for the concept
FALSE_ALARMS = 0.05
_FOLDS, _L2 = 5, 1e-3


@dataclass(frozen=True)
class Probe:
    """Tells from features whether a concept is in a picture.

    Attributes:
        weights, bias: of the regression on unit features; ``weights`` is the direction of the concept.
        scale, shift: calibration on scores of pictures that were held out (Platt).
        threshold: probability from which the concept counts as present.
        auroc, balanced: area under the curve and balanced accuracy, on pictures that were held out.
    """

    weights: Array
    bias: float
    scale: float
    shift: float
    threshold: float
    auroc: float
    balanced: float

    def probability(self, features: ArrayLike) -> Array:
        """Per row the calibrated probability that the concept is there."""
        return _sigmoid(self.scale * (unit(features) @ self.weights + self.bias) + self.shift)

    def present(self, features: ArrayLike) -> list[bool]:
        """Per row whether the concept counts as there; nothing is in a row of zeros, which no picture has."""
        there = np.atleast_2d(np.asarray(features)).any(1)
        return [bool(item) for item in (self.probability(features) > self.threshold) & there]

    @property
    def fingerprint(self) -> str:
        """Hash of everything that decides."""
        numbers = [*self.weights, self.bias, self.scale, self.shift, self.threshold]
        return hashlib.sha256(np.asarray(numbers, dtype=np.float32).tobytes()).hexdigest()[:16]


def fit_probe(
    positive: ArrayLike, neighbours: ArrayLike, others: ArrayLike, groups: Sequence[Sequence[int]], what: str
) -> Probe:
    """A probe, judged on groups of pictures (templates) that it was not fitted on.

    Args:
        positive, neighbours, others: features (n, d) of pictures with the concept, of what resembles it, of the rest.
        groups: per picture of each of the three a number; pictures of one number are held out together.
        what: the concept, for messages.

    Raises:
        Unsupported: it does not tell them apart well enough, or there are too few pictures.
    """
    parts = [unit(part) for part in (positive, neighbours, others)]
    data = np.concatenate(parts)
    labels = np.concatenate([np.full(len(part), float(not number)) for number, part in enumerate(parts)])
    near = np.concatenate([np.full(len(part), number == 1) for number, part in enumerate(parts)])
    folds = np.concatenate([np.asarray(list(part), dtype=int) for part in groups]) % _FOLDS
    if min(len(parts[0]), len(parts[1]) + len(parts[2])) < 2 * _FOLDS or len(set(folds)) < 2:
        raise Unsupported(f"too few pictures to train a judge for {what}; give at least {2 * _FOLDS} with and without")
    held = np.zeros(len(data))
    for fold in sorted(set(folds)):
        inside = folds == fold
        if len(set(labels[~inside])) < 2:
            raise Unsupported(f"all pictures of {what} come from one prompt; give several")
        weights, bias = _fit(data[~inside], labels[~inside])
        held[inside] = data[inside] @ weights + bias
    slope, shift = _fit(held[:, None], labels)
    scale = float(slope[0])
    told = _sigmoid(scale * held + shift)
    negative = told[near] if near.any() else told[labels == 0]
    threshold = max(0.5, float(np.quantile(negative, 1 - FALSE_ALARMS)))
    weights, bias = _fit(data, labels)
    right = [float((told[labels == 1] > threshold).mean()), float((told[labels == 0] <= threshold).mean())]
    probe = Probe(weights, bias, scale, float(shift), threshold, auroc(held, labels), sum(right) / 2)
    if not (probe.auroc >= AUROC and probe.balanced >= BALANCED):
        raise Unsupported(
            f"the judge does not know {what} well enough: AUROC {probe.auroc:.3f} (needs {AUROC}), balanced accuracy "
            f"{probe.balanced:.3f} (needs {BALANCED}) on pictures held out; its numbers would mean nothing"
        )
    return probe


def auroc(scores: ArrayLike, labels: ArrayLike) -> float:
    """Share of pairs in which the picture with the concept has the higher score; ties count half."""
    values, truth = np.asarray(scores, dtype=np.float64), np.asarray(labels) > 0
    order = np.sort(values[~truth])
    below = np.searchsorted(order, values[truth], "left")
    tied = np.searchsorted(order, values[truth], "right") - below
    return float((below + tied / 2).mean() / len(order))


def _fit(data: Array, labels: Array) -> tuple[Array, float]:
    """Weights and bias of a logistic regression, by Newton's method; the weights are held small, the bias is free."""
    rows = np.concatenate([data, np.ones((len(data), 1))], axis=1)
    penalty = np.diag([_L2] * data.shape[1] + [1e-9])
    found = np.zeros(rows.shape[1])
    for _ in range(50):
        told = _sigmoid(rows @ found)
        gradient = rows.T @ (told - labels) / len(rows) + penalty @ found
        curvature = rows.T @ (rows * (told * (1 - told))[:, None]) / len(rows) + penalty
        step = np.linalg.solve(curvature, gradient)
        step *= min(1.0, 20.0 / max(float(np.abs(step).max()), 1e-30))
        found -= step
        if np.abs(step).max() < 1e-9:
            break
    return found[:-1], float(found[-1])


def _sigmoid(values: Array) -> Array:
    return 0.5 * (1 + np.tanh(0.5 * values))
