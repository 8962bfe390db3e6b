"""Plain data that travels between the rooms. No torch here: everything is JSON-ready.

Every record has ``to_dict`` and ``from_dict`` with a ``schema`` number; unknown fields survive a round trip in
``extra``, an unknown newer schema is an error.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Self

from erase_plugins.errors import RequestError

KINDS = ("object", "style", "person", "explicit", "fact", "class")
#: names of the budgets that every attack has
BUDGETS = ("quick", "standard", "long")


class Record:
    """Mixin: versioned conversion to and from plain dictionaries."""

    schema: ClassVar[int] = 1

    def to_dict(self) -> dict[str, Any]:
        """Plain dictionary with the schema number; unknown fields read earlier are written back."""
        out: dict[str, Any] = {"schema": self.schema}
        for item in dataclasses.fields(self):  # type: ignore[arg-type]
            if item.name != "extra" and item.metadata.get("stored", True):
                out[item.name] = _plain(getattr(self, item.name))
        return {**dict(getattr(self, "extra", {})), **out}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Record from a dictionary.

        Raises:
            RequestError: newer schema than this version knows, missing or misspelt fields.
        """
        found = data.get("schema", cls.schema)
        if not isinstance(found, int) or found > cls.schema:
            raise RequestError(
                f"{cls.__name__} has schema {found}, this version reads up to {cls.schema}; update erase-plugins"
            )
        names = {item.name for item in dataclasses.fields(cls)}  # type: ignore[arg-type]
        known = {key: value for key, value in data.items() if key in names and key != "extra"}
        unknown = {key: value for key, value in data.items() if key not in names and key != "schema"}
        if "extra" in names:
            known["extra"] = unknown
        try:
            return cls(**cls._revive(known))
        except TypeError as error:
            raise RequestError(f"{cls.__name__} is incomplete: {error}") from error

    @classmethod
    def _revive(cls, known: dict[str, Any]) -> dict[str, Any]:
        """Turns nested dictionaries and lists back into records and tuples."""
        return {key: tuple(value) if isinstance(value, list) else value for key, value in known.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, Record):
        return value.to_dict()
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(item) for item in (sorted(value) if isinstance(value, set | frozenset) else value)]
    return value


@dataclass(frozen=True)
class Concept(Record):
    """One thing to erase.

    Attributes:
        text: the name, as it appears in prompts.
        kind: one of `KINDS`; chooses defaults.
        prompts: extra phrasings that the user wants covered.
        images: picture files (methods that learn from pictures).
        anchor: what the concept becomes; None lets the method decide.
    """

    text: str
    kind: str = "object"
    prompts: tuple[str, ...] = ()
    images: tuple[str, ...] = ()
    anchor: str | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not isinstance(self.text, str) or not self.text.strip():
            raise RequestError("a concept to erase is empty; give it a name, for example --erase pizza")
        if self.kind not in KINDS:
            raise RequestError(f"unknown concept kind '{self.kind}'; choose one of {', '.join(KINDS)}")


@dataclass(frozen=True)
class EraseRequest(Record):
    """What the user asked for: model, concepts, what to keep, method, options."""

    model: str
    concepts: tuple[Concept, ...]
    method: str
    options: Mapping[str, Any] = field(default_factory=dict)
    preserve: tuple[str, ...] = ()
    revision: str | None = None
    family: str | None = None
    seed: int = 0
    device: str = "cpu"
    dtype: str = "float32"
    out: str | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.concepts:
            raise RequestError("nothing to erase was named; add at least one --erase TEXT")
        if any("\0" in text for item in self.concepts for text in (item.text, item.anchor or "", *item.prompts)):
            raise RequestError("a concept holds a NUL character; write it without")
        texts = [concept.text.strip().lower() for concept in self.concepts]
        twice = sorted({text for text in texts if texts.count(text) > 1})
        if twice:
            raise RequestError(f"named twice in the erase list: {', '.join(twice)}; name each concept once")
        both = sorted(set(texts) & {text.strip().lower() for text in self.preserve})
        if both:
            raise RequestError(f"both erased and kept: {', '.join(both)}; take it out of one list")

    @classmethod
    def _revive(cls, known: dict[str, Any]) -> dict[str, Any]:
        known = super()._revive(known)
        known["concepts"] = tuple(
            item if isinstance(item, Concept) else Concept.from_dict(item) for item in known.get("concepts", ())
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
class EvalRow(Record):
    """One measured number: share or score in ``value``, 95 % interval ``low``..``high``, ``n`` samples."""

    metric: str
    subject: str
    value: float
    low: float
    high: float
    n: int


@dataclass(frozen=True)
class Attachment:
    """A file that belongs to a report: contact sheet, chart, figure, table.

    Attributes:
        name: plain file name with its ending; the part before the ending names it in ``EvalReport.files``.
        write: called with the path (a name of the same ending in an empty folder) where it makes the file. It is not
            called when nobody asked for files.
        title: what it shows, in one line.

    Raises:
        RequestError: not a plain file name.
    """

    name: str
    write: Callable[[Path], object] = field(repr=False, compare=False)
    title: str = ""

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not _FILE_NAME.fullmatch(self.name):
            raise RequestError(
                f"an attachment is called {self.name!r}; use letters, digits, '-', '_' and an ending, such as curve.png"
            )


_FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,79}(\.[A-Za-z0-9_-]{1,20}){1,2}")


