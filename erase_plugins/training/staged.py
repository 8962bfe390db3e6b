"""The base class of methods that solve a closed form first and train on top of it. No torch at import."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from erase_plugins.training.method import TrainedMethod, TrainingRun, rank_of
from erase_plugins.types import EditPlan, EraseRequest

if TYPE_CHECKING:
    from erase_plugins.artifacts.edit import Edit
    from erase_plugins.artifacts.statistics import Statistics
    from erase_plugins.engine.context import RunContext
    from erase_plugins.families.base import Target, TargetInfo
    from erase_plugins.families.target import FamilyTraits


class StagedMethod(TrainedMethod):
    """A `TrainedMethod` on top of a closed form.

    Its options have a ``recipe()`` (`engine.closed_form_options`). The student sees prompts through the closed form's
    map (`training.embedding_map`); the edit holds both. With the option ``stages=closed`` nothing is trained.
    """

    @abstractmethod
    def solver(self, run: TrainingRun) -> Mapping[str, Any]:
        """What `solve` needs besides sums; kept with the artifact."""

    def complete(self, request: EraseRequest, options: Any) -> EraseRequest:
        """The request with what both stages read into it."""
        return request

    def collect(self, run: TrainingRun, request: EraseRequest | None = None) -> Statistics:
        """Sums of the closed form over the rows of the concepts and of what is kept."""
        from erase_plugins.engine.collect import collect, summary

        solver = {"method": self.id, **self.solver(run)}
        request = run.request if request is None else request
        statistics = collect(request, run.options.recipe(), solver, run.target, run.ctx, need_sigma=False)
        summary(statistics, run.ctx)
        return statistics

    def solve(self, statistics: Statistics, family: FamilyTraits) -> Edit:
        """The closed form of given statistics; the joint solution of all members."""
        from erase_plugins.engine.solve import joint_edit

        return joint_edit(statistics, family)

    def first(self, run: TrainingRun) -> Edit:
        """The closed form of a run."""
        return self.solve(run.statistics, run.target.family)

    def closed_plan(self, request: EraseRequest, options: Any, info: TargetInfo) -> EditPlan:
        """The plan of the closed form alone."""
        from erase_plugins.engine.estimate import closed_form_plan

        return closed_form_plan(request, options, info)

    def plan(self, request: EraseRequest, info: TargetInfo) -> EditPlan:
        options = self.resolved(request, info)
        closed = replace(self.closed_plan(self.complete(request, options), options, info), request=request)
        if not _trains(options):
            return replace(closed, produces=self.made(options)[:1])
        trained = super().plan(request, info)
        return replace(
            trained,
            modules=tuple(dict.fromkeys((*closed.modules, *trained.modules))),
            seconds=round((closed.seconds or 0.0) + (trained.seconds or 0.0), 3),
            memory_bytes=max(closed.memory_bytes or 0, trained.memory_bytes or 0),
            file_bytes=(closed.file_bytes or 0) + (trained.file_bytes or 0),
            warnings=(*closed.warnings, *trained.warnings),
            notes=(*closed.notes, *trained.notes),
        )

    def made(self, options: Any) -> tuple[str, ...]:
        return "contextmap", "dense" if rank_of(options) is None else "lowrank"

    def warnings(self, request: EraseRequest, info: TargetInfo, options: Any) -> Sequence[str]:
        """None: the closed form erases every concept, however many share the training steps."""
        return ()

    def begin(self, plan: EditPlan, target: Target, ctx: RunContext) -> TrainingRun:
        """A run with its closed form solved."""
        run = super().begin(plan, target, ctx)
        run.request = self.complete(run.request, run.options)
        run.statistics = self.collect(run)
        run.closed = self.first(run)
        return run

    def run(self, plan: EditPlan, target: Target, ctx: RunContext) -> Edit:
        run = self.begin(plan, target, ctx)
        return self.train(run) if _trains(run.options) else self.edit(run)

    def edit(self, run: TrainingRun) -> Edit:
        """Both stages in one edit; the closed form alone before the training."""
        from erase_plugins.training.embedding_map import stacked

        if run.adapters is None:
            return run.closed
        return stacked(run.closed, run.adapters.edit(), [ref.weight for ref in run.target.modules("cross_kv")])


def _trains(options: Any) -> bool:
    return getattr(options, "stages", "both") != "closed"
