"""What a method hands back: an edit, a certificate of what is proven about it, guards and evidence."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from erase_plugins.errors import PluginError
from erase_plugins.record import Record


@dataclass(frozen=True)
class Certificate(Record):
    """What a mechanism proves about a result, under which assumptions, and whether it may be shown as proven.

    Attributes:
        mechanism: id of the mechanism, such as "noisy-gd".
        epsilon, delta: bound on what the later models tell about what was deleted, as (epsilon, delta)
            indistinguishability from a model that never saw it; None where the mechanism states no such pair.
        accountant: name and version of the rule that computed the numbers, so that others can compute them again.
        data_hash: SHA-256 of the data (`DataRef.sha256`), or "" where a hash would tell who is in it.
        certified: whether every assumption held. If not, ``reasons`` says what did not.
        numbers: (name, value) pairs in the order in which they are shown, the bound that counts first.
        assumptions: each in one sentence.
        scope: which weights it speaks about, and about nothing else.
        subjects: ids of the deleted records; random ids, never a hash of their content.
        ledger_hash: SHA-256 of the last line of the ledger from which the numbers follow, or "".
        reasons: why it is not certified.

    Raises:
        PluginError: certified without a number, an accountant or a scope, or with reasons against it; not certified
            without a reason; numbers that are not finite, epsilon below 0, delta outside 0..1.
    """

    mechanism: str
    epsilon: float | None
    delta: float | None
    accountant: str
    data_hash: str
    certified: bool
    numbers: tuple[tuple[str, float], ...] = ()
    assumptions: tuple[str, ...] = ()
    scope: str = ""
    subjects: tuple[str, ...] = ()
    ledger_hash: str = ""
    reasons: tuple[str, ...] = ()
    extra: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        problem = self._problem()
        if problem:
            raise PluginError(f"the certificate of {str(self.mechanism)[:60]!r} {problem}")

    def _problem(self) -> str:
        """What is wrong with it; "" if nothing is."""
        texts = (self.mechanism, self.accountant, self.data_hash, self.scope, self.ledger_hash)
        lists = (*self.assumptions, *self.subjects, *self.reasons)
        if not self.mechanism or not all(isinstance(text, str) for text in (*texts, *lists)):
            return "holds something else where a text belongs"
        if type(self.certified) is not bool:
            return "does not say true or false in 'certified'"
        stated = [(name, value) for name in ("epsilon", "delta") if (value := getattr(self, name)) is not None]
        pairs = (*self.numbers, *stated)
        if not all(len(pair) == 2 and isinstance(pair[0], str) and _finite(pair[1]) for pair in pairs):
            return "holds a number that is not finite"
        if (self.epsilon or 0.0) < 0 or not 0 <= (self.delta or 0.0) < 1:
            return "needs epsilon >= 0 and 0 <= delta < 1"
        if self.epsilon is not None and self.delta is None:
            return "states epsilon without its delta"
        if not self.certified:
            return "" if self.reasons else "is not certified and gives no reason"
        if self.reasons:
            return f"says certified, and against it: {'; '.join(self.reasons)}"
        missing = [name for name in ("accountant", "scope") if not getattr(self, name)]
        missing += [] if self.numbers or self.epsilon is not None else ["a number"]
        return f"says certified without {', '.join(missing)}" if missing else ""

    @property
    def headline(self) -> str:
        """One line: the first number, epsilon at its delta, the accountant; or why it is not certified."""
        if not self.certified:
            return f"{self.mechanism}: not certified ({'; '.join(self.reasons)})"
        shown = [f"{name} {value:.6g}" for name, value in self.numbers[:1]]
        shown += [f"epsilon {self.epsilon:.6g} at delta {self.delta:.6g}"] if self.epsilon is not None else []
        return f"{self.mechanism}: {', '.join(shown)} (accountant {self.accountant}; {self.scope})"

    @classmethod
    def _revive(cls, known: dict[str, Any]) -> dict[str, Any]:
        known = super()._revive(known)
        known["numbers"] = tuple(tuple(pair) for pair in known.get("numbers", ()))
        return known


def _finite(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


@dataclass(frozen=True)
class RunResult:
    """What a method hands back; a bare `Edit` means that there is nothing else.

    Attributes:
        edit: the change of the weights, an `Edit`; None where nothing is changed.
        certificate: what is proven about it.
        guards: descriptions of what has to stand before or behind the model, JSON-ready.
        records: lines of evidence of the run, JSON-ready, without personal text.
    """

    edit: Any  # an Edit of a room above, or None
    certificate: Certificate | None = None
    guards: tuple[Mapping[str, Any], ...] = ()
    records: tuple[Mapping[str, Any], ...] = ()
