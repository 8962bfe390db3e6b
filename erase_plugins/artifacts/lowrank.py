"""Exact and approximate low-rank algebra: lowering, concatenation, padding, compression."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from erase_plugins.artifacts.edit import CONTEXT, AddOn, ContextMap, Delta, Dense, Edit, LowRank, Rows, Sparse, is_bias
from erase_plugins.artifacts.gated import GATE, add_gated, gated_lowrank, renumbered
from erase_plugins.errors import Unsupported
from erase_plugins.plain_text import an

Weights = Callable[[str, str], Tensor]
Columns = Callable[[str, str], slice]


def lower(
    edit: Edit, projections: Mapping[str, Sequence[str]], weight: Weights, columns: Columns = lambda _c, _n: slice(None)
) -> Edit:
    """The edit with every `ContextMap` written out as `LowRank` changes of the projections that read the context.

    Args:
        edit: the edit.
        projections: component -> weight names of its key and value projections.
        weight: (component, weight name) -> base weight (out, dim).
        columns: (component, weight name) -> which columns of a text row it reads.

    Raises:
        Unsupported: a projection has another width than the map.
    """
    if "contextmap" not in edit.kinds:
        return edit
    deltas: dict[str, dict[str, Delta]] = {}
    for component, key, delta in edit.items():
        if not isinstance(delta, ContextMap):
            deltas.setdefault(component, {})[key] = delta
    for component, key, delta in edit.items():
        if isinstance(delta, ContextMap) and key == CONTEXT:
            for name in projections[component]:
                base, part = weight(component, name), delta.columns(columns(component, name))
                if base.shape[1] != part.A.shape[1]:
                    raise Unsupported(f"{name} takes rows of {base.shape[1]}, the map has {part.A.shape[1]}")
                up = (base.cpu().double() @ part.B.double()).float()
                made = LowRank(part.A.float().clone(), up)
                group = deltas.setdefault(component, {})
                group[name] = add(group[name], made) if name in group else made
    return replace(edit, deltas=deltas)


def add(first: Delta, second: Delta) -> Delta:
    """Sum of two changes of the same parameter: factors side by side where both are low-rank, else dense."""
    if isinstance(first, LowRank) and isinstance(second, LowRank):
        return LowRank(torch.cat([first.A, second.A]), torch.cat([first.B, second.B], dim=1))
    if isinstance(first, LowRank | Dense) and isinstance(second, LowRank | Dense):
        return _sum(first, second)
    if isinstance(first, Sparse) and isinstance(second, Sparse):
        return Sparse.of(first.dense() + second.dense())
    if isinstance(first, Sparse) and isinstance(second, LowRank | Dense):
        return _sum(first, second)
    return add(second, first) if isinstance(second, Sparse) else _add_other(first, second)


def _sum(first: LowRank | Dense | Sparse, second: LowRank | Dense) -> Dense:
    one, other = first.dense(), second.dense()
    if one.shape != other.shape:
        raise Unsupported(f"changes of shape {tuple(one.shape)} and {tuple(other.shape)} cannot be added")
    return Dense(one + other)


def _add_other(first: Delta, second: Delta) -> Delta:
    if isinstance(first, AddOn) and isinstance(second, AddOn):
        return add_gated(first, second)
    if isinstance(first, ContextMap) and isinstance(second, ContextMap):
        return ContextMap(torch.cat([first.A, second.A]), torch.cat([first.B, second.B], dim=1))
    if isinstance(first, Rows) and isinstance(second, Rows):
        return Rows(torch.cat([first.index, second.index]), torch.cat([first.values, second.values]))
    raise Unsupported(f"{an(first.kind)} and {an(second.kind)} change of the same module cannot be added")


def total(edits: Sequence[tuple[Edit, float]]) -> Edit:
    """Weighted sum of edits of one family, exact: nothing is truncated.

    Raises:
        Unsupported: families differ, or changes that cannot be added meet.
    """
    families = {edit.family for edit, _ in edits}
    if len(families) > 1:
        raise Unsupported(f"artifacts of different families cannot be combined: {', '.join(sorted(families))}")

    found: dict[str, dict[str, list[Delta]]] = {}
    for edit in renumbered([edit if factor == 1.0 else edit.scaled(factor) for edit, factor in edits]):
        for component, key, part in edit.items():
            found.setdefault(component, {}).setdefault(key, []).append(part)
    deltas = {component: {key: _all(parts) for key, parts in group.items()} for component, group in found.items()}
    return Edit(families.pop(), deltas)


def _all(parts: list[Delta]) -> Delta:
    """Sum of changes in their order, two by two: one after the other, factors of hundreds are copied as often."""
    while len(parts) > 1:
        pairs = [parts[place : place + 2] for place in range(0, len(parts), 2)]
        parts = [add(*pair) if len(pair) > 1 else pair[0] for pair in pairs]
    return parts[0]


def balanced(A: Tensor, B: Tensor) -> tuple[Tensor, Tensor]:
    """Factors of the same product, (r, in, ...) and (out, r, ...), with rows of A about as long as columns of B.

    A float16 copy loses or overflows neither then where one was tiny and the other large. Scales are powers of 2, so
    nothing is rounded.
    """
    down, up = A.flatten(1).norm(dim=1), B.transpose(0, 1).flatten(1).norm(dim=1)
    power = (up.log2() - down.log2()) / 2
    scale = torch.where(power.isfinite(), power, 0.0).round().exp2()
    rows, columns = (scale.to(part.dtype).reshape(-1, *[1] * more) for part, more in ((A, A.ndim - 1), (B, B.ndim - 2)))
    return A * rows, B / columns


def difference(first: Delta, second: Delta) -> float:
    """Norm of the difference of two forms of one change, relative to the first; of added modules, of their values."""
    if isinstance(first, LowRank | ContextMap) and isinstance(second, LowRank | ContextMap):
        whole = _values(first.A, first.B).norm()
        A = torch.cat([first.A.double(), second.A.double()])
        left = _values(A, torch.cat([first.B.double(), -second.B.double()], dim=1)).norm()
        return float(left / whole) if float(whole) else 0.0
    pairs = [(part, second.tensors()[name]) for name, part in first.tensors().items() if part.is_floating_point()]
    sizes = [(float((one.double() - two.double()).norm()), float(one.double().norm())) for one, two in pairs]
    return max((left / whole for left, whole in sizes if whole), default=0.0)


def _values(A: Tensor, B: Tensor) -> Tensor:
    """Singular values of a product, without forming it."""
    _, across = torch.linalg.qr(B.flatten(1).double())
    _, along = torch.linalg.qr(A.flatten(1).double().T)
    found: Tensor = torch.linalg.svdvals(across @ along.T)
    return found


def uniform_rank(edit: Edit) -> Edit:
    """All `LowRank` changes padded with zeros to the largest rank (exact); some loaders mis-scale mixed ranks."""
    rank = max((delta.rank for _, _, delta in edit.items() if isinstance(delta, LowRank)), default=0)

    def pad(_component: str, _key: str, delta: Delta) -> Delta:
        if not isinstance(delta, LowRank) or delta.rank == rank:
            return delta
        more = rank - delta.rank
        A = torch.cat([delta.A, delta.A.new_zeros(more, *delta.A.shape[1:])])
        B = torch.cat([delta.B, delta.B.new_zeros(delta.B.shape[0], more, *delta.B.shape[2:])], dim=1)
        return LowRank(A, B)

    return edit.map(pad)


def compress(edit: Edit, rank: int | None = None, energy: float | None = None) -> tuple[Edit, dict[str, float]]:
    """Every weight change as `LowRank` by truncated SVD, with the relative error per parameter.

    Args:
        edit: the edit.
        rank: directions to keep; or
        energy: share of the squared norm to keep, in 0..1. Neither: numerical rank (relative 1e-6), lossless.
    """
    errors: dict[str, float] = {}

    def shrink(component: str, key: str, delta: Delta) -> Delta:
        if not isinstance(delta, LowRank | Dense) or is_bias(delta):
            return delta
        shape = delta.dW.shape if isinstance(delta, Dense) else (delta.B.shape[0], *delta.A.shape[1:])
        left, values, right = _decomposed(delta)
        power = values**2
        if rank is not None:
            keep = min(rank, len(values))
        elif energy is not None:
            keep = int((torch.cumsum(power, 0) < energy * power.sum()).sum()) + 1
        else:
            keep = int((values > 1e-6 * values[0]).sum())
        keep = max(min(keep, len(values)), 1)
        whole = float(power.sum())
        errors[f"{component} {key}"] = (float(power[keep:].sum()) / whole) ** 0.5 if whole else 0.0
        root = values[:keep].sqrt()
        A = (root[:, None] * right[:keep]).reshape(keep, *shape[1:]).float()
        B = (left[:, :keep] * root).float().reshape(shape[0], keep, *([1] * (len(shape) - 2)))
        return LowRank(A.contiguous(), B.contiguous())

    return edit.map(shrink), errors


def _decomposed(delta: LowRank | Dense) -> tuple[Tensor, Tensor, Tensor]:
    """Singular value decomposition of a change in float64; of a low-rank one from its factors, without its product."""
    if isinstance(delta, Dense):
        left, values, right = torch.linalg.svd(delta.dW.flatten(1).double(), full_matrices=False)
        return left, values, right
    up, across = torch.linalg.qr(delta.B.flatten(1).double())
    down, along = torch.linalg.qr(delta.A.flatten(1).double().T)
    left, values, right = torch.linalg.svd(across @ along.T, full_matrices=False)
    return up @ left, values, right @ down.T


def behind_gate(edit: Edit, gate: AddOn, component: str = "unet") -> Edit:
    """An edit of weight changes put behind a gate; where the gate is fully open it acts as before.

    Args:
        edit: low-rank and dense changes of weights of the denoiser, context maps written out.
        gate: all its embeddings belong to gate 0.
        component: the denoiser.

    Raises:
        Unsupported: a change that has no gated form, or one of another component.
    """
    made: dict[str, Delta] = {GATE: gate}
    for part, key, delta in compress(edit)[0].items():
        if part != component:
            raise Unsupported(f"changes of {part} cannot be gated; only the denoiser sees which prompt it is")
        if not isinstance(delta, LowRank) or not key.endswith(".weight"):
            raise Unsupported(f"{an(delta.kind)} change ({key[:60]}) cannot be gated; only changes of weights can")
        made[key.removesuffix(".weight")] = gated_lowrank(delta, [0] * delta.rank)
    return Edit(edit.family, {component: made})
