"""Large weight files in parts, as diffusers and transformers read them: numbered shards and an index."""

from __future__ import annotations

import json
from pathlib import Path, PurePosixPath, PureWindowsPath

from erase_plugins.artifacts.atomic import atomic_file
from erase_plugins.artifacts.strict_json import parse
from erase_plugins.artifacts.tensors import TensorFile, header_bytes
from erase_plugins.errors import CorruptArtifact, RequestError, Unsupported

_INDEX = "model_index.json"
#: key of a component's settings that says what it was loaded from
_PLACE = "_name_or_path"
#: what a diffusers folder needs beside its weights; nothing else of it is needed
_TEXTS = (".json", ".txt", ".model")
_PICKLES = (".bin", ".ckpt", ".pt", ".pth", ".pkl", ".msgpack", ".h5")


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


def chosen_files(folder: Path, shard_bytes: int) -> list[Path]:
    """The files of a diffusers folder that others need; large weights are split in place.

    Raises:
        Unsupported: a component has no safetensors weights but pickled ones.
    """
    index = parse((folder / _INDEX).read_text(encoding="utf-8"))
    found = [folder / _INDEX]
    for component in sorted(name for name in index if not name.startswith("_") and (folder / name).is_dir()):
        there = sorted(item for item in (folder / component).iterdir() if item.is_file())
        weights = [item for item in there if item.suffix == ".safetensors"]
        if not weights and any(item.suffix in _PICKLES for item in there):
            raise Unsupported(f"'{component}' has pickled weights only; save the model as safetensors first")
        found += [item for item in there if item.suffix in _TEXTS]
        _forget_places([item for item in there if item.suffix == ".json"])
        for item in weights:
            found += shard(item, shard_bytes)
    return found


def _forget_places(texts: list[Path]) -> None:
    """Takes out of settings where on somebody's disk a component was loaded from; nothing reads it."""
    for path in texts:
        try:
            data = parse(path.read_text(encoding="utf-8"))
        except (CorruptArtifact, ValueError):
            continue  # as it is; diffusers will say what is wrong with it
        place = data.get(_PLACE) if isinstance(data, dict) else None
        if isinstance(place, str) and (PurePosixPath(place).is_absolute() or PureWindowsPath(place).is_absolute()):
            rest = {key: value for key, value in data.items() if key != _PLACE}
            path.write_text(json.dumps(rest, indent=2, sort_keys=True) + "\n", encoding="utf-8")
