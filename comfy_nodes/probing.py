"""Numbers before any picture is drawn: how far erased phrases are mapped, how far kept ones moved.

Measured on what cross-attention makes of a phrase, its keys and values in all layers together, since nothing else of a
prompt reaches the picture. Works on any `Target`, so for a pipeline and for a graph.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from erase_plugins.engine.collect import guide_of
from erase_plugins.engine.door_rows import paired_parts
from erase_plugins.engine.prompt_templates import check_phrase, paired_rows
from erase_plugins.errors import RequestError
from erase_plugins.families.base import Target
from erase_plugins.types import Concept, EvalReport, EvalRow

RESIDUAL, DRIFT = "residual", "drift"


@dataclass(frozen=True)
class Probed:
    """One phrase.

    Attributes:
        phrase: what was asked about.
        metric: "residual": distance between the phrase and what it becomes, now over before (0 is fully mapped, 1 not
            at all); "drift": change over size of a phrase that must stay (0 is unchanged).
        becomes: replacement of an erased phrase.
        value: over all projections together.
        layers: projection -> value of it alone.
    """

    phrase: str
    metric: str
    value: float
    becomes: str | None = None
    layers: Mapping[str, float] = field(default_factory=dict)

    @property
    def worst(self) -> float:
        """Largest value of a single projection."""
        return max(self.layers.values(), default=self.value)

    def line(self) -> str:
        """One line for people."""
        if self.metric == RESIDUAL:
            becomes = repr(self.becomes) if str(self.becomes).strip() else "the empty prompt"
            return (
                f"{self.phrase}: {100 * (1 - self.value):.1f} % mapped to {becomes} "
                f"(residual {100 * self.value:.1f} %, worst layer {100 * self.worst:.1f} %)"
            )
        return f"{self.phrase}: {100 * self.value:.1f} % drift (worst layer {100 * self.worst:.1f} %)"


def probe(
    now: Target,
    concepts: Sequence[Concept],
    keep: Sequence[str] = (),
    before: Target | None = None,
    tokens: str = "window",
) -> tuple[Probed, ...]:
    """Residuals of erased phrases and drifts of kept ones; replacements count as kept.

    Args:
        now: the model with everything that is in force on it.
        concepts: what should be gone, with what it becomes.
        keep: prompts that should be as before.
        before: the model to compare with; the stored weights of ``now`` if None.
        tokens: rows that stand for a phrase, as in `engine.prompt_templates.paired_rows`.

    Raises:
        RequestError: a phrase without content, or one that the model cannot tell from its replacement.
    """
    reference = now if before is None else before
    pairs: list[tuple[str, str, str | None]] = []
    sets: list[tuple[Tensor, Tensor]] = []
    for concept in concepts:
        guide = guide_of(concept)
        sides = [_pair(target, concept.text, guide, tokens) for target in (now, reference)]
        pairs.append((concept.text, RESIDUAL, guide))
        sets.append((_stacked(now, *sides[0]), torch.cat(sides[1]) if before is None else _stacked(before, *sides[1])))
    guides = [guide_of(concept) for concept in concepts]
    for phrase in dict.fromkeys([*keep, *(guide for guide in guides if guide.strip())]):
        pairs.append((phrase, DRIFT, None))
        rows = [target.rows([phrase]).embeds[0].double().cpu() for target in (now, reference)]
        sets.append((now.seen(rows[0]), rows[1] if before is None else before.seen(rows[1])))
    if not sets:
        return ()
    sums = _measure(now, before, sets, [metric for _, metric, _ in pairs])
    found = []
    for (phrase, metric, becomes), layers in zip(pairs, sums, strict=True):
        change, size = (sum(part) for part in zip(*layers.values(), strict=True))
        if size <= 0:
            raise RequestError(f"this model cannot tell '{phrase}' from '{becomes}'; give another replacement")
        each = {name: (above / below) ** 0.5 if below > 0 else 0.0 for name, (above, below) in layers.items()}
        found.append(Probed(phrase, metric, (change / size) ** 0.5, becomes, each))
    return tuple(found)


def residuals(found: Sequence[Probed]) -> dict[str, float]:
    """Erased phrase -> share of it that is left."""
    return {item.phrase: item.value for item in found if item.metric == RESIDUAL}


def _pair(target: Target, phrase: str, guide: str, tokens: str) -> tuple[Tensor, Tensor]:
    cond = target.rows([phrase, guide])
    check_phrase(cond, 0)
    return (paired_parts if cond.parts else paired_rows)(cond, cond, 0, 1, tokens)


def _stacked(target: Target, rows: Tensor, guides: Tensor) -> Tensor:
    return target.seen(torch.cat([rows, guides]))


def _measure(
    now: Target, before: Target | None, sets: Sequence[tuple[Tensor, Tensor]], metrics: Sequence[str]
) -> list[dict[str, tuple[float, float]]]:
    """Per phrase and projection: squared change and squared size. One weight at a time is in memory."""
    rows, olds = (torch.cat([pair[side].float() for pair in sets]) for side in (0, 1))
    sizes = [len(pair[0]) for pair in sets]
    found: list[dict[str, tuple[float, float]]] = [{} for _ in sets]
    for ref in now.readers():
        weight, columns = now.weight(ref).float().cpu(), now.columns(ref)
        old = now.base_weight(ref) if before is None else before.weight(ref)
        here, there = (rows[:, columns] @ weight.T).double(), (olds[:, columns] @ old.float().cpu().T).double()
        parts = zip(here.split(sizes), there.split(sizes), metrics, found, strict=True)
        for mine, theirs, metric, table in parts:
            if metric == RESIDUAL:
                change, size = (part[: len(part) // 2] - part[len(part) // 2 :] for part in (mine, theirs))
            else:
                change, size = mine - theirs, theirs
            table[ref.path] = (float(change.square().sum()), float(size.square().sum()))
    return found


def probe_report(found: Sequence[Probed], model: str, artifacts: Sequence[str] = ()) -> EvalReport:
    """The numbers as a report; the interval of a row holds 95 % of the projections."""
    rows = []
    for item in found:
        values = torch.tensor(sorted(item.layers.values()) or [item.value], dtype=torch.float64)
        low, high = (float(torch.quantile(values, share)) for share in (0.025, 0.975))
        numbers = (round(item.value, 6), round(low, 6), round(high, 6))
        rows.append(EvalRow(item.metric, item.phrase, *numbers, len(item.layers)))
    return EvalReport(
        suite="probe", model=model, rows=tuple(rows), artifacts=tuple(artifacts),
        erased=tuple(item.phrase for item in found if item.metric == RESIDUAL),
        details={"becomes": {item.phrase: item.becomes for item in found if item.becomes is not None}},
    )  # fmt: skip
