"""Large weight files in parts, as diffusers and transformers read them: numbered shards and an index."""

from __future__ import annotations

import json
from collections.abc import Collection
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
    parts = _parts(path, limit)
    if len(parts) < 2:
        return [path]
    file = TensorFile(path)
    stem, _, variant = path.name.removesuffix(".safetensors").partition(".")
    for place, names in parts.items():
        _write(file, names, place)
    index = path.with_name(f"{stem}.safetensors.index{f'.{variant}' if variant else ''}.json")
    facts = {
        "metadata": {"total_size": sum(entry.end - entry.begin for entry in file.header.tensors.values())},
        "weight_map": {name: place.name for place, names in parts.items() for name in names},
    }
    with atomic_file(index) as work:
        work.write_text(json.dumps(facts, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    path.unlink()
    return [*parts, index]


def _parts(path: Path, limit: int) -> dict[Path, list[str]]:
    """The files that a weight file becomes, with the names of their tensors; itself, without names, if small enough."""
    if limit < 1:
        raise RequestError(f"parts of {limit} bytes are not possible; give a positive size")
    groups = _groups(TensorFile(path), limit) if path.stat().st_size > limit else []
    if len(groups) < 2:
        return {path: []}
    base, count = path.name.removesuffix(".safetensors"), len(groups)
    names = (f"{base}-{number:05d}-of-{count:05d}.safetensors" for number in range(1, count + 1))
    return {path.with_name(name): group for name, group in zip(names, groups, strict=True)}


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
    found = [folder / _INDEX]
    for _, texts, weights in _components(folder):
        found += texts
        _forget_places([item for item in texts if item.suffix == ".json"])
        for item in weights:
            found += shard(item, shard_bytes)
    return found


def weight_names(folder: Path, components: Collection[str], shard_bytes: int) -> list[str]:
    """How `chosen_files` will call the weights of these components, relative to the folder; nothing is changed.

    Raises:
        Unsupported: a component, also another one, has no safetensors weights but pickled ones.
    """
    chosen = [item for component, _, weights in _components(folder) if component in components for item in weights]
    return [place.relative_to(folder).as_posix() for item in chosen for place in _parts(item, shard_bytes)]


def _components(folder: Path) -> list[tuple[str, list[Path], list[Path]]]:
    """Name, texts and weights of each component of a diffusers folder."""
    index = parse((folder / _INDEX).read_text(encoding="utf-8"))
    found = []
    for component in sorted(name for name in index if not name.startswith("_") and (folder / name).is_dir()):
        there = sorted(item for item in (folder / component).iterdir() if item.is_file())
        weights = [item for item in there if item.suffix == ".safetensors"]
        if not weights and any(item.suffix in _PICKLES for item in there):
            raise Unsupported(f"'{component}' has pickled weights only; save the model as safetensors first")
        found.append((component, [item for item in there if item.suffix in _TEXTS], weights))
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
