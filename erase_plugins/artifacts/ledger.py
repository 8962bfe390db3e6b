"""Sums of Gram matrices that can be added to and subtracted from without any rounding error.

Every contribution is rounded once to a multiple of 2**-34 and kept as int64. Integer addition is associative and
invertible, so the order of members does not matter, and taking a member out leaves exactly what would have been there
had it never come in: revoking is bit-equal, not merely close.
"""

from __future__ import annotations

import torch
from torch import Tensor

from erase_plugins.errors import RequestError

#: bits behind the point; one row of CLIP features has squares below 2**11, so 2**18 rows fit
FRACTION_BITS = 34
_LIMIT = 2.0**62


def to_ledger(matrix: Tensor) -> Tensor:
    """A float64 matrix as int64 multiples of 2**-34.

    Raises:
        RequestError: values too large for the ledger (embeddings of an unexpected scale).
    """
    scaled = matrix.double() * 2.0**FRACTION_BITS
    if not bool((scaled.abs() < _LIMIT).all()):
        raise RequestError("embedding statistics are not finite or too large; lower the scale option")
    return scaled.round().to(torch.int64)


def from_ledger(matrix: Tensor) -> Tensor:
    """Inverse of `to_ledger`, up to its rounding."""
    return matrix.double() * 2.0**-FRACTION_BITS


def gram(rows: Tensor, weight: float = 1.0, other: Tensor | None = None) -> Tensor:
    """Ledger form of weight * other^T rows, shape (d, d).

    Args:
        rows: (n, d).
        weight: scale of this contribution.
        other: (n, d); ``rows`` if None.
    """
    left = rows if other is None else other
    return to_ledger(weight * (left.double().T @ rows.double()))


def pack(matrix: Tensor) -> Tensor:
    """Lower triangle of a symmetric (d, d) matrix as one vector."""
    index = torch.tril_indices(*matrix.shape)
    return matrix[index[0], index[1]].contiguous()


def unpack(vector: Tensor, size: int) -> Tensor:
    """Inverse of `pack`."""
    index = torch.tril_indices(size, size)
    out = torch.zeros(size, size, dtype=vector.dtype)
    out[index[0], index[1]] = vector
    out[index[1], index[0]] = vector
    return out
