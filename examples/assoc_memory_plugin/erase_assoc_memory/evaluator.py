"""The suite ``guard_recall``: names in prompts, with typing errors too, false alarms, and cosine search beside it."""

from __future__ import annotations

import string
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from erase_assoc_memory.coding import GramEncoder, Rows
from erase_assoc_memory.guard import Guard
from erase_plugins.options import option
from erase_plugins.types import EvalReport, EvalRow

#: names to recognise where the user gives none
CONCEPTS = (
    "van gogh, monet, picasso, rembrandt, banksy, hokusai, salvador dali, frida kahlo, mickey mouse, darth vader, "
    "pikachu, batman, superman, harry potter, shrek, homer simpson, super mario, yoda, coca cola, starbucks, ferrari, "
    "lego, pizza, hamburger, tractor, giraffe, parachute, golf ball, garbage truck, cassette player"
)
NAMED = (
    "a castle in the style of {} at dusk",
    "a photo of {} in the rain",
    "two dogs and {} on a table",
    "{} at night",
)
_PLAIN = ("a photo of a {} {} near a {}", "a {} {} with two {}s in the rain", "{} and {} on a {}, oil on canvas")
_TEXT = """
table chair river mountain woman man child dog cat horse bird tree forest house street city night
morning shadow painting photo drawing sketch portrait landscape red blue green yellow old new small
large quiet stormy winter summer garden window door bridge boat train bicycle coffee bread apple
flower rose cloud rain snow sun moon star stone wood glass paper metal king queen soldier farmer
teacher doctor artist musician
"""
_WORDS = _TEXT.split()


@dataclass(frozen=True)
class Options:
    """Settings of the suite."""

    concepts: str = option(CONCEPTS, "Names to store, with commas.")
    ordinary: int = option(5000, "Ordinary prompts for false alarms.", low=100, high=1_000_000)
    clusters: int = option(32, "Symbols of a code.", low=4, high=128)
    letters: int = option(32, "Letters of the alphabet.", low=2, high=128)
    rate: float = option(0.01, "False alarms that the threshold allows.", low=0.0001, high=0.5)


class GuardRecall:
    """How well the guard recognises, on text alone."""

    id = "guard_recall"
    title = "Prompt guard: recognised names and false alarms, beside cosine search (no model)"
    needs: frozenset[str] = frozenset()
    needs_subject = False
    Options = Options

    def run(self, subject: Any, ctx: Any) -> EvalReport:
        """Sets both thresholds on one half of the ordinary prompts and reads rates off the other."""
        settings, rng, encoder = ctx.options, np.random.default_rng(ctx.seed), GramEncoder()
        names = [name.strip() for name in settings["concepts"].split(",") if name.strip()]
        guard = Guard.new(encoder, settings["clusters"], settings["letters"], ctx.seed)
        for name in names:
            guard.add(encoder, name)
        prompts = [str(rng.choice(_PLAIN)).format(*rng.choice(_WORDS, 3)) for _ in range(settings["ordinary"])]
        half = len(prompts) // 2
        guard.calibrate(encoder, prompts[:half], settings["rate"])
        cosine = _Cosine(guard, encoder, names)
        cosine.calibrate(prompts[:half], settings["rate"])
        ctx.progress("prompts", 1, 5)
        rows = []
        false = [item.flagged for item in guard.check(encoder, prompts[half:])]
        rows += [
            _row("false_alarm_rate", "guard", false),
            _row("false_alarm_rate", "cosine", cosine.check(prompts[half:])),
        ]
        for errors in range(4):
            asked = [(name, form.format(_misspelt(name, errors, rng))) for name in names for form in NAMED]
            found = guard.check(encoder, [prompt for _, prompt in asked])
            right = [item.label == name for item, (name, _) in zip(found, asked, strict=True)]
            metric = f"recall_{errors}_errors_rate"
            rows += [_row(metric, "guard", right), _row(metric, "cosine", cosine.check([text for _, text in asked]))]
            ctx.progress("prompts", errors + 2, 5)
        return EvalReport(
            suite=self.id, model="text", rows=tuple(rows), erased=tuple(names), seeds=(ctx.seed,),
            details={"guard": {"tau": guard.tau, "density": guard.memory.density, "cosine": cosine.least}},
            warnings=("cosine search is simpler; the memory is for fixed size, noisy examples and exact forgetting",),
        )  # fmt: skip


class _Cosine:
    """The plain baseline: the closest stored name by cosine of the same centred rows."""

    def __init__(self, guard: Guard, encoder: GramEncoder, names: Sequence[str]) -> None:
        self.guard, self.encoder, self.least = guard, encoder, 1.0
        self.stored: Rows = guard.coder.centred(np.concatenate([encoder.concept(name) for name in names]))

    def scores(self, prompts: Sequence[str]) -> list[float]:
        known: dict[bytes, float] = {}
        groups = [[row.tobytes() for row in self.encoder.rows(prompt)] for prompt in prompts]
        new = list(dict.fromkeys(row for group in groups for row in group))
        rows = np.stack([np.frombuffer(row, np.float32) for row in new])
        known.update(zip(new, (self.guard.coder.centred(rows) @ self.stored.T).max(1).tolist(), strict=True))
        return [max((known[row] for row in group), default=0.0) for group in groups]

    def calibrate(self, prompts: Sequence[str], rate: float) -> None:
        """Lowest threshold with at most a share ``rate`` of alarms."""
        self.least = float(np.sort(self.scores(prompts))[-1 - int(rate * len(prompts))]) + 1e-6

    def check(self, prompts: Sequence[str]) -> list[bool]:
        return [score >= self.least for score in self.scores(prompts)]


def _misspelt(name: str, errors: int, rng: np.random.Generator) -> str:
    letters = list(name)
    for place in rng.choice(len(letters), min(errors, len(letters)), replace=False):
        letters[place] = str(rng.choice(list(string.ascii_lowercase)))
    return "".join(letters)


def _row(metric: str, subject: str, hits: Sequence[bool]) -> EvalRow:
    """A share with its Wilson interval."""
    count, z = len(hits), 1.959963984540054
    share = float(np.mean(hits))
    middle = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z * np.sqrt(share * (1 - share) / count + z * z / (4 * count**2)) / (1 + z * z / count)
    return EvalRow(metric, subject, share, float(max(middle - half, 0)), float(min(middle + half, 1)), count)
