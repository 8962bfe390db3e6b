"""The search: which trial comes next, when it stops, and what is kept of it so that it can go on.

Every trial follows from those before it and the seed alone (the sampler is seeded anew for each), so that a search that
was killed goes on as if nothing had happened. Order: the defaults of what is short; proposals of Optuna's TPE around
what is on the front; the defaults of what trains, once the short ones no longer move the knee; proposals again.
"""

from __future__ import annotations

import json
import math
import random
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from erase_plugins.autotune.space import METHOD, Settings, Start
from erase_plugins.errors import EraseError, MissingExtra, RequestError, RunCancelled
from erase_plugins.hints import ANOTHER_OUT

#: settings to what they give
TryOut = Callable[[Settings], "Tried"]
Progress = Callable[[str, int, int], None]

NUMBERS = ("left", "change", "cost")
#: what was asked, kept beside the trials
_ASKED = "asked"
#: share of the budget up to which a start counts as short
_SHORT = 0.1
#: what is left and changed at most where training is not tried any more
_GOOD = 0.02
#: how much nearer the knee has to come to count as moved
_MOVED = 0.002


@dataclass(frozen=True)
class Tried:
    """What a trial gave: the three numbers, and what ``left`` is made of."""

    left: float
    change: float
    cost: float
    parts: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Row:
    """A finished trial; ``seconds`` is what it took (of processor time where that can be told)."""

    number: int
    label: str
    settings: Settings
    left: float
    change: float
    cost: float
    seconds: float
    parts: Mapping[str, float]

    @property
    def numbers(self) -> tuple[float, float, float]:
        """What is made small."""
        return self.left, self.change, self.cost

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "trial": self.number, "label": self.label, "settings": self.settings.to_dict(), "left": round(self.left, 6),
            "change": round(self.change, 6), "cost": self.cost, "seconds": round(self.seconds, 2),
            "parts": {name: round(value, 6) for name, value in self.parts.items()},
        }  # fmt: skip


@dataclass(frozen=True)
class Budget:
    """How long to search: seconds, trials at most, trials in which the knee does not move after which it ends."""

    seconds: float
    trials: int | None = None
    patience: int = 12


def open_study(file: Path | None, asked: Mapping[str, Any]) -> Any:
    """The study of a search, new or where it stopped; None keeps it in memory.

    Raises:
        MissingExtra: optuna is not installed.
        RequestError: the file holds a search for something else; names what differs.
    """
    try:
        import optuna
    except ImportError as error:
        raise MissingExtra("the search", "auto") from error
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    storage = None
    if file is not None:
        from optuna.storages import JournalStorage
        from optuna.storages.journal import JournalFileBackend

        storage = JournalStorage(JournalFileBackend(str(file)))
    study = optuna.create_study(
        study_name="auto", storage=storage, directions=["minimize"] * len(NUMBERS), load_if_exists=True
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # experimental interfaces of optuna
        study.set_metric_names(list(NUMBERS))
    plain = json.loads(json.dumps(dict(asked), sort_keys=True, default=str))
    before = study.user_attrs.get(_ASKED)
    if before is None:
        study.set_user_attr(_ASKED, plain)
    elif before != plain:
        differing = sorted(name for name in {*before, *plain} if before.get(name) != plain.get(name))
        raise RequestError(
            f"the search that is there was asked something else ({', '.join(differing)}); ask the same, or choose ",
            ANOTHER_OUT,
        )
    for trial in study.get_trials(deepcopy=False):
        if trial.state == optuna.trial.TrialState.RUNNING:  # cut off by a kill; it is proposed again
            study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
    return study


def rows_of(study: Any) -> list[Row]:
    """Finished trials in their order."""
    from optuna.trial import TrialState

    found = []
    for item in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)):
        (left, change, cost), facts = item.values, item.user_attrs
        settings = Settings(**facts["settings"])
        found.append(Row(item.number, facts["label"], settings, left, change, cost, facts["seconds"], facts["parts"]))
    return found


def refusals_of(study: Any) -> list[tuple[str, str]]:
    """Labels of trials that did not work, with the reason."""
    found = [item.user_attrs for item in study.get_trials(deepcopy=False) if "refused" in item.user_attrs]
    return [(item["label"], item["refused"]) for item in found]


def front_of(rows: Sequence[Row]) -> list[Row]:
    """Those that no other beats: not worse in all three numbers and better in one. Of equal ones the first."""
    front = []
    for row in rows:
        beaten = any(
            all(a <= b for a, b in zip(other.numbers, row.numbers, strict=True))
            and (other.numbers != row.numbers or other.number < row.number)
            for other in rows
            if other.number != row.number
        )
        if not beaten:
            front.append(row)
    return front


def knee_of(front: Sequence[Row]) -> Row:
    """The point nearest to nothing left and nothing else changed; of equal ones the cheapest, then the first."""
    return min(front, key=lambda row: (row.left**2 + row.change**2, row.cost, row.number))


