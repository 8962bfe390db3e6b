"""Guards among what is measured or attacked: which attacks make no sense, what is refused, what is told. No torch."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from erase_plugins.artifacts.policy import policies
from erase_plugins.errors import Unsupported
from erase_plugins.evaluation.wording import REFUSED, STATES
from erase_plugins.types import EvalReport, EvalRow

if TYPE_CHECKING:
    from torch import Tensor

#: every value of the picture that stands for a refused prompt; a picture in 8 bits never has it
BLANK = 0.5


def guards_among(artifacts: Sequence[Any]) -> str:
    """The artifacts that guard while the model runs, by name; empty if there are none."""
    return " and ".join(f"'{item.name}'" for item in artifacts if policies(item.manifest))


def nothing_but_guards(artifacts: Sequence[Any]) -> str:
    """The same where none of the artifacts edits weights, else empty."""
    guards = guards_among(artifacts)
    return "" if guards and any(len(item.edit) for item in artifacts) else guards


def check_guards(attack: Any, artifacts: Sequence[Any]) -> None:
    """Refuses an attack on edited weights (``needs_weights = True``) where guards are all there is.

    Raises:
        Unsupported: says what to attack with instead.
    """
    guards = nothing_but_guards(artifacts)
    if guards and getattr(attack, "needs_weights", False):
        raise Unsupported(
            f"attack {attack.id} attacks edited weights, and the guard {guards} edits none: whoever holds the model "
            "leaves it off; attack it by prompts (paraphrase, ring-a-bell)"
        )


def drawn(pictures: Tensor) -> list[bool]:
    """For each picture (n, 3, height, width) whether it is one, and does not stand for a refused prompt."""
    found: list[bool] = (pictures != BLANK).flatten(1).any(1).tolist()
    return found


def labels_of(judge: Any, pictures: Tensor) -> list[dict[str, str]]:
    """What a judge sees in each picture, by axis: its best label; "" where a prompt was refused, whatever it says."""
    best = {axis: scores.argmax(-1).tolist() for axis, scores in judge.score(pictures).items()}
    return [
        {axis: judge.axes[axis][best[axis][place]] if there else "" for axis in best}
        for place, there in enumerate(drawn(pictures))
    ]


def answered(
    target: Any, texts: Sequence[str], make: Callable[[Sequence[int]], Tensor], note: Callable[[int], object]
) -> Tensor:
    """Pictures (n, 3, height, width) of prompts behind the guards of a model.

    Args:
        target: the model.
        texts: the prompts.
        make: draws those at some places.
        note: called with each place at which a guard refuses the prompt; a picture of `BLANK` stands there.
    """
    gone = refused_places(target, texts)
    if not gone:
        return make(range(len(texts)))
    import torch

    for place in gone:
        note(place)
    pictures = torch.full((len(texts), 3, *target.picture_size()), BLANK)
    left = [place for place in range(len(texts)) if place not in gone]
    if left:
        pictures[left] = make(left)
    return pictures


def refused_places(target: Any, texts: Sequence[str]) -> list[int]:
    """Places of the prompts that a guard in front of a model refuses now."""
    from erase_plugins.runtime.guardrails.attach import refused

    return [place for place, text in enumerate(texts) if refused(target.host, text)]


@dataclass(frozen=True)
class Refusals:
    """Prompts, with their seeds, that guards refused in one run; kept in a file, so that a kill forgets none.

    The file holds hashes: a guard may know names that nothing else may tell.
    """

    place: Path

    def note(self, text: str, seed: int) -> None:
        """One more; drawn again after a kill, it counts once."""
        with self.place.open("a", encoding="utf-8") as file:
            file.write(json.dumps([_mark(text), seed]) + "\n")

    @property
    def count(self) -> int:
        """How many."""
        return len(self._lines())

    def among(self, texts: Sequence[str]) -> list[int]:
        """1 for each text that was refused, else 0."""
        marks = {json.loads(line)[0] for line in self._lines()}
        return [int(_mark(text) in marks) for text in texts]

    def _lines(self) -> set[str]:
        return set(self.place.read_text(encoding="utf-8").splitlines()) if self.place.is_file() else set()


def _mark(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


@contextmanager
def noted(subject: Any, place: Path) -> Iterator[Refusals]:
    """Inside, a prompt that a guard refuses ends nothing: it is noted, and shows nothing."""
    found, before = Refusals(place), getattr(subject, "note_refused", None)
    subject.note_refused = found.note
    try:
        yield found
    finally:
        subject.note_refused = before


def told_past(attack: str, past: str, guards: str) -> str:
    """What a report says where a part of an attack, which has a name in the plural, goes past guards."""
    return (
        f"the {past} of {attack} meet the model without the guard {guards}, through which its pictures are drawn: an "
        "attack that knows the guard may find more"
    )


def told_of_guards(attack: Any, artifacts: Sequence[Any], refusals: Refusals) -> tuple[str, ...]:
    """What the reader of an attack's report has to know of the guards among what was attacked."""
    guards, past, told = guards_among(artifacts), getattr(attack, "past_guards", ""), []
    if guards and past:
        told.append(told_past(attack.id, past, guards))
    if refusals.count:
        told.append(f"the guard {guards} refused {refusals.count} prompts; they count as not showing the concept")
    return tuple(told)


def with_refusals(report: EvalReport, suite: Any, artifacts: Sequence[Any], refusals: Refusals) -> EvalReport:
    """The report of a suite with what the guards among ``artifacts`` refused, and what went past them.

    Prompts that a suite lists in ``details["prompts"]`` are counted by set, in a row each: on kept ones a refusal is a
    false alarm. Those of a suite that counts for itself, in rows named so, stay as they are.
    """
    guards, past, told = guards_among(artifacts), getattr(suite, "past_guards", ""), []
    if guards and past:
        told.append(
            f"the {past} of {suite.id} meet the model without the guard {guards}, as whoever holds its weights does; "
            "all else goes through it"
        )
    rows = _refused_rows(report, refusals) if refusals.count else ()
    counted = [row for row in (*report.rows, *rows) if row.metric.endswith(REFUSED)]
    if refusals.count or any(row.value for row in counted):
        sets = ", ".join(f"{_name(row)} {round(row.value * row.n)} of {row.n}" for row in counted)
        told.append(
            f"the guard {guards} refused {sets or f'{refusals.count} prompts'}; what is refused counts as not shown "
            "and not answered, of what is kept as well"
        )
    return replace(report, rows=(*report.rows, *rows), warnings=(*report.warnings, *told))


def _name(row: EvalRow) -> str:
    return row.metric.removesuffix(REFUSED).replace("_", " ")


def _refused_rows(report: EvalReport, refusals: Refusals) -> tuple[EvalRow, ...]:
    """A row for each set of prompts; sets that are called like a state are asked of that state alone."""
    listed = report.details.get("prompts")
    sets = {name: texts for name, texts in listed.items() if name not in STATES} if isinstance(listed, Mapping) else {}
    return tuple(
        refused_row(name, refusals.among(texts), report.seeds[0] if report.seeds else 0)
        for name, texts in sets.items() if texts and all(isinstance(text, str) for text in texts)
    )  # fmt: skip


def refused_row(name: str, refused: Sequence[float], seed: int) -> EvalRow:
    """How much of a set was refused, with its 95 % interval; ``refused`` has a 1 for each that was."""
    from erase_plugins.evaluation.bootstrap import mean_interval

    value, low, high = (round(number, 6) for number in mean_interval(refused, seed))
    return EvalRow(re.sub(r"\W+", "_", name) + REFUSED, "edited", value, low, high, len(refused))
