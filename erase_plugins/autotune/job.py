"""Makes the edit of a point of the search and measures it; keeps the edits of the best trials."""

from __future__ import annotations

import gc
import math
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from erase_plugins.artifacts.artifact import Artifact
from erase_plugins.artifacts.store import in_layout
from erase_plugins.autotune.edits import Edits
from erase_plugins.autotune.space import Settings, request_of
from erase_plugins.autotune.trials import Tried
from erase_plugins.errors import RunCancelled, RunRefused
from erase_plugins.manager import get_manager
from erase_plugins.types import EraseRequest
from erase_plugins.workflow.run import judges, make_plan, run_plan


@dataclass(frozen=True)
class Host:
    """Where a search works.

    Attributes:
        target: the model that is measured, without any edit.
        edited: as in `measure.Yardstick`.
        stopped: whether the user asked for a stop, looked at at every step; a stopped search can be gone on with.
    """

    target: Any
    edited: Any = None
    stopped: Callable[[], bool] = lambda: False


class Job:
    """Erases and measures; keeps the edits of the best trials, which need not be made twice.

    Args:
        base, target, also, keep, images, cost, layouts: what is searched for.
        place: folder in which these edits outlive a killed search; None keeps them in memory only.
        over: whether a trial under way is to end now.
        host: how the model is measured and stopped where it is not a pipeline's.
    """

    def __init__(
        self, base: EraseRequest, target: Any, also: tuple[str, ...], keep: tuple[str, ...], images: int, cost: str,
        layouts: Sequence[str] = (), place: Path | None = None, over: Callable[[], bool] = lambda: False,
        host: Host | None = None,
    ) -> None:  # fmt: skip
        self.base, self.target, self.also, self.keep, self.images, self.cost = base, target, also, keep, images, cost
        self.layouts = [get_manager().layout(name) for name in layouts]
        self.over, self.host = over, host or Host(target)
        self.edits = Edits(place)
        self._yardstick: Any = None

    @property
    def yardstick(self) -> Any:
        """Made when something is to be measured."""
        if self._yardstick is None:
            from erase_plugins.autotune.measure import Yardstick

            self._yardstick = Yardstick(
                self.host.target, self.base.concepts[0], also=self.also, keep=self.keep, judges=judges(),
                images=self.images, seed=self.base.seed, edited=self.host.edited,
            )  # fmt: skip
        return self._yardstick

    def measure_base(self) -> None:
        """Measures the base now, if that has not been done, so that no trial is longer by it."""
        assert self.yardstick is not None

    def try_out(self, settings: Settings) -> Tried:
        """The numbers of a point.

        Raises:
            RunRefused: it does not fit into the memory of the device; the next one may.
        """
        try:
            return self._tried(settings)
        except torch.OutOfMemoryError as error:
            told = f"does not fit into the memory of {self.target.device}: {str(error).splitlines()[0][:200]}"
        gc.collect()  # the frames that held the tensors are gone only here
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        raise RunRefused(told)

    def _tried(self, settings: Settings) -> Tried:
        plan = make_plan(request_of(self.base, settings, self.also), self.target.info)
        whole = self._whole(settings, plan, self.over)
        artifact = self._as_files(_weakened(whole, settings.strength))
        found = self.yardstick.measure(artifact)
        size = sum(
            t.numel() * t.element_size() for _, _, part in artifact.edit.items() for t in part.tensors().values()
        )
        self.edits.keep(_key(settings), math.hypot(found.left, found.change), whole)
        cost = float(size if self.cost == "size" else plan.seconds or 0.0)
        return Tried(found.left, found.change, cost, found.parts, found.values)

    def at_hand(self, settings: Settings) -> bool:
        """Whether the edit of a point is kept, at whatever strength."""
        return _key(settings) in self.edits

    def artifact(self, settings: Settings) -> Artifact:
        """The edit of a point, made again if it is not at hand, which it says."""
        again = not self.at_hand(settings)
        plan = make_plan(request_of(self.base, settings, self.also), self.target.info)
        found = _weakened(self._whole(settings, plan), settings.strength)
        return _noted(found, "made again by the seed of its trial, whose numbers are told") if again else found

    def base_parts(self, study: Any) -> dict[str, float]:
        """What the unchanged model gives; measured once and kept beside the trials."""
        known = study.user_attrs.get("base")
        if known is None:
            known = dict(self.yardstick.base)
            study.set_user_attr("base", known)
        return dict(known)

    def _as_files(self, artifact: Artifact) -> Artifact:
        """The edit as the wanted layouts hold it: with what is lost in the first of them that loses something.

        Raises:
            Unsupported: one cannot carry it.
        """
        family = self.target.family
        forms = [in_layout(artifact.edit, layout, family, self.target) for layout in self.layouts]
        less = next((form for form in forms if form is not artifact.edit), artifact.edit)
        return Artifact(artifact.manifest, less)

    def _whole(self, settings: Settings, plan: Any, over: Callable[[], bool] = lambda: False) -> Artifact:
        """The edit at full strength.

        Raises:
            RunRefused: it was being made for so long that it was ``over``.
            RunCancelled: the host was stopped.
        """
        kept = self.edits.get(_key(settings))
        if kept is not None:
            return kept
        cancel = threading.Event()

        def look(_event: object) -> None:
            if over() or self.host.stopped():
                cancel.set()

        try:
            return run_plan(plan, self.target, listeners=(look,), cancel=cancel)
        except RunCancelled as error:
            if self.host.stopped():
                raise
            raise RunRefused("took longer than was expected, and the time was up before it was made") from error


def _key(settings: Settings) -> str:
    """Of what has to be made: the strength is set afterwards."""
    return repr(replace(settings, strength=1.0))


def _weakened(whole: Artifact, strength: float) -> Artifact:
    """An edit at a strength, which is part of it."""
    if strength == 1.0:
        return whole
    edit = replace(whole.edit.scaled(strength), meta=whole.edit.meta)
    return _noted(Artifact(whole.manifest, edit), f"strength {strength:g} is part of the edit")


def _noted(artifact: Artifact, note: str) -> Artifact:
    return Artifact(replace(artifact.manifest, notes=(*artifact.manifest.notes, note)), artifact.edit)