class Search:
    """Runs trials until the budget, the number of trials or the patience ends.

    Args:
        study: from `open_study`.
        starts: from `space.find_starts`, the shortest first.
        try_out: erases and measures; may raise what a method refuses.
        budget: when to stop.
        seed: of all proposals.
        clock: seconds of work so far.
        began: what the clock showed when the work began; now if None.
        progress: told (what, trials done, trials at most or 0).
    """

    def __init__(
        self, study: Any, starts: Sequence[Start], try_out: TryOut, budget: Budget, seed: int,
        clock: Callable[[], float] = time.process_time, began: float | None = None,
        progress: Progress = lambda *_: None,
    ) -> None:  # fmt: skip
        self.study, self.starts, self.try_out = study, tuple(starts), try_out
        self.budget, self.seed, self.clock, self.progress = budget, seed, clock, progress
        self.began = clock() if began is None else began
        self.before = sum(row.seconds for row in rows_of(study))
        self.stopped = ""

    def run(self) -> str:
        """Searches; returns why it ended."""
        while not self._ended():
            start = self._next()
            if start is None:
                break
            self._trial(*start)
        return self.stopped

    # ---- when --------------------------------------------------------------------------------------------------

    def _done(self) -> list[Any]:
        """Trials that count: finished or refused, not those that a kill cut off."""
        return [item for item in self.study.get_trials(deepcopy=False) if item.values or "refused" in item.user_attrs]

    def spent(self) -> float:
        """Seconds of work, those before an interruption included."""
        return self.before + self.clock() - self.began

    def _ended(self) -> bool:
        done = self._done()
        if self.budget.trials is not None and len(done) >= self.budget.trials:
            self.stopped = f"{len(done)} trials were asked for"
        elif self.spent() >= self.budget.seconds and rows_of(self.study):
            self.stopped = "the time is up"
        return bool(self.stopped)

    def _still(self) -> int:
        """Finished trials since the knee last moved; a front of many compromises would go on growing for ever."""
        best, since = float("inf"), -1
        for row in rows_of(self.study):
            distance = math.hypot(row.left, row.change)
            best, since = (distance, 0) if distance < best - _MOVED else (best, since + 1)
        return max(since, 0)

    def _expected(self, start: Start, seconds: float) -> float:
        """Seconds that a trial will take: the method's own estimate, corrected by what the same start took before."""
        took = [item.user_attrs for item in self._done() if item.values and item.user_attrs.get("start") == start.name
                and item.user_attrs["estimate"]]  # fmt: skip
        if not took:
            return seconds
        return seconds * max(item["seconds"] / item["estimate"] for item in took)

    def _fits(self, start: Start, seconds: float) -> bool:
        if start is self.starts[0] and not self._done():
            return True  # without one trial there is nothing to show
        return self.spent() + self._expected(start, seconds) <= self.budget.seconds

    # ---- which -------------------------------------------------------------------------------------------------

    def _next(self) -> tuple[Start, bool] | None:
        """The start of the next trial and whether it is its first; None ends the search."""
        tried = {item.user_attrs.get("start") for item in self._done()}
        short = [item for item in self.starts if item.seconds <= _SHORT * self.budget.seconds] or [self.starts[0]]
        fresh = [item for item in short if item.name not in tried]
        fitting = next((item for item in fresh if self._fits(item, item.seconds)), None)
        if fitting is not None:
            return fitting, True
        settled = self._still() >= self.budget.patience // 2 or self.spent() > self.budget.seconds / 2
        long = [item for item in self.starts if item not in short and item.name not in tried]
        able = [item for item in long if self._fits(item, item.seconds)]
        if settled and able and self._room():
            return able[0], True
        if self._still() >= self.budget.patience:
            self.stopped = f"the knee did not move in {self.budget.patience} trials"
            return None
        open_ = [item for item in self.starts if item.name in tried and self._fits(item, item.seconds)]
        open_ = [
            item for item in open_ if any(row.user_attrs["start"] == item.name for row in self._done() if row.values)
        ]
        if not open_:
            self.stopped = "nothing that is left would finish in time"
            return None
        return self._drawn(open_), False

    def _room(self) -> bool:
        """Whether what trains can still win: something is left, or something else has changed."""
        front = front_of(rows_of(self.study))
        return not front or max(knee_of(front).numbers[:2]) > _GOOD

    def _drawn(self, starts: Sequence[Start]) -> Start:
        """A start by lot: one ticket each, and two more for every point that it has on the front."""
        numbers = {row.number for row in front_of(rows_of(self.study))}
        owners = [item.user_attrs["start"] for item in self._done() if item.number in numbers]
        tickets = [1 + 2 * owners.count(item.name) for item in starts]
        return random.Random(f"{self.seed} {len(self._done())}").choices(starts, tickets)[0]

    # ---- how ---------------------------------------------------------------------------------------------------

    def _trial(self, start: Start, first: bool) -> None:
        from optuna.samplers import PartialFixedSampler, TPESampler
        from optuna.trial import TrialState

        fixed = start.first_params() if first else {METHOD: start.method}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # experimental interfaces of optuna
            base = TPESampler(
                seed=(self.seed * 7919 + len(self._done())) % 2**32, n_startup_trials=8, constant_liar=False
            )
            self.study.sampler = PartialFixedSampler(fixed, base)
            trial = self.study.ask()
            trial.suggest_categorical(METHOD, sorted({item.method for item in self.starts}))
            settings = start.suggest(trial)
        label = start.label(settings)
        facts = {"start": start.name, "label": label, "settings": settings.to_dict(),
                 "estimate": start.seconds}  # fmt: skip
        for name, value in facts.items():
            trial.set_user_attr(name, value)
        self.progress(label, trial.number, self.budget.trials or 0)
        began = self.clock()
        try:
            tried = self._known(settings) or self.try_out(settings)
        except RunCancelled:
            raise
        except EraseError as error:
            trial.set_user_attr("refused", str(error))
            self.study.tell(trial, state=TrialState.FAIL)
            return
        trial.set_user_attr("seconds", self.clock() - began)
        trial.set_user_attr("parts", dict(tried.parts))
        self.study.tell(trial, [tried.left, tried.change, tried.cost])

    def _known(self, settings: Settings) -> Tried | None:
        """The numbers of equal settings that were tried before."""
        for row in rows_of(self.study):
            if row.settings == settings:
                return Tried(row.left, row.change, row.cost, row.parts)
        return None
