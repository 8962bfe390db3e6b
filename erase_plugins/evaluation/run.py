"""What suites measure: a model with artifacts, drawn with and without them; report, contact sheet and chart."""

from __future__ import annotations

import dataclasses
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from erase_plugins.artifacts.artifact import Artifact
from erase_plugins.artifacts.places import SIDE_FILES
from erase_plugins.errors import MissingExtra
from erase_plugins.evaluation.chart import bar_chart
from erase_plugins.evaluation.context import REPORT, Progress, save_report
from erase_plugins.evaluation.draw import draw
from erase_plugins.evaluation.sheet import contact_sheet
from erase_plugins.families.diffusers_target import DiffusersTarget
from erase_plugins.runtime.apply import all_of, apply_to
from erase_plugins.types import EvalReport

_BASE_CACHE: OrderedDict[tuple[Any, ...], Any] = OrderedDict()
_CACHED_SETS = 16
_, SHEET, CHART = SIDE_FILES


@dataclass
class Subject:
    """What a suite measures: a pipeline with artifacts, a judge, and the settings of the measurement."""

    pipe: Any
    target: DiffusersTarget
    model: str
    artifacts: list[Artifact]
    judge: Any
    erased: list[str]
    strength: float = 1.0
    images: int = 32
    seed: int = 0
    steps: int = 8
    guidance: float = 4.0
    any_base: bool = False
    progress: Progress | None = None
    drawn: Any = field(default=None, repr=False)
    _stage: str = "base"

    def draw(self, prompts: Sequence[str], seeds: Sequence[int]) -> Tensor:
        """Pictures of the pipeline as it is now, (n, 3, height, width) in 0..1."""
        report = self.progress
        hook = None if report is None else (lambda done, total: report(self._stage, done, total))
        return draw(
            self.pipe,
            prompts,
            seeds,
            steps=self.steps,
            guidance=self.guidance,
            progress=hook,
            denoiser=self.target.denoiser,
        )

    @contextmanager
    def edited(self, strength: float | None = None) -> Iterator[None]:
        """The artifacts in force for the length of a with-block."""
        self._stage = "edited" if strength is None else f"strength {strength:g}"
        target = DiffusersTarget(self.pipe, None, self.target.family)
        level = self.strength if strength is None else strength
        handles = all_of(partial(apply_to, target, item, level, any_base=self.any_base) for item in self.artifacts)
        try:
            yield
        finally:
            for handle in reversed(handles):
                handle.remove()
            self._stage = "base"

    @contextmanager
    def destroyed(self) -> Iterator[None]:
        """Output channels of all value projections shuffled, for the length of a with-block."""
        self._stage = "destroyed"
        generator = torch.Generator().manual_seed(1)
        parameters = [self.target.module(ref).get_parameter("weight") for ref in self.target.modules("cross_v")]
        before = [parameter.data for parameter in parameters]
        try:
            for parameter, weight in zip(parameters, before, strict=True):
                order = torch.randperm(weight.shape[0], generator=generator)
                parameter.data = weight[order].contiguous()
            yield
        finally:
            for parameter, weight in zip(parameters, before, strict=True):
                parameter.data = weight
            self._stage = "base"

    def remembered(self, sets: Any, make: Callable[[Subject, Any], Any], tag: str) -> Any:
        """What ``make`` gives without any artifact; remembered per base, tag, prompts and sampler."""
        key = (
            tag,
            tuple((name, item.short) for name, item in sorted(self.target.fingerprint().items())),
            str(self.target.dtype), self.judge.fingerprint, self.steps, self.guidance,
            tuple((name, item.text, item.seed) for name, items in sets.items() for item in items),
        )  # fmt: skip
        if key in _BASE_CACHE:
            _BASE_CACHE.move_to_end(key)
            return _BASE_CACHE[key]
        _BASE_CACHE[key] = make(self, sets)
        while len(_BASE_CACHE) > _CACHED_SETS:
            _BASE_CACHE.popitem(last=False)
        return _BASE_CACHE[key]


def write_report(report: EvalReport, subject: Subject, out: Path) -> EvalReport:
    """Writes report.json, contact_sheet.png and chart.png into ``out``; returns the report with file names."""
    out.mkdir(parents=True, exist_ok=True)
    files = {"report": REPORT}
    warnings = list(report.warnings)
    title = f"{', '.join(report.erased[:4])} erased by {', '.join(report.artifacts) or 'nothing'}"
    if subject.drawn is not None:
        contact_sheet(sheet_rows(report, subject.drawn), out / SHEET, title=title)
        files["contact_sheet"] = SHEET
    try:
        bar_chart(report.rows, out / CHART, title)
        files["chart"] = CHART
    except MissingExtra as error:
        warnings.append(str(error))
    return save_report(dataclasses.replace(report, files=files, warnings=tuple(warnings)), out)


def sheet_rows(report: EvalReport, drawn: Any, columns: int = 8) -> list[tuple[str, list[Tensor]]]:
    """Rows of the contact sheet: every set before and after with its rate, then the controls."""
    rows: list[tuple[str, list[Tensor]]] = []
    values = {(row.metric, row.subject): row.value for row in report.rows}
    for name, pictures in drawn["base"].pictures.items():
        if not len(pictures):
            continue
        for subject in ("base", "edited"):
            label = f"{name}, {'before' if subject == 'base' else 'after'}: {values[(f'{name}_rate', subject)]:.0%}"
            rows.append((label, list(drawn[subject].pictures[name][:columns])))
    rows.append(("control: destroyed model", list(drawn["destroyed"].pictures["kept"][:columns])))
    return rows
