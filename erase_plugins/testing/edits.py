"""Random edits of every kind for a model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from erase_plugins.artifacts.edit import CONTEXT, AddOn, ContextMap, Dense, Edit, LowRank, Rows, Sparse

#: rank of what is low-rank; of all parts, since some files have one rank only
RANK = 2


def random_edits(target: Any) -> dict[str, Edit]:
    """Edits that a model can have, by what they are; small, and always the same."""
    import torch

    draw = torch.Generator().manual_seed(7)

    def random(*shape: int) -> Any:
        return 0.05 * torch.randn(shape, generator=draw)

    def lowrank(ref: Any) -> LowRank:
        tail = [1] * (len(ref.shape) - 2)
        return LowRank(random(RANK, *ref.shape[1:]), random(ref.shape[0], RANK, *tail))

    def sparse(ref: Any) -> Sparse:
        return Sparse.of(random(*ref.shape) * (torch.rand(ref.shape, generator=draw) < 0.25))

    lines = _few(target, "linear")
    makers: dict[str, tuple[list[Any], Callable[[Any], Any]]] = {
        "lowrank": (lines, lowrank),
        "lowrank of convolutions": (_few(target, "conv"), lowrank),
        "dense": (lines, lambda ref: Dense(random(*ref.shape))),
        "sparse": (lines, sparse),
        "rows": (_few(target, "embedding"), lambda ref: Rows(torch.tensor([0, 2]), random(2, ref.shape[1]))),
    }
    found = {}
    for name, (refs, make) in makers.items():
        deltas: dict[str, dict[str, Any]] = {}
        for ref in refs:
            deltas.setdefault(ref.component, {})[ref.weight] = make(ref)
        found[name] = Edit(target.family.id, deltas)
    if target.info.supports("embedding_map"):
        width, component = target.info.width, target.readers()[0].component
        found["contextmap"] = Edit(
            target.family.id, {component: {CONTEXT: ContextMap(random(RANK, width), random(width, RANK))}}
        )
    for ref in lines[:1]:
        weights = {"down": random(RANK, ref.shape[0]), "up": random(ref.shape[0], RANK)}
        addon = AddOn("bottleneck", weights, {"activation": "relu"})
        found["addon"] = Edit(target.family.id, {ref.component: {ref.path.removesuffix(".to_out.0"): addon}})
    return {name: edit for name, edit in found.items() if len(edit)}


def _few(target: Any, kind: str) -> list[Any]:
    """Two modules of a kind in every part of the model, the readers of text first."""
    first = set(target.readers()) if target.info.supports("embedding_map") else set()
    refs = sorted((ref for ref in target.info.refs if ref.kind == kind), key=lambda ref: ref not in first)
    parts = dict.fromkeys(ref.component for ref in refs)
    return [ref for part in parts for ref in [item for item in refs if item.component == part][:2]]
