"""Changed weights of an edited classifier: what the attack ``weights`` does, counted by labels.

Strength between -1 and 1.5, off, the edited weights in 8 and 4 bits, half of them put back, the smallest 30 and 50 % of
each set to 0. The change that brings back most, of those that leave at least half of the edit, is chosen on one half of
the pictures and measured on the other, so that choosing does not inflate it. The base and a destroyed model stand
beside it on the same half.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from erase_plugins.errors import RequestError
from erase_plugins.evaluation.attacks.rates import TARGET, mean, rate
from erase_plugins.evaluation.attacks.weight_changes import FEW, KEPT, VARIANTS, Variant, said, varied, worst_of
from erase_plugins.families.labelled import Labelled, hits

if TYPE_CHECKING:
    from erase_plugins.evaluation.context import SuiteContext
    from erase_plugins.evaluation.run import Subject
    from erase_plugins.types import EvalRow

#: metrics of the report: accuracy on what was forgotten, and on everything else
WORST, BESIDE = "weights", "weights_kept"
#: what the suite warns of: shares that come back, and that others lose
_BACK, _LOST = 0.2, 0.1


@dataclass
class Changed:
    """What was found.

    Attributes:
        rows: of the report.
        variants: accuracies by variant, on all pictures, for the figure.
        details: the same as numbers, and which change was the worst.
        warnings: what has to be said.
    """

    rows: list[EvalRow] = field(default_factory=list)
    variants: list[EvalRow] = field(default_factory=list)
    details: dict[str, Any] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)


def changed_weights(subject: Subject, ctx: SuiteContext, sets: Mapping[str, Labelled]) -> Changed:
    """All variants, the worst one measured on pictures that it was not chosen on.

    Args:
        subject: a classifier with artifacts.
        ctx: for its seed and progress.
        sets: pictures of what was forgotten (`TARGET`) and of everything else (`KEPT`).

    Raises:
        RequestError: no artifact, or fewer than two pictures of a set.
    """
    if not subject.artifacts:
        raise RequestError("weights=true changes an edit; name an artifact")
    for name, pictures in sets.items():
        if len(pictures) < 2:
            what = "what was forgotten" if name == TARGET else "what is kept"
            raise RequestError(f"weights=true needs two pictures of {what}, one to choose a change by; leave it out")
    found, seen, skipped = Changed(), dict[str, dict[str, list[int]]](), []
    for number, variant in enumerate(VARIANTS):
        ctx.progress(f"weights, {variant.name}", number, len(VARIANTS) + 1)
        looked = _look(subject, variant, sets)
        if looked is None:
            skipped.append(variant.name)
        else:
            seen[variant.name] = looked
    ctx.progress("weights, destroyed", len(VARIANTS), len(VARIANTS) + 1)
    with subject.under("destroyed"):
        seen["destroyed"] = {name: hits(subject.target, part).tolist() for name, part in sets.items()}
    choose, measure = ({name: _half(seen, name, side, ctx.seed) for name in sets} for side in (0, 1))
    worst = worst_of(VARIANTS, {name: {part: choose[part][name] for part in sets} for name in seen})
    for metric, part in ((WORST, TARGET), (BESIDE, KEPT)):
        for name, state in (("base", "off"), ("edited", worst.name), ("destroyed", "destroyed")):
            note = f"worst change: {worst.name}" if metric == WORST and name == "edited" else ""
            found.rows.append(rate(metric, name, measure[part][state], ctx.seed, note))
    found.variants = [rate(part, name, table[part], ctx.seed) for name, table in seen.items() for part in sets]
    found.details = {
        "worst": worst.name, "change": said(worst.change, None),
        "accuracy": {name: {part: round(mean(table[part]), 6) for part in sets} for name, table in seen.items()},
    }  # fmt: skip
    found.warnings = _warnings(worst, measure)
    if skipped:
        found.warnings.append(f"not tried: {', '.join(skipped)}: {FEW}")
    return found


def _look(subject: Subject, variant: Variant, sets: Mapping[str, Labelled]) -> dict[str, list[int]] | None:
    """Per set one 0/1 per picture, 1 where its label is given; None where there is nothing to change."""
    with varied(subject, variant) as there:
        if not there:
            return None
        subject.queries += sum(map(len, sets.values()))
        return {name: hits(subject.target, part).tolist() for name, part in sets.items()}


def _half(seen: Mapping[str, Mapping[str, list[int]]], part: str, side: int, seed: int) -> dict[str, list[int]]:
    """What was seen of one half of a set, of every variant."""
    from erase_plugins.evaluation.unlearning import halves

    rows = halves(len(seen["off"][part]), seed)[side].tolist()
    return {name: [table[part][row] for row in rows] for name, table in seen.items()}


def _warnings(worst: Variant, measured: Mapping[str, Mapping[str, list[int]]]) -> list[str]:
    back, plain = (mean(measured[TARGET][name]) for name in (worst.name, "edited"))
    found = []
    if back > plain + _BACK:
        found.append(
            f"changed weights ('{worst.name}') bring it back: {back:.0%} of the pictures are recognised, with the "
            f"edit as it is {plain:.0%}"
        )
        if mean(measured[KEPT][worst.name]) < mean(measured[KEPT]["edited"]) - _LOST:
            found.append(f"'{worst.name}' also damages what is kept; see {BESIDE}")
    return found
