"""Plain data that travels between the rooms: what is asked and planned. No torch; JSON-ready.

Every record has ``to_dict`` and ``from_dict`` with a ``schema`` number; unknown fields survive a round trip in
``extra``, an unknown newer schema is an error. What runs and measurements hand back is
defined in `erase_plugins.results` and `erase_plugins.reports`, and importable from here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from erase_plugins.data import DataRef
from erase_plugins.errors import RequestError
from erase_plugins.given import fitting
from erase_plugins.hints import Hint
from erase_plugins.record import Record
from erase_plugins.reports import Attachment, AttackReport, EvalReport, EvalRow
from erase_plugins.results import Certificate, RunResult

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
        for name in ("prompts", "images"):
            object.__setattr__(self, name, tuple(fitting(ForgetItem, name, getattr(self, name))))
        fitting(ForgetItem, "anchor", self.anchor)
        nothing = self.label is None and self.data is None
        if not isinstance(self.text, str) or (nothing and not self.text.strip()):
            raise RequestError(
                "a concept to erase is empty; give it a name, ", Hint("erase", "pizza", before="for example")
            )
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
        revision, family, device, dtype: how to load the model; a plan puts a precision in the place of "auto".
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
        forget = fitting(EraseRequest, "forget", forget if concepts is None else concepts)
        retain = fitting(EraseRequest, "retain", retain)
        values = {
            "model": model, "forget": tuple(forget), "method": method,
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
            raise RequestError("nothing to erase was named; ", Hint("erase", "TEXT", before="add at least one"))
        if any("\0" in text for item in self.forget for text in (item.text, item.anchor or "", *item.prompts)):
            raise RequestError("a concept holds a NUL character; write it without")
        for text in (part for item in self.forget for part in (item.text, item.anchor or "")):
            if len(lines := text.splitlines()) > 1:
                raise RequestError(
                    f"'{' / '.join(lines)[:80]}' has several lines; name each concept by itself, with ", Hint("erase")
                )
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

    @property
    def data(self) -> tuple[DataRef, ...]:
        """All data, first of ``forget``."""
        return (*(item.data for item in self.forget if item.data is not None), *self.retain_data)

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


#: in `EditPlan.produces` and in what a layout carries: added modules in whose place LoRA files hold low-rank changes
STAND_IN = "stand-in"


@dataclass(frozen=True)
class EditPlan(Record):
    """What a run will do, before any weight is touched: modules, steps and estimates (seconds, bytes).

    ``memory_bytes`` is what the run takes besides the model's weights, ``file_bytes`` the largest file.
    ``produces`` names the delta kinds that the edit will hold for certain, `STAND_IN` for added modules that come with
    a linear stand-in; empty where that is not known before the run. A file layout that does not hold them is refused
    then.
    """

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
    produces: tuple[str, ...] = ()

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
