"""Trials of a search: what is kept of them, in a journal that a kill does not harm, and which of them are the best."""

from __future__ import annotations

import json
import math
import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from erase_plugins.autotune.space import Settings
from erase_plugins.errors import MissingExtra, RequestError
from erase_plugins.hints import ANOTHER_OUT

NUMBERS = ("left", "change", "cost")
#: what was asked, kept beside the trials
_ASKED = "asked"
#: name of what of it decides how an edit is measured, not which there are
LAYOUTS = "layouts"
#: how much nearer to the knee counts as nearer
MOVED = 0.002
#: what is left and changed at most where nothing more is searched, and how much more change counts as none
GOOD = 0.005
#: of the concept left, or of everything else changed, from which on a search has not found what was asked for
_POOR = 0.5


@dataclass(frozen=True)
class Tried:
    """What a trial gave: the three numbers, what ``left`` is made of, and its share in each picture."""

    left: float
    change: float
    cost: float
    parts: Mapping[str, float] = field(default_factory=dict)
    values: tuple[float, ...] = ()


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
    values: tuple[float, ...] = ()

    @property
    def numbers(self) -> tuple[float, float, float]:
        """What is made small."""
        return self.left, self.change, self.cost

    @property
    def distance(self) -> float:
        """From nothing left and nothing else changed."""
        return math.hypot(self.left, self.change)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "trial": self.number, "label": self.label, "settings": self.settings.to_dict(), "left": round(self.left, 6),
            "change": round(self.change, 6), "cost": self.cost, "seconds": round(self.seconds, 2),
            "parts": {name: round(value, 6) for name, value in self.parts.items()},
        }  # fmt: skip


def open_study(file: Path | None, asked: Mapping[str, Any], whatever: Sequence[str] = ()) -> Any:
    """The study of a search, new or where it stopped.

    Args:
        file: its journal; None keeps it in memory.
        asked: what a search must have in common with the one that goes on from it.
        whatever: what of it may differ this time.

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
        storage = _journal(file)
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
    elif differing := sorted(
        name for name in {*before, *plain} - set(whatever) if (before.get(name) or None) != (plain.get(name) or None)
    ):
        raise RequestError(
            f"the search that is there was asked something else ({', '.join(differing)}); ask the same, or choose ",
            ANOTHER_OUT,
        )
    for trial in study.get_trials(deepcopy=False):
        if trial.state == optuna.trial.TrialState.RUNNING:  # cut off by a kill; it is proposed again
            study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
    return study


def _journal(file: Path) -> Any:
    """Storage in a file of whose folder the lock is held: that of optuna would outlive a killed process."""
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    if file.is_file():  # a kill may have cut the last line, and what is appended to it could not be read
        text = file.read_bytes()
        os.truncate(file, text.rfind(b"\n") + 1)
    held: Any = _Held()
    return JournalStorage(JournalFileBackend(str(file), lock_obj=held))


class _Held:
    """Stands for a lock that is held already."""

    def acquire(self) -> bool:
        return True

    def release(self) -> None:
        pass


def counted(study: Any) -> list[Any]:
    """Trials that count, in their order: finished or refused, not those that a kill cut off.

    Their places are the numbers by which people know them, the same whether a search was killed or not.
    """
    return [item for item in study.get_trials(deepcopy=False) if item.values or "refused" in item.user_attrs]


def counting(trials: int) -> str:
    """So many trials, and what was done with them comes behind it."""
    return "1 trial was" if trials == 1 else f"{trials} trials were"


def rows_of(study: Any) -> list[Row]:
    """Finished trials in their order."""
    found = []
    for number, item in enumerate(counted(study)):
        if item.values:
            (left, change, cost), facts = item.values, item.user_attrs
            settings, values = Settings(**facts["settings"]), tuple(facts.get("values", ()))
            found.append(
                Row(number, facts["label"], settings, left, change, cost, facts["seconds"], facts["parts"], values)
            )
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
    """The point nearest to nothing left and nothing else changed.

    Of those that are as near, the cheapest and of equally cheap ones the first. Where others leave clearly less in the
    same pictures, and nobody sees how much more they change, one of them: the least, or a cheaper one that is as good.
    """
    nearest = min(row.distance for row in front)
    taken = _cheapest([row for row in front if row.distance <= nearest + MOVED])
    clearer = [row for row in front if row.change <= taken.change + GOOD and _leaves_less(row, taken)]
    if not clearer:
        return taken
    least = min(clearer, key=lambda row: row.left)
    return _cheapest([row for row in clearer if not _leaves_less(least, row)])


def _cheapest(rows: Sequence[Row]) -> Row:
    return min(rows, key=lambda row: (row.cost, row.number))


def _leaves_less(row: Row, other: Row) -> bool:
    """Whether less is left in the same pictures, and not by luck: the interval of the difference lies below 0."""
    from erase_plugins.evaluation.bootstrap import paired_difference

    if not row.values or len(row.values) != len(other.values):
        return False
    return paired_difference(other.values, row.values)[2] < 0


def doubt_of(row: Row) -> str:
    """What people have to know of a point that is the best and yet no good; "" where it is good."""
    told = []
    if row.left >= _POOR:
        told.append(f"leaves {row.left:.0%} of the concept")
    if row.change >= _POOR:
        told.append(f"changes everything else by {row.change:.2f}, where 1 is another model")
    return f"the best trial {' and '.join(told)}: nothing that was tried erases it well" if told else ""
