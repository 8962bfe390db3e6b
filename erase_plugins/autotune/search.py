"""The search: which trial comes next, when it stops, and what is kept of it so that it can go on.

Every trial follows from those before it and the seed alone (the sampler is seeded anew for each), so that a search that
was killed goes on as if nothing had happened. Order: the defaults of everything, what is solved before what trains and
the shortest first, of what is long while something can still be won and as far as the first part of the budget goes;
then proposals of Optuna's TPE, mostly for what came nearest to the knee. Of what is long they vary the strength alone,
for which nothing is made again.
"""

from __future__ import annotations

import random
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from erase_plugins.autotune.space import METHOD, STRENGTH, Settings, Start
from erase_plugins.autotune.trials import GOOD, MOVED, Row, Tried, counted, counting, front_of, knee_of, rows_of
from erase_plugins.errors import EraseError, RunCancelled
from erase_plugins.hints import stored
from erase_plugins.plain_text import first_line, scrub

#: settings to what they give
TryOut = Callable[[Settings], "Tried"]
Progress = Callable[[str, int, int], None]

#: share of the budget up to which a start counts as short
_SHORT = 0.1
#: part of the budget in which what is long may begin; the rest is for proposals
_DEFAULTS = 0.75
#: where the study keeps the seconds that went by before its first trial
_OPENING = "opening"


@dataclass(frozen=True)
class Budget:
    """How long to search: seconds, trials at most, trials in which the knee does not move after which it ends."""

    seconds: float
    trials: int | None = None
    patience: int = 12


