"""Sums of Gram matrices that can be added to and subtracted from without any rounding error.

Every contribution is rounded once to a multiple of 2**-34 and kept as int64. Integer addition is associative and
invertible, so the order of members does not matter, and taking a member out leaves exactly what would have been there
had it never come in: revoking is bit-equal, not merely close.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from erase_plugins.errors import RequestError

#: bits behind the point; one row of CLIP features has squares below 2**11, so 2**18 rows fit
FRACTION_BITS = 34
_LIMIT = 2.0**62
#: whole numbers up to here are exact in float64
_EXACT = 2.0**52


def from_ledger(matrix: Tensor) -> Tensor:
    """An int64 ledger as float64."""
    return matrix.double() * 2.0**-FRACTION_BITS


def gram(rows: Tensor, weight: float = 1.0, other: Tensor | None = None) -> Tensor:
    """Ledger form of weight * other^T rows, shape (d, d).

    Args:
        rows: (n, d).
        weight: scale of this contribution.
        other: (n, d); ``rows`` if None.

    Raises:
        RequestError: values too large for the ledger (embeddings of an unexpected scale).
    """
    return gram_sum([(rows, other)], weight)


def gram_sum(pairs: Iterable[tuple[Tensor, Tensor | None]], weight: float = 1.0) -> Tensor:
    """Sum of `gram` over many (rows, other); every contribution is rounded by itself.

    Contributions are whole numbers, so float64 adds them exactly while the total stays below 2**53; before it could
    grow past that, the total moves to the int64 ledger.
    """
    ledger: Tensor | None = None
    total = buffer = torch.empty(0)
    bound = 0.0
    for rows, other in pairs:
        right = rows.double() * 2.0 ** (FRACTION_BITS // 2)
        left = right if other is None else other.double() * 2.0 ** (FRACTION_BITS // 2)
        left = left * weight
        if ledger is None:
            ledger = torch.zeros(left.shape[1], right.shape[1], dtype=torch.int64)
            total, buffer = torch.zeros_like(ledger, dtype=torch.float64), torch.empty_like(ledger, dtype=torch.float64)
        size = float(left.norm() * right.norm())
        if not size < _LIMIT:
            raise RequestError(
                "embedding statistics are not finite or too large for exact sums; lower the scale option"
            )
        if bound + size >= _EXACT:
            ledger += total.to(torch.int64)
            total.zero_()
            bound = 0.0
        torch.mm(left.T, right, out=buffer)
        buffer.round_()
        if size >= _EXACT:
            ledger += buffer.to(torch.int64)
        else:
            total += buffer
            bound += size
    if ledger is None:
        raise RequestError("no rows to sum")
    return ledger + total.to(torch.int64)


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
