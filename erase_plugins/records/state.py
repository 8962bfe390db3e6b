"""The private side of a head: present weights, the rows of the records that are there, and who they are. One file.

Nothing else is kept: no optimiser state, average, gradient or random state, which would remember what was deleted.
"""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from erase_plugins.artifacts.atomic import atomic_file
from erase_plugins.artifacts.chain import canonical
from erase_plugins.artifacts.marks import make_key, mark, read_key
from erase_plugins.errors import CorruptArtifact, RequestError
from erase_plugins.records.events import is_id
from erase_plugins.records.weights import array_sha256, read_arrays, write_arrays

STATE, KEY = "state.safetensors", "subjects.key"
#: mark of a record whose person was not told
NOBODY = bytes(32)
#: all that may be in the file; whatever else was kept could remember what was deleted
_TENSORS = {"weight", "rows", "labels", "ids", "subjects", "fixed", "start", "offset"}


@dataclass(frozen=True, eq=False)
class State:
    """What a head knows now.

    Attributes:
        weights: (outputs, dim or rank) float64.
        rows: (records, dim or rank) float64, after the rule and the fixed factor.
        labels: (records,) float64.
        ids: names of the records.
        subjects: HMAC-SHA256 of the person of each record; zeros where none was given.
        fixed: (rank, dim) first factor, drawn before the data; None for a full head.
        start: (outputs, dim) frozen head below a low-rank one; None without.
        offset: (outputs, records) logits of that head.
        pending: the ledger's last lines, in case they are not there yet.
    """

    weights: Any
    rows: Any
    labels: Any
    ids: tuple[str, ...]
    subjects: tuple[bytes, ...]
    fixed: Any = None
    start: Any = None
    offset: Any = None
    pending: tuple[dict[str, Any], ...] = ()

    def without(self, ids: Sequence[str]) -> State:
        """The state with these records gone from every array."""
        import numpy as np

        gone = set(ids)
        keep = [place for place, name in enumerate(self.ids) if name not in gone]
        return replace(
            self, rows=np.ascontiguousarray(self.rows[keep]), labels=self.labels[keep],
            ids=tuple(self.ids[place] for place in keep), subjects=tuple(self.subjects[place] for place in keep),
            offset=None if self.offset is None else np.ascontiguousarray(self.offset[:, keep]),
        )  # fmt: skip

    def joined(self, rows: Any, labels: Any, ids: Sequence[str], subjects: Sequence[bytes]) -> State:
        """The state with further records; ``rows`` come from the rule, before the fixed factor."""
        import numpy as np

        offset = self.offset
        if self.start is not None:
            more = self.start @ rows.T
            offset = more if offset is None else np.concatenate([offset, more], axis=1)
        if self.fixed is not None:
            rows = rows @ self.fixed.T
        return replace(
            self, rows=np.concatenate([self.rows, rows]), labels=np.concatenate([self.labels, labels]),
            ids=(*self.ids, *ids), subjects=(*self.subjects, *subjects), offset=offset,
        )  # fmt: skip

    # ---- file --------------------------------------------------------------------------------------------------

    def write(self, folder: Path) -> None:
        """Puts this state in the place of the one before, whose file is gone then."""
        import numpy as np

        arrays = {"weight": self.weights, "rows": self.rows, "labels": self.labels}
        arrays["ids"] = np.frombuffer("".join(self.ids).encode(), dtype=np.uint8).reshape(len(self.ids), 17)
        arrays["subjects"] = np.frombuffer(b"".join(self.subjects), dtype=np.uint8).reshape(len(self.ids), 32)
        for name in ("fixed", "start", "offset"):
            if getattr(self, name) is not None:
                arrays[name] = getattr(self, name)
        arrays = {name: item for name, item in arrays.items() if item.size}
        facts = {
            "pending": canonical({"lines": list(self.pending)}),
            "sha256": array_sha256(self.weights),
            "shape": json.dumps([list(self.rows.shape), list(self.labels.shape)]),
        }
        with atomic_file(folder / STATE) as work:
            os.chmod(work, 0o600)
            write_arrays(work, arrays, facts)
        os.chmod(folder / STATE, 0o600)

    @classmethod
    def read(cls, folder: Path) -> State:
        """The state in a folder.

        Raises:
            CorruptArtifact: damaged, or the weights are not those that were written.
        """
        import numpy as np

        arrays, facts = read_arrays(folder / STATE)
        odd = sorted(set(arrays) - _TENSORS)
        if odd:
            raise CorruptArtifact(f"{STATE} holds '{odd[0][:40]}', and a head knows nothing but weights and records")
        try:
            pending = json.loads(facts["pending"])["lines"]
            (count, width), _ = json.loads(facts["shape"])
            weights = arrays["weight"]
            ids = tuple(bytes(row).decode("ascii") for row in arrays.get("ids", ()))
            subjects = tuple(bytes(row) for row in arrays.get("subjects", ()))
            rows = arrays.get("rows", np.zeros((0, width)))
            labels = arrays.get("labels", np.zeros(0))
            sound = len(ids) == len(subjects) == len(labels) == len(rows) == count and all(map(is_id, ids))
        except (KeyError, ValueError, TypeError) as error:
            raise CorruptArtifact(f"{STATE} is damaged; nothing was changed") from error
        if not sound or array_sha256(weights) != facts.get("sha256"):
            raise CorruptArtifact(f"{STATE} does not hold what was written into it; nothing was changed")
        return cls(
            weights, rows, labels, ids, subjects, arrays.get("fixed"), arrays.get("start"), arrays.get("offset"),
            tuple(pending),
        )  # fmt: skip


class Subjects:
    """Whose record is whose, as HMAC-SHA256 under a key that lies beside the state and nowhere else."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / KEY

    def make_key(self) -> None:
        """A new key from the system's entropy."""
        self.path.unlink(missing_ok=True)  # of a run that was killed before it had learned anything
        make_key(self.path)

    def marks(self, names: Sequence[str] | None, count: int) -> list[bytes]:
        """One mark per record; zeros without names.

        Raises:
            RequestError: another number of names than of records.
        """
        if names is None:
            return [NOBODY] * count
        if len(names) != count:
            raise RequestError(f"{len(names)} subjects for {count} records; give one line per record")
        return [self.mark(name) for name in names]

    def mark(self, name: str) -> bytes:
        """The mark of one name; case, width and repeated spaces do not matter."""
        return mark(read_key(self.path), name)


def new_ids(count: int, taken: Sequence[str]) -> list[str]:
    """Random names for records."""
    found: dict[str, None] = {}
    used = set(taken)
    while len(found) < count:
        name = f"r{secrets.token_hex(8)}"
        if name not in used:
            found[name] = None
    return list(found)
