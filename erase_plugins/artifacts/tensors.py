"""Reads and writes safetensors files: checked on the way in, byte-for-byte reproducible on the way out."""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import struct
from collections.abc import Iterator, Mapping
from contextlib import suppress
from io import FileIO
from pathlib import Path

import torch
from torch import Tensor

from erase_plugins.artifacts.header import Header, read_header
from erase_plugins.errors import ArtifactError, CorruptArtifact

_DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64,
    "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
    "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2,
}  # fmt: skip
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}
#: from this size on large memory pages are worth asking for
_LARGE = 4 << 20
#: bytes that are copied at once
_PIECE = 1 << 18
#: bytes of a memory page, and what a system copies at once if the goal is at a multiple of it
_PAGE, _STRETCH = 1 << 12, 1 << 16
#: bytes that the system is asked to copy in one call
_MOST = 1 << 30


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """All tensors and the string metadata.

    The data is copied into memory in one go; a mapped file that somebody rewrites later would kill the process.

    Raises:
        CorruptArtifact: the file is not a sound safetensors file.
        ArtifactError: a tensor is stored in a dtype that torch lacks.
    """
    file = TensorFile(path)
    entries = file.header.tensors
    data = file.read(0, max((entry.end for entry in entries.values()), default=0))
    return {name: file.tensor(name, data, entry.begin) for name, entry in entries.items()}, dict(file.header.metadata)


def all_finite(tensor: Tensor) -> bool:
    """Whether a floating point tensor holds neither NaN nor infinity.

    Both always show in the sum, which costs a tenth of looking at every value; a sum of finite values that leaves the
    dtype's range does not decide, so then every value is looked at.
    """
    return bool(tensor.sum().isfinite()) or bool(tensor.isfinite().all())


def tensor_bytes(tensor: Tensor) -> bytes:
    """Little-endian content of a tensor in row order."""
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b""


