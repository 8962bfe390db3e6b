"""The result of a method: what is added to which parameter. Layouts turn it into files, the runtime applies it.

Keys inside a component are parameter names ("mid_block...attn2.to_k.weight") for `LowRank`, `Dense`, `Sparse`
and `Rows`, module paths for `AddOn`, and `CONTEXT` for `ContextMap`. Text-encoder names carry no
``text_model.`` prefix.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from erase_plugins.artifacts.tensors import all_finite
from erase_plugins.errors import ArtifactError, NotFiniteError

CONTEXT = "context"
#: rows of text embeddings from which the form of a map matters for the size of a file
_WIDE = 512


class Delta(Protocol):
    """One change. ``kind`` names the class in files; ``tensors`` are what is stored."""

    @property
    def kind(self) -> str:
        """Name of the class in files."""

    def tensors(self) -> dict[str, Tensor]:
        """Stored tensors by field name."""

    def scaled(self, factor: float) -> Delta:
        """The same change, ``factor`` times as strong."""


@dataclass(frozen=True, eq=False)
class LowRank:
    """Weight change B A with the scale baked in.

    Attributes:
        A: (rank, in) or (rank, in, height, width) for convolutions ("down").
        B: (out, rank) or (out, rank, 1, 1) ("up").
    """

    A: Tensor
    B: Tensor
    kind: str = field(default="lowrank", init=False)

    @property
    def rank(self) -> int:
        """Number of columns of B."""
        return self.A.shape[0]

    def dense(self) -> Tensor:
        """The change as one float32 tensor in the shape of the weight."""
        flat = self.B.float().flatten(1) @ self.A.float().flatten(1)
        return flat.reshape(self.B.shape[0], *self.A.shape[1:])

    def tensors(self) -> dict[str, Tensor]:
        """Both factors by name."""
        return {"A": self.A, "B": self.B}

    def scaled(self, factor: float) -> LowRank:
        """The same change, ``factor`` times as strong."""
        return LowRank(self.A, self.B * factor)

    def transposed(self) -> LowRank:
        """The change of the transposed weight of a linear layer."""
        return LowRank(self.B.T.contiguous(), self.A.T.contiguous())


@dataclass(frozen=True, eq=False)
class Dense:
    """Change in the shape of the parameter: a weight, or a bias and a norm's scale (one dimension)."""

    dW: Tensor
    kind: str = field(default="dense", init=False)

    def dense(self) -> Tensor:
        """The change in float32."""
        return self.dW.float()

    def tensors(self) -> dict[str, Tensor]:
        """The tensors that a file holds, by name."""
        return {"dW": self.dW}

    def scaled(self, factor: float) -> Dense:
        """The same change, ``factor`` times as strong."""
        return Dense(self.dW * factor)


@dataclass(frozen=True, eq=False)
class Sparse:
    """Change of single values of a parameter; all others stay to the last bit.

    Attributes:
        mask: one bit for every value of the parameter, row by row, packed as by `numpy.packbits`; uint8.
        values: (n,) what is added where the bit is 1.
        shape: int64, the parameter's.
    """

    mask: Tensor
    values: Tensor
    shape: Tensor
    kind: str = field(default="sparse", init=False)

    @classmethod
    def of(cls, change: Tensor) -> Sparse:
        """The change with a bit wherever it is not 0."""
        places = change.flatten() != 0
        bits = torch.from_numpy(np.packbits(places.cpu().numpy()))
        return cls(bits, change.flatten()[places].clone(), torch.tensor(change.shape, dtype=torch.int64))

    def dense(self) -> Tensor:
        """The change in float32, in the shape of the parameter."""
        size = torch.Size(self.shape.tolist())
        places = torch.from_numpy(np.unpackbits(self.mask.cpu().numpy(), count=size.numel())).bool()
        out = torch.zeros(size.numel(), dtype=torch.float32, device=self.values.device)
        out[places.to(out.device)] = self.values.float()
        return out.reshape(size)

    def tensors(self) -> dict[str, Tensor]:
        """The tensors that a file holds, by name."""
        return {"mask": self.mask, "values": self.values, "shape": self.shape}

    def scaled(self, factor: float) -> Sparse:
        """The same change, ``factor`` times as strong."""
        return Sparse(self.mask, self.values * factor, self.shape)


@dataclass(frozen=True, eq=False)
class Rows:
    """Change of single rows of an embedding table: ``index`` (n,) int64, ``values`` (n, dim) are added."""

    index: Tensor
    values: Tensor
    kind: str = field(default="rows", init=False)

    def tensors(self) -> dict[str, Tensor]:
        """The tensors that a file holds, by name."""
        return {"index": self.index, "values": self.values}

    def scaled(self, factor: float) -> Rows:
        """The same change, ``factor`` times as strong."""
        return Rows(self.index, self.values * factor)