class Search:
    """Runs trials until the budget, the number of trials or the patience ends.

    Args:
        study: from `open_study`.
        starts: from `space.find_starts`, in the order in which they are tried.
        try_out: erases and measures; may raise what a method refuses.
        budget: when to stop.
        seed: of all proposals.
        clock: seconds of work so far.
        began: what the clock showed when the work began; now if None.
        progress: told (what, trials done, trials at most or 0).
        at_hand: whether the edit of settings is there but for its strength, so that a trial has only to measure it.
    """

    def __init__(
        self, study: Any, starts: Sequence[Start], try_out: TryOut, budget: Budget, seed: int,
        clock: Callable[[], float] = time.process_time, began: float | None = None,
        progress: Progress = lambda *_: None, at_hand: Callable[[Settings], bool] = lambda _: False,
    ) -> None:  # fmt: skip
        self.at_hand = at_hand
        self.study, self.starts, self.try_out = study, tuple(starts), try_out
        self.budget, self.seed, self.clock, self.progress = budget, seed, clock, progress
        self.began = clock() if began is None else began
        self.before = sum(item.user_attrs.get("seconds", 0.0) for item in counted(study))
        self.stopped = ""
        self._cut = False

    def opened(self) -> None:
        """Counts what came before the trials, once however often the search is gone on with."""
        took = self.study.user_attrs.get(_OPENING)
        if took is None:
            took = self.clock() - self.began
            self.study.set_user_attr(_OPENING, took)
        self.before += took
        self.began = self.clock()

    def over(self) -> bool:
        """Whether the trial under way is to end: the time is up, and there is another one to show."""
        return self._cut and self.spent() >= self.budget.seconds

    def run(self) -> str:
        """Searches; returns why it ended."""
        while not self._ended():
            start = self._next()
            if start is None:
                break
            self._trial(*start)
        return self.stopped

    # ---- when --------------------------------------------------------------------------------------------------

    def spent(self) -> float:
        """Seconds of work, those before an interruption included."""
        return self.before + self.clock() - self.began

    def _ended(self) -> bool:
        done = counted(self.study)
        if self.budget.trials is not None and len(done) >= self.budget.trials:
            self.stopped = f"{counting(len(done))} asked for"
        elif self.spent() >= self.budget.seconds and rows_of(self.study):
            self.stopped = "the time is up"
        return bool(self.stopped)

    def _still(self) -> int:
        """Finished trials since the knee last moved; a front of many compromises would go on growing for ever."""
        best, since = float("inf"), -1
        for row in rows_of(self.study):
            best, since = (row.distance, 0) if row.distance < best - MOVED else (best, since + 1)
        return max(since, 0)

    def _rows(self, start: Start) -> list[Row]:
        """Finished trials of a start, the nearest to the knee first."""
        trials = counted(self.study)
        own = [row for row in rows_of(self.study) if trials[row.number].user_attrs["start"] == start.name]
        return sorted(own, key=lambda row: (row.distance, row.number))

    def _expected(self, start: Start) -> float:
        """Seconds that a trial will take: the method's own estimate and measuring, or the most that the start took."""
        rows = self._rows(start)
        # what measuring takes at most; what was known takes nothing and tells nothing
        measuring = min((row.seconds for row in rows_of(self.study) if row.seconds), default=0.0)
        if not rows:
            return start.seconds + measuring
        if self._only_scaled(start) and self.at_hand(rows[0].settings):
            return measuring
        return max(row.seconds for row in rows)

    def _fits(self, start: Start, part: float = 1.0) -> bool:
        if start is self.starts[0] and not counted(self.study):
            return True  # without one trial there is nothing to show
        return self.spent() + self._expected(start) <= part * self.budget.seconds

    # ---- which -------------------------------------------------------------------------------------------------

    def _next(self) -> tuple[Start, bool] | None:
        """The start of the next trial and whether it is its first; None ends the search."""
        tried = {item.user_attrs.get("start") for item in counted(self.study)}
        fresh = [item for item in self.starts if item.name not in tried]
        for item in fresh:
            if self._fits(item) if self._short(item) else (self._room() and self._fits(item, _DEFAULTS)):
                return item, True
        if not self._room():
            self.stopped = f"no more than {GOOD:.1%} is left and has changed"
            return None
        if self._still() >= self.budget.patience:
            self.stopped = f"the knee did not move in {self.budget.patience} trials"
            return None
        open_ = [item for item in self.starts if self._rows(item) and self._fits(item)]
        if not open_:
            self.stopped = "nothing that is left would finish in time"
            return None
        return self._drawn(open_), False

    def _short(self, start: Start) -> bool:
        return start is self.starts[0] or start.seconds <= _SHORT * self.budget.seconds

    def _only_scaled(self, start: Start) -> bool:
        """Whether proposals leave all but the strength as it is: what would take long to make is made once."""
        return start.scales and not self._short(start)

    def _room(self) -> bool:
        """Whether something can still be won: something is left, or something else has changed."""
        front = front_of(rows_of(self.study))
        return not front or max(knee_of(front).numbers[:2]) > GOOD

    def _drawn(self, starts: Sequence[Start]) -> Start:
        """A start by lot; what came nearest to the knee has half of the chances, the next half of the rest."""
        ranked = sorted(starts, key=lambda item: self._rows(item)[0].distance)
        shares = [0.5**place for place in range(len(ranked))]
        return random.Random(f"{self.seed} {len(counted(self.study))}").choices(ranked, shares)[0]

    def _fixed(self, start: Start, first: bool) -> dict[str, Any]:
        """Parameters of the next trial of a start that are not proposed."""
        if first:
            return start.first_params()
        if not self._only_scaled(start):
            return {METHOD: start.method}
        best = counted(self.study)[self._rows(start)[0].number].params
        return {name: value for name, value in best.items() if name != f"{start.method}.{STRENGTH}"}

    # ---- how ---------------------------------------------------------------------------------------------------

    def _trial(self, start: Start, first: bool) -> None:
        from optuna.samplers import PartialFixedSampler, TPESampler
        from optuna.trial import TrialState

        fixed = self._fixed(start, first)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # experimental interfaces of optuna
            base = TPESampler(
                seed=(self.seed * 7919 + len(counted(self.study))) % 2**32, n_startup_trials=8, constant_liar=False
            )
            self.study.sampler = PartialFixedSampler(fixed, base)
            trial = self.study.ask()
            trial.suggest_categorical(METHOD, sorted({item.method for item in self.starts}))
            settings = start.suggest(trial)
        label = start.label(settings)
        facts = {"start": start.name, "label": label, "settings": settings.to_dict()}
        for name, value in facts.items():
            trial.set_user_attr(name, value)
        self.progress(label, len(counted(self.study)), self.budget.trials or 0)
        began, self._cut = self.clock(), bool(rows_of(self.study))
        try:
            tried = self._known(settings) or self.try_out(settings)
        except RunCancelled:
            raise
        except Exception as error:  # of a plugin, whatever it is: the next one may work
            trial.set_user_attr("seconds", self.clock() - began)
            trial.set_user_attr("refused", stored(error) if isinstance(error, EraseError) else scrub(first_line(error)))
            self.study.tell(trial, state=TrialState.FAIL)
            return
        trial.set_user_attr("seconds", self.clock() - began)
        trial.set_user_attr("parts", dict(tried.parts))
        trial.set_user_attr("values", list(tried.values))
        self.study.tell(trial, [tried.left, tried.change, tried.cost])

    def _known(self, settings: Settings) -> Tried | None:
        """The numbers of equal settings that were tried before."""
        for row in rows_of(self.study):
            if row.settings == settings:
                return Tried(row.left, row.change, row.cost, row.parts, row.values)
        return None
