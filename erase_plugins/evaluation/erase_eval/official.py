"""EraseEval with what the encoders of the paper said: nothing is drawn or judged here, only scored.

The file holds three parts, all lists of pictures in the same order: "explicit" and "implicit" (one entry per prompt,
features of original and erased pictures, the answers of the judges) and "retained" (features of pictures and texts).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from erase_plugins.errors import RequestError
from erase_plugins.evaluation.bootstrap import mean_interval
from erase_plugins.evaluation.erase_eval import metrics
from erase_plugins.evaluation.erase_eval.report import M1, M2, M3, M4, SCORE, interval_row
from erase_plugins.types import EvalReport

if TYPE_CHECKING:
    from erase_plugins.evaluation.run import Subject


def score_answers(subject: Subject, path: str, rule: str) -> EvalReport:
    """The report on a file of answers and features.

    Args:
        subject: names model, artifacts and concepts.
        path: JSON file; see the module and docs/evaluation.md.
        rule: how the metrics become one score; no paper says which.

    Raises:
        RequestError: the file is not there or not of this form.
    """
    place = Path(path)
    try:
        text = place.read_text(encoding="utf-8")
        data = json.loads(text)
        values = {
            M1: [_explicit(item) for item in data["explicit"]],
            M2: [_implicit(item) for item in data["implicit"]],
        }
        kept = data["retained"]
        images = [kept["original_image_features"], kept["erased_image_features"]]
        matches = [metrics.text_match(part, kept["text_features"]) for part in images]
        distances = [metrics.cmmd(part, kept["reference_image_features"]) for part in images]
        count = len(images[0])
        single = {M3: metrics.ratio_kept(*matches), M4: metrics.distribution_kept(*distances)}
        numbers = [*(float(np.mean(part)) for part in values.values()), *single.values()]
        if not np.isfinite(numbers).all():
            raise ValueError("features are no numbers")
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise RequestError(
            f"'{place.name}' does not hold the answers and features of EraseEval ({type(error).__name__}: "
            f"{str(error)[:80]}); see docs/evaluation.md"
        ) from error
    rows = [
        interval_row(metric, "edited", mean_interval(part, subject.seed, pictures=0), len(part))
        for metric, part in values.items()
    ]
    rows += [interval_row(metric, "edited", (value, value, value), count) for metric, value in single.items()]
    score = float(metrics.combine(np.clip(numbers, 0, 1), rule))
    rows.append(interval_row(SCORE, "edited", (score, score, score), min(row.n for row in rows)))
    return EvalReport(
        suite="erase-eval", model=subject.model, rows=tuple(rows),
        artifacts=tuple(item.name for item in subject.artifacts), erased=tuple(subject.erased),
        strength=subject.strength, judge="official", judge_hash=hashlib.sha256(text.encode()).hexdigest()[:16],
        warnings=("intervals of m3, m4 and the score are not known from features alone; the score's rule is ours",),
        details={"mode": "official formulas on answers and features that were given", "rule": rule},
    )  # fmt: skip


def _explicit(item: Mapping[str, Any]) -> float:
    pairs = zip(item["answers"], item["captions"], strict=True)
    present = [metrics.in_caption(answer, caption, item["concept"]) for answer, caption in pairs]
    return metrics.scene_kept(item["original_embeddings"], item["erased_embeddings"], present)


def _implicit(item: Mapping[str, Any]) -> float:
    pairs = zip(item["paligemma_answers"], item["vlm_answers"], strict=True)
    present = [metrics.in_answers(first, second) for first, second in pairs]
    return metrics.scene_kept(item["original_features"], item["erased_features"], present)
