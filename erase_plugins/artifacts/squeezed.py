"""Tensors as deflated byte planes, to the last bit: what files of very many concepts are made of.

The values' bytes are put side by side by their place (all lowest bytes first), then deflated (RFC 1950); whole numbers
have their sign in the lowest bit first (0, -1, 1, -2 become 0, 1, 2, 3). High bytes of numbers of like size are alike,
so exact sums shrink to about two thirds; a matrix of few directions is told by those and by what is left of it, which
is small.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from erase_plugins.errors import CorruptArtifact

#: directions that are tried; more would cost what they save
_DIRECTIONS = 96
_LEVEL = 1


def squeeze(tensor: Tensor) -> Tensor:
    """The values as a vector of bytes (uint8); shape and type are for the reader to know."""
    values = tensor.detach().cpu().contiguous()
    values = (values << 1) ^ (values >> 63) if values.dtype == torch.int64 else values
    planes = values.numpy().reshape(-1, 1).view(np.uint8).T
    data = zlib.compress(np.ascontiguousarray(planes).tobytes(), _LEVEL)
    return torch.frombuffer(bytearray(data), dtype=torch.uint8)


def stretch(data: Tensor, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Inverse of `squeeze`.

    Raises:
        CorruptArtifact: not what `squeeze` gives for that shape and type.
    """
    count, size = int(np.prod(shape)), dtype.itemsize
    reader = zlib.decompressobj()
    try:
        raw = reader.decompress(data.contiguous().numpy().tobytes(), count * size)
        whole = reader.eof or not reader.decompress(reader.unconsumed_tail, 1)
    except zlib.error as error:
        raise CorruptArtifact("squeezed values are damaged; fetch the artifact again") from error
    if data.dtype != torch.uint8 or len(raw) != count * size or not whole:
        raise CorruptArtifact(f"squeezed values do not make a tensor of shape {shape}; fetch the artifact again")
    values = np.ascontiguousarray(np.frombuffer(raw, dtype=np.uint8).reshape(size, count).T)
    found = torch.from_numpy(values).view(dtype).reshape(shape)
    return ((found >> 1) & 0x7FFFFFFFFFFFFFFF) ^ -(found & 1) if dtype == torch.int64 else found


def squeeze_directions(matrix: Tensor) -> dict[str, Tensor]:
    """An int64 matrix as "left" (r, d) and "right" (r, d) float64 and the squeezed "rest", exactly; r may be 0."""
    size = matrix.shape[1]
    values = matrix.double()
    draw = torch.randn(
        size, min(_DIRECTIONS, size // 4), dtype=torch.float64, generator=torch.Generator().manual_seed(0)
    )
    Q, R = torch.linalg.qr(values @ draw)
    strength = R.diagonal().abs()
    few = int((strength > 1e-11 * strength.max()).sum()) if strength.numel() and bool(strength.max()) else 0
    few = few if few < draw.shape[1] else 0  # else it has more directions than were tried
    left = Q[:, :few].T.contiguous()
    right = (left @ values).contiguous()
    return {"left": left, "right": right, "rest": squeeze(matrix - _of(left, right, matrix.shape))}


def stretch_directions(parts: Mapping[str, Tensor], shape: tuple[int, ...]) -> Tensor:
    """Inverse of `squeeze_directions`.

    Raises:
        CorruptArtifact: damaged.
    """
    left, right = parts["left"], parts["right"]
    sound = left.dtype == right.dtype == torch.float64 and left.ndim == right.ndim == 2
    if not sound or left.shape[1:] != shape[:1] or right.shape != (len(left), shape[1]):
        raise CorruptArtifact("the directions of a statistics ledger are damaged; fetch the artifact again")
    return stretch(parts["rest"], shape, torch.int64) + _of(left, right, shape)


def _of(left: Tensor, right: Tensor, shape: tuple[int, ...] | torch.Size) -> Tensor:
    """Sum of outer products, rounded; one product and one sum at a time, which every machine rounds alike."""
    total = torch.zeros(shape, dtype=torch.float64)
    for column, row in zip(left, right, strict=True):
        total += column[:, None] * row[None, :]
    return total.round_().to(torch.int64)