def tensor_hash(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 (hexadecimal) of the data part that `write_tensors` would write."""
    digest = hashlib.sha256()
    for name in data_order(tensors):
        digest.update(tensor_bytes(tensors[name]))
    return digest.hexdigest()


def data_order(tensors: Mapping[str, Tensor]) -> list[str]:
    """Names in the order of the data part: large items first (alignment), then by name."""
    return sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Writes a safetensors file. Same content, same bytes: the header is sorted, unlike with the stock writer.

    Raises:
        ArtifactError: a tensor has a dtype that safetensors does not know.
    """
    header: dict[str, object] = {"__metadata__": {key: metadata[key] for key in sorted(metadata)}}
    order, position = data_order(tensors), 0
    for name in order:
        tensor = tensors[name]
        if tensor.dtype not in _NAMES:
            raise ArtifactError(f"tensor '{name}' has dtype {tensor.dtype}, which safetensors files cannot hold")
        size = tensor.numel() * tensor.element_size()
        header[name] = {
            "dtype": _NAMES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [position, position + size]
        }  # fmt: skip
        position += size
    with path.open("wb") as file:
        file.write(header_bytes(header))
        for name in order:
            file.write(tensor_bytes(tensors[name]))


def header_bytes(header: Mapping[str, object], like: int | None = None) -> bytes:
    """Length and JSON of a header, padded with spaces to a multiple of 8 bytes.

    Args:
        header: what it says.
        like: where the data part of another file starts; the new one's then starts at the same place of a memory page.
            What is copied from there needs a third less time, and disks that share blocks can share them.
    """
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    if like is not None:
        text += b" " * ((like // 8 * 8 - 8 - len(text)) % _PAGE)
    return struct.pack("<Q", len(text)) + text


class TensorFile:
    """Single tensors of a large file, read on demand; nothing else is loaded.

    Raises:
        CorruptArtifact: not a sound safetensors file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.header: Header = read_header(path)
        self.start = self.header.start

    def __contains__(self, name: str) -> bool:
        return name in self.header.tensors

    def __iter__(self) -> Iterator[str]:
        return iter(self.header.tensors)

    def raw(self, name: str) -> memoryview:
        """Stored bytes of a tensor."""
        entry = self.header.tensors[name]
        return self.read(entry.begin, entry.end)

    def read(self, begin: int, end: int) -> memoryview:
        """A range of the data part.

        Raises:
            CorruptArtifact: the file is not what it was when its header was read.
        """
        data = _memory(end - begin)
        try:
            with self.path.open("rb") as file:
                file.seek(self.start + begin)
                count = file.readinto(data)
        except OSError as error:
            raise CorruptArtifact(f"{self.path.name}: cannot be read ({error.strerror})") from error
        if count != end - begin:
            raise CorruptArtifact(f"{self.path.name}: changed while it was read; try again")
        return data

    def get(self, name: str) -> Tensor:
        """One tensor in its stored dtype.

        Raises:
            ArtifactError: not in the file, or stored in a dtype that torch lacks.
        """
        if name not in self.header.tensors:
            raise ArtifactError(f"'{self.path.name}' has no tensor '{name}'")
        return self.tensor(name, self.raw(name), 0)

    def values(self, name: str, begin: int, end: int) -> Tensor:
        """Values of a tensor whose bytes lie in a range of the data part, (n,) in its stored dtype.

        Raises:
            ArtifactError: stored in a dtype that torch lacks.
        """
        dtype = self.header.tensors[name].dtype
        if dtype not in _DTYPES:
            raise ArtifactError(f"'{name}' is stored as {dtype}, which cannot be read here")
        return torch.frombuffer(self.read(begin, end), dtype=torch.uint8).view(_DTYPES[dtype])

    def copy_to(self, goal: FileIO, begin: int, end: int) -> None:
        """Writes a range of the data part to ``goal``, a file without a buffer, as it is.

        The system copies it, without a way through this process, where it can; else it goes by in small pieces.

        Raises:
            CorruptArtifact: the file is not what it was when its header was read.
        """
        with self.path.open("rb", buffering=0) as file:
            file.seek(self.start + begin)
            begin += _copied(file, goal, end - begin)
            piece = memoryview(bytearray(min(_PIECE, end - begin)))
            while begin < end:
                count = file.readinto(piece[: end - begin])
                if not count:
                    raise CorruptArtifact(f"{self.path.name}: changed while it was read; try again")
                write_whole(goal, piece[:count])
                begin += count

    def tensor(self, name: str, data: memoryview, offset: int) -> Tensor:
        """The tensor whose bytes start at ``offset`` of ``data``; it shares that memory.

        Raises:
            ArtifactError: stored in a dtype that torch lacks.
        """
        entry = self.header.tensors[name]
        if entry.dtype not in _DTYPES:
            raise ArtifactError(f"'{name}' is stored as {entry.dtype}, which cannot be read here")
        dtype, size = _DTYPES[entry.dtype], entry.end - entry.begin
        if not size:
            return torch.empty(entry.shape, dtype=dtype)
        flat = torch.frombuffer(data, dtype=torch.uint8, count=size, offset=offset)
        if offset % dtype.itemsize:  # files of other programs need not align their tensors
            flat = flat.clone()
        return flat.view(dtype).reshape(entry.shape)


def write_whole(goal: FileIO, data: bytes | memoryview) -> None:
    """Writes all of ``data`` to a file without a buffer, which takes a part where the disk fills or 2 GiB are passed.

    Raises:
        OSError: no more fits.
    """
    left = memoryview(data)
    while left:
        left = left[goal.write(left) :]


def _copied(file: FileIO, goal: FileIO, count: int) -> int:
    """Bytes that the system copied between two files at their positions; fewer than ``count`` where it cannot."""
    done, first = 0, min(-goal.tell() % _STRETCH, count)
    with suppress(AttributeError, OSError):  # another system, or files on disks that do not do it
        while done < count:
            size = min((first if done < first else count) - done, _MOST)
            part = os.copy_file_range(file.fileno(), goal.fileno(), size)
            if not part:
                break
            done += part
    return done


def _memory(size: int) -> memoryview:
    """Memory for this many bytes; filling it costs mostly the first touch of each page, so large ones are asked for."""
    if size < _LARGE or not hasattr(mmap, "MADV_HUGEPAGE"):
        return memoryview(bytearray(size))
    data = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with suppress(OSError):  # a kernel without them
        data.madvise(mmap.MADV_HUGEPAGE)
    return memoryview(data)