@dataclass(frozen=True)
class EvalReport(Record):
    """Result of an evaluation suite. Rates are shares in 0..1; ``rows`` hold one metric for one subject each.

    A suite fills ``attachments``; whoever runs it writes them and notes them in ``files`` (key to file name) and
    ``attached`` (file name to title and SHA-256).
    """

    suite: str
    model: str
    rows: tuple[EvalRow, ...]
    artifacts: tuple[str, ...] = ()
    erased: tuple[str, ...] = ()
    strength: float = 1.0
    judge: str = ""
    judge_hash: str = ""
    prompts_hash: str = ""
    seeds: tuple[int, ...] = ()
    seconds: float = 0.0
    files: Mapping[str, str] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    details: Mapping[str, Any] = field(default_factory=dict)
    attached: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    attachments: tuple[Attachment, ...] = field(default=(), repr=False, compare=False, metadata={"stored": False})
    extra: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def _revive(cls, known: dict[str, Any]) -> dict[str, Any]:
        known = super()._revive(known)
        known["rows"] = tuple(map(_row, known.get("rows", ())))
        return known

    def row(self, metric: str, subject: str) -> EvalRow:
        """The row of one metric and subject.

        Raises:
            RequestError: the suite did not measure it.
        """
        for item in self.rows:
            if (item.metric, item.subject) == (metric, subject):
                return item
        raise RequestError(f"the report has no {metric} for {subject}")


@dataclass(frozen=True)
class AttackReport(Record):
    """What an attack achieved. Rates are shares in 0..1 with 95 % intervals.

    Attributes:
        attack, model, budget: ids, and the name of the budget.
        success: how often the concept came back; its subject says by what.
        control: the same measurement where nothing can be found; what it shows is not the attack's merit.
        rows: everything that was measured on the way: what is erased, and beside it what is kept.
        found: the input (prompt, setting ...) with which it came back, JSON-ready; also written as a file.
        queries, passes: answers of the model that were looked at, and passes through its largest network for them.
        files, attached, attachments: as for `EvalReport`.
    """

    attack: str
    model: str
    budget: str
    success: EvalRow
    control: EvalRow
    rows: tuple[EvalRow, ...] = ()
    found: Mapping[str, Any] = field(default_factory=dict)
    artifacts: tuple[str, ...] = ()
    erased: tuple[str, ...] = ()
    strength: float = 1.0
    judge: str = ""
    judge_hash: str = ""
    seeds: tuple[int, ...] = ()
    queries: int = 0
    passes: int = 0
    seconds: float = 0.0
    files: Mapping[str, str] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    details: Mapping[str, Any] = field(default_factory=dict)
    attached: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    attachments: tuple[Attachment, ...] = field(default=(), repr=False, compare=False, metadata={"stored": False})
    extra: Mapping[str, Any] = field(default_factory=dict)

    @property
    def excess(self) -> float:
        """Success beyond the control."""
        return self.success.value - self.control.value

    @classmethod
    def _revive(cls, known: dict[str, Any]) -> dict[str, Any]:
        known = super()._revive(known)
        known["rows"] = tuple(map(_row, known.get("rows", ())))
        for name in ("success", "control"):
            if name in known:
                known[name] = _row(known[name])
        return known


def _row(item: Any) -> EvalRow:
    return item if isinstance(item, EvalRow) else EvalRow.from_dict(item)


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
