"""Training on top of a context map: the mapped model is the original one fed with mapped embeddings.

A closed-form edit W (I + K) of every key and value projection equals mapping the rows c to c + K c. A student that
starts from such an edit therefore needs no second set of weights: it is asked with mapped prompts, its teacher (the
original model) with plain ones.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from torch import Tensor

from erase_plugins.artifacts.edit import CONTEXT, ContextMap, Delta, Edit, LowRank
from erase_plugins.families.base import Conditioning


def map_rows(rows: Tensor, change: ContextMap) -> Tensor:
    """Rows (..., dim) after the map, in their own dtype."""
    A, B = change.A.to(rows.device), change.B.to(rows.device)
    return (rows.float() + (rows.float() @ A.T) @ B.T).to(rows.dtype)


def mapped(cond: Conditioning, change: ContextMap) -> Conditioning:
    """The prompts as the mapped model sees them; pooled embeddings stay unless the map has columns for them."""
    width = cond.embeds.shape[-1]
    found = replace(cond, embeds=map_rows(cond.embeds, change.columns(slice(0, width))))
    if change.A.shape[1] > width and cond.pooled is not None:
        found = replace(found, pooled=map_rows(cond.pooled, change.columns(slice(width, None))))
    return found


def stacked(closed: Edit, trained: Edit, readers: Iterable[str]) -> Edit:
    """A context map and the LoRA that was trained on mapped prompts, as one edit; exact.

    Projections that read the context saw mapped rows in training: (W + B A)(I + K) = W (I + K) + B A (I + K), so their
    down factors take the map in.

    Args:
        closed: holds the context map; its statistics are dropped, since they would not give the trained part again.
        trained: LoRA changes.
        readers: weight names of the key and value projections.
    """
    ((component, _, change),) = [item for item in closed.items() if item[1] == CONTEXT]
    assert isinstance(change, ContextMap)
    names = set(readers)
    K = change.B.double() @ change.A.double()

    def fold(where: str, key: str, delta: Delta) -> Delta:
        if where != component or key not in names or not isinstance(delta, LowRank):
            return delta
        return LowRank((delta.A.double() + delta.A.double() @ K).float().contiguous(), delta.B)

    deltas = {where: dict(group) for where, group in trained.map(fold).deltas.items()}
    deltas.setdefault(component, {})[CONTEXT] = change
    return Edit(trained.family, deltas)
