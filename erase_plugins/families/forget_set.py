"""Forget sets: which rows, classes or concepts of some data are to be forgotten, as a JSON file that can be shared.

`erase_plugins.workflow.worst_case` writes them; ``run --forget FILE`` and ``compare --forget FILE`` read them. A set
names its data by hash, so that it never picks rows of other data. No torch.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from erase_plugins.artifacts.atomic import atomic_file
from erase_plugins.artifacts.places import FILE, check_place
from erase_plugins.data import DataRef
from erase_plugins.errors import RequestError
from erase_plugins.record import Record
from erase_plugins.types import ForgetItem

#: what is selected: rows of the data, classes, or concepts by their name
DATA, CLASS, PROMPT = "data", "class", "prompt"
#: name of the data that lie beside a model
BESIDE = "the pictures beside the model"


@dataclass(frozen=True)
class ForgetSet(Record):
    """What is to be forgotten.

    Attributes:
        wise: "data", "class" or "prompt".
        rows: numbers of the rows, sorted, from 0 (data-wise).
        names: labels of the classes, or concepts.
        data: ``name``, ``sha256`` and ``count`` of the data whose rows are numbered.
        scores: of each row or name: its score after the last round, the smaller the worse forgotten.
        forget_set: how it was found: method, options, model, seed, budget, rounds.
        baselines: name -> rows or names, and what was measured, of trivial selections.
        measured: the same measurement of this set.
    """

    wise: str
    rows: tuple[int, ...] = ()
    names: tuple[str, ...] = ()
    data: Mapping[str, Any] = field(default_factory=dict)
    scores: tuple[float, ...] = ()
    forget_set: Mapping[str, Any] = field(default_factory=dict)
    baselines: Mapping[str, Any] = field(default_factory=dict)
    measured: Mapping[str, float] = field(default_factory=dict)
    extra: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        good = all(isinstance(row, int) and not isinstance(row, bool) and row >= 0 for row in self.rows)
        if self.wise not in (DATA, CLASS, PROMPT) or not good or len(set(self.rows)) != len(self.rows):
            raise RequestError("this is no forget set: rows must be different numbers, wise data, class or prompt")
        if not (self.rows if self.wise == DATA else self.names):
            raise RequestError("the forget set is empty; select at least one row or class")

    def save(self, path: str | Path, force: bool = False) -> Path:
        """Writes the JSON file, atomically.

        Raises:
            ArtifactError: something is in the way.
        """
        place = Path(path)
        check_place(place, force, FILE)
        with atomic_file(place, force) as work:
            work.write_text(json.dumps(self.to_dict(), indent=1) + "\n", encoding="utf-8")
        return place

    def mask(self, count: int, sha256: str, what: str) -> list[int]:
        """The rows, if the data are those that the set was made of.

        Args:
            count, sha256: of the data at hand.
            what: how messages call them.

        Raises:
            RequestError: other data, a row behind their end, or all of them.
        """
        if self.data.get("sha256") not in (None, "", sha256) or self.data.get("count", count) != count:
            raise RequestError(
                f"the forget set was made of other data ({self.data.get('name')}, {self.data.get('count')} rows) than "
                f"{what} ({count} rows); give those, or select anew with worst-case"
            )
        if max(self.rows) >= count or len(self.rows) >= count:
            raise RequestError(
                f"the forget set has {len(self.rows)} rows up to number {max(self.rows)}, and {what} {count}; "
                "something must be left to retain"
            )
        return list(self.rows)


def is_set(data: Any) -> bool:
    """Whether data are a forget set."""
    return isinstance(data, DataRef) and data.uri.lower().endswith(".json")


def read_set(data: DataRef | str | Path) -> ForgetSet:
    """The forget set in a file.

    Raises:
        RequestError: missing, no JSON, or no forget set.
    """
    ref = data if isinstance(data, DataRef) else DataRef(str(data))
    (found,) = ref.rows()
    if "wise" not in found:
        raise RequestError(f"'{ref.name}' is no forget set; worst-case writes some")
    return ForgetSet.from_dict(found)


def items_of(data: DataRef) -> list[ForgetItem]:
    """What a request forgets for a forget set: its rows as one item, or an item for each of its classes or concepts.

    Raises:
        RequestError: as for `read_set`.
    """
    found = read_set(data)
    if found.wise == DATA:
        return [ForgetItem(kind="samples", data=data)]
    if found.wise == CLASS:
        return [ForgetItem(label=name, kind="class") for name in found.names]
    return [ForgetItem(name, str(found.forget_set.get("kind", "object"))) for name in found.names]


def file_hash(path: Path) -> str:
    """SHA-256 of the pictures beside a model."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
