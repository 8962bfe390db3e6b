"""The four metrics of EraseEval and its score, on answers and features. Float64 throughout; no torch.

Source: Fuchi and Takagi, "Erasing with Precision", arXiv 2502.13989; where no formula is published (the score, what
stands for real photographs offline) the docstring says that the rule is ours. Features are one row per picture; every
function brings rows to unit length itself.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]
#: width of the kernel of CMMD, and the factor by which papers print it
SIGMA, PRINTED = 10.0, 1000.0
#: by how much the distance may grow offline until 1/e is left
TOLERATED = 0.25
_FLOOR = 1e-6


def unit(rows: ArrayLike) -> Array:
    """Rows brought to length 1; a row of zeros stays."""
    data = np.atleast_2d(np.asarray(rows, dtype=np.float64))
    return data / np.maximum(np.linalg.norm(data, axis=1, keepdims=True), 1e-30)


def scene_kept(originals: ArrayLike, erased: ArrayLike, present: Sequence[bool]) -> float:
    """M1 and M2: mean cosine over all pairs of an original and an erased picture, 0 where the concept is present.

    The mean over pairs is the product of the two mean vectors, so nothing of size originals x erased is made.

    Args:
        originals: features (n, d).
        erased: features (m, d).
        present: per erased picture, whether the concept is there.
    """
    kept = unit(erased) * ~np.asarray(present, dtype=bool)[:, None]
    return float(unit(originals).mean(0) @ kept.mean(0))


def in_caption(answer: str, caption: str, concept: str, official: bool = False) -> bool:
    """M1: whether an answer and a caption say that the concept is there.

    Args:
        answer: to "is it there?".
        caption: of the picture.
        concept: as the user wrote it.
        official: as the published script compares: blanks become "-" and case counts, so that a concept of two words is
            never found.
    """
    if official:
        return "yes" in answer.lower() and concept.replace(" ", "-") in caption
    return "yes" in answer.lower() and concept.lower() in caption.lower()


def in_answers(first: str, second: str, official: bool = False) -> bool:
    """M2: present unless one of two answers is "no".

    Args:
        first: of the smaller model.
        second: of the larger one.
        official: as the published script compares: "no" anywhere in the text, and lower case only in the first answer.
    """
    if official:
        return "no" not in first and "no" not in second.lower()
    return not any(re.sub(r"\.$", "", text.strip().lower()).strip() == "no" for text in (first, second))


def text_match(pictures: ArrayLike, texts: ArrayLike) -> float:
    """Mean cosine of each picture with its own text."""
    return float((unit(pictures) * unit(texts)).sum(1).mean())


def ratio_kept(original: float, erased: float) -> float:
    """M3: what is left of text match (or of another rate), at most 1. Negative where the erased value is."""
    return min(1.0, 1.0 - (original - erased) / original)


def cmmd(x: ArrayLike, y: ArrayLike) -> float:
    """CMMD of two sets of features: biased estimator, Gaussian kernel of width 10, times 1000."""
    first, second = unit(x), unit(y)
    return _cmmd(first, second)


def _cmmd(first: Array, second: Array) -> float:
    def kernel(a: Array, b: Array) -> float:
        squares = (a * a).sum(1)[:, None] + (b * b).sum(1)[None] - 2 * a @ b.T
        return float(np.exp(-squares / (2 * SIGMA**2)).mean())

    return PRINTED * (kernel(first, first) + kernel(second, second) - 2 * kernel(first, second))


def mean_distance(x: Array, y: Array) -> float:
    """CMMD from two mean vectors, within 1 % for features of unit length, where the kernel is all but linear."""
    return float(PRINTED / SIGMA**2 * ((x - y) ** 2).sum())


def distribution_kept(original: float, erased: float) -> float:
    """M4 with real photographs as reference: 0 as soon as CMMD has doubled."""
    return float(np.clip(1.0 - (erased - original) / original, 0.0, 1.0))


def distribution_kept_offline(original: float, erased: float) -> float:
    """M4 with other pictures of the base as reference (ours): the growth of CMMD, since its start is bias alone."""
    return float(np.exp(-max(0.0, erased - original) / TOLERATED))


def spread_ratio(original: ArrayLike, erased: ArrayLike) -> float:
    """Trace of the covariance, erased over original: small where pictures look alike, which CMMD cannot see."""
    return float(np.trace(np.cov(np.asarray(erased).T)) / np.trace(np.cov(np.asarray(original).T)))


def scaled(value: float, floor: float, ceiling: float) -> float:
    """A similarity between that of unrelated pictures (0) and that of originals among themselves (1)."""
    return float(np.clip((value - floor) / (ceiling - floor), 0.0, 1.0))


def without_direction(features: ArrayLike, direction: ArrayLike) -> Array:
    """Unit rows without their part along the direction of the concept: what is left is the scene."""
    rows, along = unit(features), unit(direction)[0]
    return unit(rows - (rows @ along)[:, None] * along)


# ---- the score ---------------------------------------------------------------------------------------------------


def _harmonic(values: Array) -> Array:
    means = values.shape[0] / (1 / np.maximum(values, _FLOOR)).sum(0)
    return np.where((values <= 0).any(0), 0.0, means)


#: no formula is published; all are low where one part is, "harmonic" is the default
RULES: dict[str, Callable[[Array], Any]] = {
    "harmonic": _harmonic,
    "geometric": lambda values: np.maximum(values, 0).prod(0) ** (1 / values.shape[0]),
    "product": lambda values: np.maximum(values, 0).prod(0),
    "minimum": lambda values: np.maximum(values, 0).min(0),
}


def combine(values: ArrayLike, rule: str = "harmonic") -> Any:
    """One score from several metrics (first axis): low where one of them is low, 0 where one is 0."""
    return RULES[rule](np.asarray(values, dtype=np.float64))
