"""Large weight files in parts, as diffusers and transformers read them: numbered shards and an index."""

from __future__ import annotations

import json
from pathlib import Path

from erase_plugins.artifacts.atomic import atomic_file
from erase_plugins.artifacts.tensors import TensorFile, header_bytes
from erase_plugins.errors import RequestError


def shard(path: Path, limit: int) -> list[Path]:
    """Splits a safetensors file that is larger than ``limit``; one tensor is in memory at a time.

    Args:
        path: the file; it is removed once the parts are there.
        limit: most bytes of tensors in one part; a larger tensor gets a part of its own.

    Returns:
        The parts and their index, or the file itself if it is small enough.

    Raises:
        RequestError: ``limit`` is not positive.
        CorruptArtifact: not a sound safetensors file.
    """
    if limit < 1:
        raise RequestError(f"parts of {limit} bytes are not possible; give a positive size")
    if path.stat().st_size <= limit:
        return [path]
    file = TensorFile(path)
    groups = _groups(file, limit)
    if len(groups) < 2:
        return [path]
    stem, _, variant = path.name.removesuffix(".safetensors").partition(".")
    base = path.name.removesuffix(".safetensors")
    places = [
        path.with_name(f"{base}-{number:05d}-of-{len(groups):05d}.safetensors") for number in range(1, len(groups) + 1)
    ]
    for place, names in zip(places, groups, strict=True):
        _write(file, names, place)
    index = path.with_name(f"{stem}.safetensors.index{f'.{variant}' if variant else ''}.json")
    facts = {
        "metadata": {"total_size": sum(entry.end - entry.begin for entry in file.header.tensors.values())},
        "weight_map": {name: place.name for place, names in zip(places, groups, strict=True) for name in names},
    }
    with atomic_file(index) as work:
        work.write_text(json.dumps(facts, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    path.unlink()
    return [*places, index]


def _groups(file: TensorFile, limit: int) -> list[list[str]]:
    groups: list[list[str]] = [[]]
    room = limit
    for name, entry in sorted(file.header.tensors.items(), key=lambda item: (item[1].begin, item[1].end)):
        size = entry.end - entry.begin
        if groups[-1] and size > room:
            groups.append([])
            room = limit
        groups[-1].append(name)
        room -= size
    return groups


def _write(file: TensorFile, names: list[str], place: Path) -> None:
    header: dict[str, object] = {"__metadata__": dict(file.header.metadata)}
    position = 0
    for name in names:
        entry = file.header.tensors[name]
        size = entry.end - entry.begin
        header[name] = {
            "dtype": entry.dtype, "shape": list(entry.shape), "data_offsets": [position, position + size]
        }  # fmt: skip
        position += size
    with atomic_file(place) as work, work.open("wb") as goal:
        goal.write(header_bytes(header))
        for name in names:
            goal.write(file.raw(name))
