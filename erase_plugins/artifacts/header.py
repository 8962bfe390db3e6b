"""Reads a safetensors header without opening the data, and refuses files that are not what they claim."""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from erase_plugins.artifacts.strict_json import parse
from erase_plugins.errors import CorruptArtifact

_LONGEST_NAME = 500
#: the Hub client refuses larger headers; a real one stays below 100 kB
MAX_HEADER_BYTES = 25_000_000
ITEM_BYTES = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E5M2": 1, "F8_E4M3": 1, "I16": 2, "U16": 2, "F16": 2, "BF16": 2,
    "I32": 4, "U32": 4, "F32": 4, "I64": 8, "U64": 8, "F64": 8,
}  # fmt: skip


@dataclass(frozen=True)
class Entry:
    """Type, shape and byte range of one tensor."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


@dataclass(frozen=True)
class Header:
    """Tensor entries by name, the string metadata, and where the data part starts."""

    tensors: Mapping[str, Entry]
    metadata: Mapping[str, str]
    start: int = 0


def read_header(path: Path) -> Header:
    """The header of a safetensors file, fully checked against the file's size.

    Raises:
        CorruptArtifact: truncated, oversized, overlapping, not JSON, wrong byte counts, or not safetensors at all.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            first = file.read(8)
            if len(first) < 8:
                raise CorruptArtifact(f"{path.name}: {len(first)} bytes long, not a safetensors file; fetch it again")
            (length,) = struct.unpack("<Q", first)
            if length > MAX_HEADER_BYTES or length > size - 8:
                if first[:2] in (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05", b"PK"):
                    raise CorruptArtifact(
                        f"{path.name}: a pickle or zip file (torch.save), not opened, since it can run code; get it as "
                        ".safetensors, or write one: torch.load(FILE, weights_only=True), safetensors.torch.save_file"
                    )
                what = "not a safetensors file, or damaged or truncated"
                raise CorruptArtifact(f"{path.name}: the header claims {length} bytes of {size}; {what}, not opened")
            raw = file.read(length)
    except OSError as error:
        raise CorruptArtifact(f"{path.name}: cannot be read ({error.strerror})") from error
    try:
        data = parse(raw.decode("utf-8"))
    except (UnicodeDecodeError, ValueError, RecursionError) as error:
        raise CorruptArtifact(f"{path.name}: the header is not JSON; not a safetensors file") from error
    if not isinstance(data, dict):
        raise CorruptArtifact(f"{path.name}: the header is not a JSON object")
    odd = next((name for name in data if len(name) > _LONGEST_NAME or not name.isprintable()), None)
    if odd is not None:
        raise CorruptArtifact(f"{path.name}: a tensor has an unusable name ({ascii(odd)[:60]})")
    metadata = data.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise CorruptArtifact(f"{path.name}: header metadata must map strings to strings")
    try:
        "".join((*metadata, *metadata.values())).encode()
    except UnicodeEncodeError as error:
        raise CorruptArtifact(f"{path.name}: header metadata is not valid text") from error
    tensors = {name: _entry(path, name, entry) for name, entry in data.items()}
    _check_layout(path, tensors, size - 8 - length)
    return Header(tensors, metadata, 8 + length)


def _entry(path: Path, name: str, entry: object) -> Entry:
    try:
        fields = dict(entry)  # type: ignore[call-overload]
        shape, dtype = fields["shape"], fields["dtype"]
        begin, end = fields["data_offsets"]
        good = (
            isinstance(shape, list)
            and all(type(size) is int and 0 <= size < 2**40 for size in shape)
            and type(begin) is int
            and type(end) is int
            and 0 <= begin <= end
            and end - begin == math.prod(shape) * ITEM_BYTES[dtype]
        )
    except (KeyError, TypeError, ValueError):
        good = False
    if not good:
        raise CorruptArtifact(f"{path.name}: tensor '{name[:80]}' has a damaged header entry")
    return Entry(dtype, tuple(shape), begin, end)


def _check_layout(path: Path, tensors: Mapping[str, Entry], size: int) -> None:
    position = 0
    for entry in sorted(tensors.values(), key=lambda item: (item.begin, item.end)):
        if entry.begin != position:
            raise CorruptArtifact(f"{path.name}: tensors overlap or leave gaps")
        position = entry.end
    if position != size:
        raise CorruptArtifact(
            f"{path.name}: tensors take {position} bytes, the file has {size}; truncated download? fetch it again"
        )
