"""Pictures that somebody has already: how much changed, and, where a judge knows what they show, what is still "
"there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from erase_plugins.errors import RequestError
from erase_plugins.evaluation.bootstrap import mean_interval
from erase_plugins.evaluation.prompts import find_axis
from erase_plugins.types import EvalReport, EvalRow

CHANGE, SHARE, SEEN = "mean_change", "changed_share", "target_rate"
#: a pixel counts as changed from here
NOTICED = 0.1


def measure_pictures(
    base: Tensor, erased: Tensor, concepts: Sequence[str] = (), judge: Any = None, seed: int = 0
) -> EvalReport:
    """What can be said about pairs of pictures, without the model that drew them.

    Args:
        base, erased: (n, 3, height, width) in 0..1; pairs from the same noise.
        concepts: what should be gone; asked of the judge only.
        judge: a registered judge, or None.
        seed: of the resampling.

    Raises:
        RequestError: numbers or sizes differ, or no picture.
        Unsupported: the judge does not know a concept.
    """
    if base.shape != erased.shape or not len(base):
        raise RequestError(
            f"{len(base)} base and {len(erased)} erased pictures of {tuple(base.shape[-2:])} and "
            f"{tuple(erased.shape[-2:])}; give as many of each, of one size, drawn from the same noise"
        )
    amount = (base.float() - erased.float()).abs().mean(1)
    values = {CHANGE: amount.mean((1, 2)), SHARE: (amount > NOTICED).float().mean((1, 2))}
    rows = [_row(name, "edited", part.tolist(), seed, shares=False) for name, part in values.items()]
    axes = {find_axis(judge, text) for text in concepts} if judge is not None else set()
    for axis in axes:
        labels = judge.axes[axis]
        for name, pictures in (("base", base), ("edited", erased)):
            best = judge.score(pictures)[axis].argmax(-1).tolist()
            rows.append(_row(SEEN, name, [float(labels[index] in concepts) for index in best], seed, shares=True))
    return EvalReport(
        suite="pictures", model="pictures that were given", rows=tuple(rows), erased=tuple(concepts),
        judge="" if judge is None else judge.id, judge_hash="" if judge is None else judge.fingerprint, seeds=(seed,),
        details={"values": {name: [round(float(item), 6) for item in part] for name, part in values.items()}},
    )  # fmt: skip


def _row(metric: str, subject: str, values: Sequence[float], seed: int, shares: bool) -> EvalRow:
    value, low, high = (round(item, 6) for item in mean_interval(values, seed, pictures=None if shares else 0))
    return EvalRow(metric, subject, value, low, high, len(values))
