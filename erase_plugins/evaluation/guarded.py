"""Guards among attacked artifacts: which attacks they leave no sense in, what they refuse, what is told. No torch."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from erase_plugins.artifacts.policy import policies
from erase_plugins.errors import Unsupported

#: every value of the picture that stands for a refused prompt; a picture in 8 bits never has it
BLANK = 0.5


def guards_among(artifacts: Sequence[Any]) -> str:
    """The artifacts that guard while the model runs, by name; empty if there are none."""
    return " and ".join(f"'{item.name}'" for item in artifacts if policies(item.manifest))


def check_guards(attack: Any, artifacts: Sequence[Any]) -> None:
    """Refuses an attack on edited weights (``needs_weights = True``) where guards are all there is.

    Raises:
        Unsupported: says what to attack with instead.
    """
    guards = guards_among(artifacts)
    if guards and getattr(attack, "needs_weights", False) and not any(len(item.edit) for item in artifacts):
        raise Unsupported(
            f"attack {attack.id} attacks edited weights, and the guard {guards} edits none: whoever holds the model "
            "leaves it off; attack it by prompts (paraphrase, ring-a-bell)"
        )


@dataclass(frozen=True)
class Refusals:
    """Prompts, with their seeds, that guards refused in one run; kept in a file, so that a kill forgets none."""

    place: Path

    def note(self, text: str, seed: int) -> None:
        """One more; drawn again after a kill, it counts once."""
        with self.place.open("a", encoding="utf-8") as file:
            file.write(json.dumps([text, seed]) + "\n")

    @property
    def count(self) -> int:
        """How many."""
        return len(set(self.place.read_text(encoding="utf-8").splitlines())) if self.place.is_file() else 0


@contextmanager
def noted(subject: Any, place: Path) -> Iterator[Refusals]:
    """Inside, a prompt that a guard refuses ends nothing: it is noted, and shows nothing."""
    found = Refusals(place)
    subject.note_refused = found.note
    try:
        yield found
    finally:
        subject.note_refused = None


def told_of_guards(attack: Any, artifacts: Sequence[Any], refusals: Refusals) -> tuple[str, ...]:
    """What the reader of a report has to know of the guards among what was attacked."""
    guards, past, told = guards_among(artifacts), getattr(attack, "past_guards", ""), []
    if guards and past:
        told.append(
            f"the {past} of {attack.id} meet the model without the guard {guards}, through which its pictures are "
            "drawn: an attack that knows the guard may find more"
        )
    if refusals.count:
        told.append(f"the guard {guards} refused {refusals.count} prompts; they count as not showing the concept")
    return tuple(told)
