"""Plain data that travels between the rooms: what is asked, planned and handed back. No torch; JSON-ready.

Every record has ``to_dict`` and ``from_dict`` with a ``schema`` number; unknown fields survive a round trip in
``extra``, an unknown newer schema is an error. Reports of measurements are in `erase_plugins.reports`.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from erase_plugins.data import DataRef
from erase_plugins.errors import PluginError, RequestError
from erase_plugins.record import Record
from erase_plugins.reports import Attachment, AttackReport, EvalReport, EvalRow

__all__ = [
    "BUDGETS", "KINDS", "Attachment", "AttackReport", "Certificate", "Concept", "DataRef", "EditPlan", "EraseRequest",
    "EvalReport", "EvalRow", "Event", "ForgetItem", "PluginProblem", "Record", "Registered", "RunResult",
]  # fmt: skip

#: kinds of concepts that are named by a text; a method may declare others of its own
KINDS = ("object", "style", "person", "explicit", "fact", "class")
#: names of the budgets that every attack has
BUDGETS = ("quick", "standard", "long")
_KIND = re.compile(r"[a-z][a-z0-9_-]{0,39}")


@dataclass(frozen=True)
class ForgetItem(Record):
    """One thing to forget: a concept by its name, a class by its label, or data.

    Attributes:
        text: the name, as it appears in prompts; empty where a label or data say everything.
        kind: what it is, an open word that chooses defaults: object, style, person, explicit (pictures); class, samples
            (classifiers); fact, dataset, behaviour (language); record (training records); or what a method declares.
        prompts: extra phrasings that the user wants covered.
        images: picture files (methods that learn from pictures).
        anchor: what it becomes; None lets the method decide.
        label: the class, by number or name.
        data: examples of it.

    Raises:
        RequestError: it names nothing, or a field is of the wrong form.
    """

    text: str = ""
    kind: str = "object"
    prompts: tuple[str, ...] = ()
    images: tuple[str, ...] = ()
    anchor: str | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)
    label: int | str | None = field(default=None, metadata={"sparse": True})
    data: DataRef | None = field(default=None, metadata={"sparse": True})

    def __post_init__(self) -> None:
        nothing = self.label is None and self.data is None
        if not isinstance(self.text, str) or (nothing and not self.text.strip()):
            raise RequestError("a concept to erase is empty; give it a name, for example --erase pizza")
        if not isinstance(self.kind, str) or not _KIND.fullmatch(self.kind):
            raise RequestError(
                f"unusable kind {self.kind!r}; give a short lower-case word such as {', '.join(KINDS)} or record"
            )
        if self.label is not None and self.kind in KINDS[:4]:
            raise RequestError(f"label {self.label!r} belongs to a class, not to kind {self.kind}; say kind='class'")
        if isinstance(self.label, bool) or not isinstance(self.label, int | str | None) or self.label == "":
            raise RequestError(f"label {self.label!r} is neither a number nor a name of a class")
        if not isinstance(self.data, DataRef | None):
            raise RequestError(f"data is {type(self.data).__name__}; give a DataRef, for example DataRef('folder')")

    @property
    def name(self) -> str:
        """How messages call it: its text, else its label, else its data."""
        if self.text.strip():
            return self.text
        return str(self.label) if self.label is not None else self.data.name if self.data is not None else ""

    @classmethod
    def _revive(cls, known: dict[str, Any]) -> dict[str, Any]:
        known = super()._revive(known)
        if isinstance(known.get("data"), Mapping):
            known["data"] = DataRef.from_dict(known["data"])
        return known


#: the first name of `ForgetItem`; both are the same class
Concept = ForgetItem


@dataclass(frozen=True, init=False)
class EraseRequest(Record):
    """What the user asked for: model, what to forget, what to retain, method, options.

    Attributes:
        model: name, path or Hub id.
        forget: what to forget, at least one thing.
        method: id of a registered method.
        options: options of the method as they were given.
        retain: what must stay as it is: prompts, and data for methods that read data.
        revision, family, device, dtype: how to load the model.
        seed: seed of everything random.
        out: artifact folder.

    Raises:
        RequestError: nothing to forget, something twice, or forgotten and retained at once.

    ``concepts`` and ``preserve`` are the first names of ``forget`` and of the prompts in ``retain``. They are read in
    files of schema 1, may be read here, and are accepted as arguments; there they win over the new name, because
    `dataclasses.replace` gives both. ``preserve`` as an argument leaves the data in ``retain`` alone.
    """

    schema: ClassVar[int] = 2

    model: str
    forget: tuple[ForgetItem, ...]
    method: str
    options: Mapping[str, Any] = field(default_factory=dict)
    retain: tuple[str | DataRef, ...] = ()
    revision: str | None = None
    family: str | None = None
    seed: int = 0
    device: str = "cpu"
    dtype: str = "float32"
    out: str | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)

    def __init__(
        self,
        model: str,
        forget: tuple[ForgetItem, ...] = (),
        method: str = "",
        options: Mapping[str, Any] | None = None,
        retain: tuple[str | DataRef, ...] = (),
        revision: str | None = None,
        family: str | None = None,
        seed: int = 0,
        device: str = "cpu",
        dtype: str = "float32",
        out: str | None = None,
        extra: Mapping[str, Any] | None = None,
        *,
        concepts: tuple[ForgetItem, ...] | None = None,
        preserve: tuple[str, ...] | None = None,
    ) -> None:
        if preserve is not None:
            retain = (*preserve, *(item for item in retain if isinstance(item, DataRef)))
        values = {
            "model": model, "forget": tuple(forget if concepts is None else concepts), "method": method,
            "options": {} if options is None else options, "retain": tuple(retain), "revision": revision,
            "family": family, "seed": seed, "device": device, "dtype": dtype, "out": out,
            "extra": {} if extra is None else extra,
        }  # fmt: skip
        for name, value in values.items():
            object.__setattr__(self, name, value)
        self._check()

    def _check(self) -> None:
        if not self.method:
            raise RequestError("EraseRequest is incomplete: no method was named")
        if not self.forget:
            raise RequestError("nothing to erase was named; add at least one --erase TEXT")
        if any("\0" in text for item in self.forget for text in (item.text, item.anchor or "", *item.prompts)):
            raise RequestError("a concept holds a NUL character; write it without")
        names = [item.name.strip().lower() for item in self.forget]
        twice = sorted({text for text in names if names.count(text) > 1})
        if twice:
            raise RequestError(f"named twice in the erase list: {', '.join(twice)}; name each concept once")
        both = sorted(set(names) & {text.strip().lower() for text in self.preserve})
        data = {item.data.place for item in self.forget if item.data is not None}
        both += [item.name for item in self.retain_data if item.place in data]
        if both:
            raise RequestError(f"both erased and kept: {', '.join(both)}; take it out of one list")

    @property
    def concepts(self) -> tuple[ForgetItem, ...]:
        """First name of ``forget``."""
        return self.forget

    @property
    def preserve(self) -> tuple[str, ...]:
        """The prompts in ``retain``."""
        return tuple(item for item in self.retain if isinstance(item, str))

    @property
    def retain_data(self) -> tuple[DataRef, ...]:
        """The data in ``retain``."""
        return tuple(item for item in self.retain if isinstance(item, DataRef))

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> EraseRequest:
        """Request from a dictionary of schema 1 or 2; see `Record.from_dict`."""
        first = {"concepts": "forget", "preserve": "retain"}
        return super().from_dict({(name if first.get(name) in data else first.get(name, name)): value
                                  for name, value in data.items()})  # fmt: skip

    @classmethod
    def _revive(cls, known: dict[str, Any]) -> dict[str, Any]:
        known = super()._revive(known)
        known["forget"] = tuple(
            item if isinstance(item, ForgetItem) else ForgetItem.from_dict(item) for item in known.get("forget", ())
        )
        known["retain"] = tuple(
            DataRef.from_dict(item) if isinstance(item, Mapping) else item for item in known.get("retain", ())
        )
        return known


@dataclass(frozen=True)
class EditPlan(Record):
    """What a run will do, before any weight is touched: modules, steps and estimates (seconds, bytes)."""

    request: EraseRequest
    options: Mapping[str, Any] = field(default_factory=dict)
    modules: tuple[str, ...] = ()
    steps: int = 0
    seconds: float | None = None
    memory_bytes: int | None = None
    file_bytes: int | None = None
    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    extra: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def _revive(cls, known: dict[str, Any]) -> dict[str, Any]:
        known = super()._revive(known)
        if isinstance(known.get("request"), Mapping):
            known["request"] = EraseRequest.from_dict(known["request"])
        return known


@dataclass(frozen=True)
class Event(Record):
    """Progress of a run: ``kind`` is start, step, checkpoint, note or end; ``numbers`` are losses and the like."""

    kind: str
    method: str
    done: int = 0
    total: int = 0
    message: str = ""
    numbers: Mapping[str, float] = field(default_factory=dict)


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


@dataclass(frozen=True)
class PluginProblem(Record):
    """Why a plugin, or one of its hooks, is not in use."""

    plugin: str
    package: str
    version: str
    stage: str
    message: str


@dataclass(frozen=True)
class Registered:
    """A registered object together with where it came from."""

    item: Any
    plugin: str
    package: str
    version: str
    file: str
