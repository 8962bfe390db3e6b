"""Is a context map in a model's weights already? Fused, it has left no other trace there.

A map is a factor of the weights that are there: with K = B A they become W (I + s K), and those of a model that holds
it, W (I + s K) (I + t K). No t takes it off (the product has the term s t K^2), and a positive one acts twice.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from erase_plugins.artifacts.artifact import Artifact
from erase_plugins.artifacts.edit import CONTEXT, ContextMap
from erase_plugins.artifacts.fingerprint import Fingerprint, far
from erase_plugins.errors import AlreadyApplied

#: strengths at which it may have been fused, the likeliest first
_STRENGTHS = (1.0, *(number / 20 for number in range(1, 41)))
#: share of how far the values lie from the base's, squared, that the map must explain, and values that tell it
_EXPLAINED, _FEWEST = 0.95, 4


def refuse_fused(
    artifact: Artifact, component: str, live: Fingerprint, weights: Mapping[str, Callable[[], Tensor]],
    columns: Mapping[str, slice] | None = None,
) -> None:  # fmt: skip
    """Refuses a model whose weights are those that the artifact was made for with its own map in them.

    Args:
        artifact: what is to be used.
        component: the denoiser.
        live: its fingerprint as it is now.
        weights: name -> what gives a weight that reads the context.
        columns: name -> which columns of a text row it reads; all if None.

    Raises:
        AlreadyApplied: says what to load instead.
    """
    delta = artifact.edit.deltas.get(component, {}).get(CONTEXT)
    found: Any = (artifact.manifest.base.get("fingerprint") or {}).get(component)
    stored = None if found is None else Fingerprint.from_dict(found)
    if not isinstance(delta, ContextMap) or stored is None or stored.structure != live.structure:
        return
    base, now = (
        dict(zip(live.names, np.frombuffer(item.sample, dtype="<f4").tolist(), strict=True)) for item in (stored, live)
    )
    read = [name for name in weights if not np.isnan((base.get(name, np.nan), now.get(name, np.nan))).any()]
    moved = [name for name in read if far(base[name], now[name])]
    if len(moved) < _FEWEST:
        return
    parts = {name: delta if columns is None else delta.columns(columns[name]) for name in moved}
    rows = [(base[name], *_row(weights[name](), parts[name])) for name in moved]
    apart = sum((base[name] - now[name]) ** 2 for name in moved)
    if any(_left(rows, strength) <= (1 - _EXPLAINED) * apart for strength in _STRENGTHS):
        raise AlreadyApplied(
            f"'{artifact.name}' is fused into the weights of this {component} already: no strength takes it off again "
            "exactly, and a positive one acts twice; load the model that it was fused into; nothing was changed"
        )


def _left(rows: list[tuple[float, Tensor, int, Tensor, Tensor]], strength: float) -> float:
    """How far the values without the map lie from the base's, squared, if it is in them at this strength."""
    return sum((value - _without(row, place, A, B, strength)) ** 2 for value, row, place, A, B in rows)


def _row(weight: Tensor, part: ContextMap) -> tuple[Tensor, int, Tensor, Tensor]:
    """The row of a weight with its middle value, the value's place in it, and the map's factors."""
    row, place = divmod(weight.numel() // 2, weight.shape[1])
    return weight[row].detach().cpu().double(), place, part.A.cpu().double(), part.B.cpu().double()


def _without(row: Tensor, place: int, A: Tensor, B: Tensor, strength: float) -> float:
    """The value as it was before: w (I + s B A)^-1 = w - w s B (I + s A B)^-1 A."""
    inner = torch.eye(len(A), dtype=torch.float64) + strength * (A @ B)
    return float(row[place] - strength * (row @ B) @ torch.linalg.solve(inner, A[:, place]))