@dataclass(frozen=True, eq=False)
class ContextMap:
    """Map c -> c + B A c of every text embedding row that cross-attention sees.

    Equal to the weight change W B A in every key and value projection, so it fits any model that shares the text
    encoder and needs A (rank, dim) and B (dim, rank) only. Where a pooled row is read by a layer of its own, its
    columns stand behind those of the token rows, and no direction has both.
    """

    A: Tensor
    B: Tensor
    kind: str = field(default="contextmap", init=False)

    @property
    def rank(self) -> int:
        """Number of rows of A."""
        return self.A.shape[0]

    @property
    def is_wide(self) -> bool:
        """Whether B A as one matrix takes fewer values than both factors, and these take megabytes."""
        rank, width = self.A.shape
        return 2 * rank > width >= _WIDE

    def whole(self) -> Tensor:
        """B A, (dim, dim) float32."""
        return (self.B.detach().cpu().double() @ self.A.detach().cpu().double()).float().contiguous()

    @classmethod
    def of_whole(cls, matrix: Tensor) -> ContextMap:
        """The map of B A as one matrix."""
        return cls(torch.eye(len(matrix)), matrix.float())

    def columns(self, chosen: slice) -> ContextMap:
        """The map of some columns, without the directions that hardly reach them."""
        A, B = self.A[:, chosen], self.B[chosen]
        if A.shape == self.A.shape:
            return self
        size = A.float().norm(dim=1) * B.float().norm(dim=0)
        keep = size > 1e-12 * float(size.max())
        return ContextMap(A[keep].contiguous(), B[:, keep].contiguous()) if bool(keep.any()) else ContextMap(A, B)

    def tensors(self) -> dict[str, Tensor]:
        """Both factors by name."""
        return {"A": self.A, "B": self.B}

    def scaled(self, factor: float) -> ContextMap:
        """The same change, ``factor`` times as strong."""
        return ContextMap(self.A, self.B * factor)


@dataclass(frozen=True, eq=False)
class AddOn:
    """A module added beside another one; what no weight change can express. ``type`` names the runtime class."""

    type: str
    weights: Mapping[str, Tensor]
    config: Mapping[str, Any]
    kind: str = field(default="addon", init=False)

    @property
    def rank(self) -> int:
        """Number of directions of its "down" factor; 0 without one."""
        return self.weights["down"].shape[0] if "down" in self.weights else 0

    def tensors(self) -> dict[str, Tensor]:
        """The tensors that a file holds, by name."""
        return dict(self.weights)

    def scaled(self, factor: float) -> AddOn:
        """The same change, ``factor`` times as strong."""
        return AddOn(self.type, self.weights, {**self.config, "strength": factor * self.config.get("strength", 1.0)})


DELTA_TYPES = {
    "lowrank": LowRank,
    "dense": Dense,
    "sparse": Sparse,
    "rows": Rows,
    "contextmap": ContextMap,
}


@dataclass(frozen=True, eq=False)
class Edit:
    """Component -> key -> delta, plus what is needed to solve again.

    Attributes:
        family: id of the family it was made for.
        deltas: the change itself.
        statistics: tensors of closed-form methods (see `artifacts.statistics`), empty otherwise.
        meta: JSON-ready facts that belong to the edit (statistics description, gates).
    """

    family: str
    deltas: Mapping[str, Mapping[str, Delta]]
    statistics: Mapping[str, Tensor] = field(default_factory=dict)
    meta: Mapping[str, Any] = field(default_factory=dict)

    def items(self) -> Iterator[tuple[str, str, Delta]]:
        """All (component, key, delta) in a fixed order."""
        for component in sorted(self.deltas):
            for key in sorted(self.deltas[component]):
                yield component, key, self.deltas[component][key]

    def __len__(self) -> int:
        return sum(len(group) for group in self.deltas.values())

    @property
    def kinds(self) -> frozenset[str]:
        """Delta kinds that occur."""
        return frozenset(delta.kind for _, _, delta in self.items())

    @property
    def rank(self) -> int:
        """Largest rank of a low-rank delta, gated ones included; 0 if there is none."""
        return max((getattr(delta, "rank", 0) for _, _, delta in self.items()), default=0)

    @property
    def is_nothing(self) -> bool:
        """Whether it changes nothing at all: no change, or only such as are zero."""
        return not any(_changes(delta) for _, _, delta in self.items())

    def check_finite(self, advice: str = "") -> None:
        """Refuses NaN and infinity.

        Args:
            advice: what to do about it, behind what is wrong.

        Raises:
            NotFiniteError: names the first offending tensor.
        """
        for component, key, delta in self.items():
            for name, tensor in delta.tensors().items():
                if tensor.is_floating_point() and not all_finite(tensor):
                    raise NotFiniteError(f"{component} {key}: {name} holds NaN or infinity{advice}")

    def map(self, change: Any) -> Edit:
        """The edit with ``change(component, key, delta)`` in place of every delta."""
        return replace(
            self,
            deltas={
                component: {key: change(component, key, delta) for key, delta in group.items()}
                for component, group in self.deltas.items()
            },
        )

    def scaled(self, factor: float) -> Edit:
        """The edit, ``factor`` times as strong; statistics are dropped, since they describe strength 1."""
        return replace(self.map(lambda _c, _k, delta: delta.scaled(factor)), statistics={}, meta={})


def is_bias(delta: Delta) -> bool:
    """Whether it is a whole change of one dimension: of a bias, or of a norm's scale."""
    return isinstance(delta, Dense) and delta.dW.ndim == 1


def rows_dense(delta: Rows, shape: torch.Size) -> Tensor:
    """A `Rows` change as one float32 tensor of the table's shape.

    Raises:
        ArtifactError: an index outside the table.
    """
    if delta.index.numel() and (int(delta.index.min()) < 0 or int(delta.index.max()) >= shape[0]):
        raise ArtifactError(f"row index outside the table of {shape[0]} rows")
    out = torch.zeros(shape, dtype=torch.float32)
    return out.index_add_(0, delta.index.cpu(), delta.values.float().cpu())


def _changes(delta: Delta) -> bool:
    if isinstance(delta, LowRank | ContextMap | Dense):
        return all(bool(tensor.any()) for tensor in delta.tensors().values())
    return bool(delta.values.any()) if isinstance(delta, Sparse) else True
