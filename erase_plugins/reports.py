"""Records of what was measured: rows, files that belong to a report, evaluations and attacks."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from erase_plugins.errors import RequestError
from erase_plugins.record import Record


@dataclass(frozen=True)
class EvalRow(Record):
    """One measured number: share or score in ``value``, 95 % interval ``low``..``high``, ``n`` samples.

    ``note`` is what has to be said wherever the number is shown.
    """

    metric: str
    subject: str
    value: float
    low: float
    high: float
    n: int
    note: str = field(default="", metadata={"sparse": True})


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
    ``attached`` (file name to title and SHA-256), and names what could not be written in ``unwritten`` (file name to
    why). ``weights`` tells what was measured (`artifacts.lineage.marks`).
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
    weights: tuple[str, ...] = field(default=(), metadata={"sparse": True})
    unwritten: Mapping[str, str] = field(default_factory=dict, metadata={"sparse": True})
    extra: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def _revive(cls, known: dict[str, Any]) -> dict[str, Any]:
        return _shared(super()._revive(known))

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
        files, attached, attachments, weights, unwritten: as for `EvalReport`.
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
    weights: tuple[str, ...] = field(default=(), metadata={"sparse": True})
    unwritten: Mapping[str, str] = field(default_factory=dict, metadata={"sparse": True})
    extra: Mapping[str, Any] = field(default_factory=dict)

    @property
    def excess(self) -> float:
        """Success beyond the control."""
        return self.success.value - self.control.value

    @classmethod
    def _revive(cls, known: dict[str, Any]) -> dict[str, Any]:
        known = _shared(super()._revive(known))
        for name in ("success", "control"):
            if name in known:
                known[name] = _row(known[name])
        return known


def _shared(known: dict[str, Any]) -> dict[str, Any]:
    """Fields of both kinds of reports as they are in memory."""
    known["rows"] = tuple(map(_row, known.get("rows", ())))
    if isinstance(known.get("unwritten"), tuple):  # earlier versions stored names only
        known["unwritten"] = dict.fromkeys(map(str, known["unwritten"]), "the reason was not kept")
    return known


def _row(item: Any) -> EvalRow:
    return item if isinstance(item, EvalRow) else EvalRow.from_dict(item)
