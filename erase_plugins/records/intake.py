"""What comes in: rows and labels as the proof needs them, and a head before it has seen any."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from erase_plugins.errors import RequestError
from erase_plugins.hints import Hint
from erase_plugins.records.features import Rule
from erase_plugins.records.losses import Loss
from erase_plugins.records.noise import Noise
from erase_plugins.records.state import NOBODY, State
from erase_plugins.records.weights import array_sha256


def draw_fixed(opened: Mapping[str, Any], noise: Noise) -> Any:
    """The fixed first factor (rank, dim) with orthonormal rows; None for a full head."""
    import numpy as np

    if not opened["rank"]:
        return None
    width = opened["dim"] + opened["bias"]
    return np.ascontiguousarray(np.linalg.qr(noise.normal((width, opened["rank"])))[0].T)


def empty_state(opened: dict[str, Any], fixed: Any, start: Any) -> tuple[State, dict[str, Any]]:
    """A state without records at weights 0, and the opening with the hash of what is frozen in the head."""
    import numpy as np

    width = opened["dim"] + opened["bias"]
    if start is not None:
        if fixed is None:
            raise RequestError("a frozen head needs a low-rank change on it; give ", Hint("rank"))
        start = np.asarray(start, dtype=np.float64)
        if start.shape != (opened["outputs"], width) or not np.isfinite(start).all():
            raise RequestError(f"the frozen head has the shape {start.shape}, {(opened['outputs'], width)} is needed")
        scales = np.append(np.full(opened["dim"], opened["scale"]), np.ones(int(opened["bias"])))
        start = start * scales  # the rows are divided by them
    inner = opened["rank"] or width
    state = State(np.zeros((opened["outputs"], inner)), np.zeros((0, inner)), np.zeros(0), (), (), fixed, start)
    digest = None if fixed is None else array_sha256(fixed if start is None else np.concatenate([fixed, start]))
    return state, {**opened, "fixed": digest}


def checked_rows(opened: Mapping[str, Any], features: Any, labels: Any) -> tuple[Any, Any]:
    """Rows of bounded norm and labels in range."""
    import numpy as np

    rows = Rule(opened["norm"], opened["scale"], opened["bias"]).rows(np.asarray(features))
    if rows.shape[1] != opened["dim"] + opened["bias"]:
        raise RequestError(f"the rows have {rows.shape[1] - opened['bias']} features, this head {opened['dim']}")
    if labels is None:
        raise RequestError("the new records have no labels; give one per row")
    values = Loss(opened["loss"], opened["threshold"]).check_targets(np.asarray(labels), opened["outputs"])
    if len(values) != len(rows):
        raise RequestError(f"{len(rows)} rows and {len(values)} labels; give one label per row")
    return rows, values


def check_group(marks: Sequence[bytes | str], group: int) -> None:
    """Whether nobody has more records than the certificate speaks of."""
    from collections import Counter

    most = max((count for mark, count in Counter(marks).items() if mark != NOBODY), default=0)
    if most > group:
        raise RequestError(
            f"one subject has {most} records, and this head is made for {group} per person; make it with ",
            Hint("group", str(most)),
        )
