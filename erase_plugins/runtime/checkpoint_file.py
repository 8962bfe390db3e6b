"""A new full checkpoint with an edit fused in: same files, names, dtypes and metadata, only planned weights differ."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from erase_plugins.artifacts.artifact import Artifact
from erase_plugins.artifacts.atomic import atomic_file, atomic_folder
from erase_plugins.artifacts.checkpoint_names import Slot, find_slots, folder_slots, projections
from erase_plugins.artifacts.edit import CONTEXT, Delta, Edit
from erase_plugins.artifacts.locks import claim
from erase_plugins.artifacts.lowrank import lower
from erase_plugins.artifacts.places import FILE
from erase_plugins.artifacts.tensors import TensorFile, all_finite, header_bytes, tensor_bytes, write_whole
from erase_plugins.errors import BaseMismatch, RequestError, Unsupported
from erase_plugins.hints import ANOTHER_OUT, ANY_BASE, Sentence
from erase_plugins.runtime.fused import refuse_fused

#: header key of a fused file
FUSED_KEY = "erase_plugins.fused"
#: kind of the folders that are written
CHECKPOINT = "checkpoint"
#: endings of copies of weights for other programs and formats
_COPIES = frozenset(
    (".bin", ".ckpt", ".pt", ".pth", ".msgpack", ".h5", ".onnx", ".onnx_data", ".xml", ".pb", ".tflite")
)


@dataclass(frozen=True)
class Fused:
    """What was written.

    Attributes:
        path: the new checkpoint.
        modules: number of changed parameters; all of the edit's.
        files: files that differ from the source, relative to ``path`` for folders.
        left_out: other copies of changed components and of the whole model, which would have been stale.
    """

    path: Path
    modules: int
    files: tuple[str, ...]
    left_out: tuple[str, ...] = ()


def fuse_checkpoint(
    artifact: Artifact,
    family: Any,
    source: str | Path,
    out: str | Path,
    strength: float = 1.0,
    *,
    target: Any = None,
    configs: Mapping[str, Mapping[str, Any]] | None = None,
    any_base: bool = False,
    force: bool = False,
) -> Fused:
    """Writes ``source`` with the edit in its weights. Computed in float32, cast once to the stored dtype.

    Args:
        artifact: what to fuse.
        family: that it is for.
        source: diffusers folder or single-file ``.safetensors`` checkpoint; it is not changed.
        out: new folder or file.
        strength: of the edit; 0 copies every tensor bit for bit.
        target: the loaded base, to check its fingerprint against the artifact; the files themselves are checked anyway.
        configs: component configurations of a single file whose block layout is not the published one.
        any_base: allow other weights of the same architecture (a fine-tune).
        force: replace an earlier ``out``, never what somebody else wrote.

    Raises:
        BaseMismatch: another base, or not every module of the edit is in the files; nothing was written.
        Unsupported: added modules, pickled weights, or weights in a quantised dtype.
    """
    from erase_plugins.runtime.guard import check_base

    place, new = Path(source), Path(out)
    if not isinstance(strength, int | float) or strength != strength or abs(strength) > 100:
        raise RequestError(f"strength {strength!r} is not a usable number; 1 is the evaluated edit")
    if new.resolve() == place.resolve():
        raise RequestError("the fused checkpoint must not replace its source; choose ", ANOTHER_OUT)
    if "addon" in artifact.edit.kinds:
        raise Unsupported("this edit adds modules; it cannot be fused into a checkpoint, only applied")
    if place.is_dir() and new.resolve().is_relative_to(place.resolve()):
        raise RequestError("the fused checkpoint must not be written into its source; choose ", ANOTHER_OUT)
    if target is not None:
        check_base(artifact.manifest, target, any_base, artifact.edit)
    if place.is_dir():
        with claim(new, force, CHECKPOINT):
            return _fuse_folder(artifact, family, place, new, strength, any_base, force)
    if not place.is_file():
        raise RequestError(f"no checkpoint at '{place.name}'; give a diffusers folder or a .safetensors file")
    if place.suffix != ".safetensors":
        raise Unsupported(
            f"'{place.name}' is not a safetensors file; pickled checkpoints are not opened, convert it first"
        )
    with claim(new, force, FILE):
        return _fuse_file(artifact, family, place, new, strength, configs, any_base, force)


def _fuse_file(
    artifact: Artifact, family: Any, place: Path, new: Path, strength: float, configs: Any, any_base: bool, force: bool
) -> Fused:
    file = TensorFile(place)
    main = family.denoiser
    config = (configs or {}).get(main)
    check_files(artifact, {main: find_slots(file, family, config, main)}, any_base)
    slots = {name: find_slots(file, family, config, name) for name in family.components}
    edit = _lowered(artifact.edit, slots)
    changes = _changes(edit, slots, strength)
    with atomic_file(new, force) as work:
        rewrite(file, work, changes, _stamp(artifact, strength))
    return Fused(new, len(edit), (new.name,))


def _fuse_folder(
    artifact: Artifact, family: Any, place: Path, new: Path, strength: float, any_base: bool, force: bool
) -> Fused:
    if not (place / "model_index.json").is_file():
        if (place / "config.json").is_file():
            raise Unsupported(
                f"'{place.name}' is a folder of transformers, whose files have other names than the loaded model; in "
                "Python: model = erase_plugins.load(folder); erase_plugins.apply(model, artifact).fuse(); "
                "model.save_pretrained(out)"
            )
        raise RequestError(f"'{place.name}' has no model_index.json; give a diffusers model folder")
    files = {
        component: [TensorFile(path) for path in sorted((place / component).glob("*.safetensors"))]
        for component in family.components
    }
    slots = {component: folder_slots(component, opened) for component, opened in files.items()}
    edit = _lowered(artifact.edit, slots)
    missing = sorted(component for component in edit.deltas if not files.get(component))
    if missing:
        raise Unsupported(f"'{place.name}/{missing[0]}' has no safetensors weights; pickled ones are not opened")
    check_files(artifact, slots, any_base)
    changes = _changes(edit, slots, strength)
    touched = {path for path, _ in changes}
    stale = {item for component in edit.deltas for item in (place / component).rglob("*") if item.suffix in _COPIES}
    # published repositories often have the whole model in one file beside its parts
    stale |= {item for item in place.iterdir() if item.is_file() and item.suffix in _COPIES | {".safetensors"}}
    with atomic_folder(new, force, CHECKPOINT) as work:
        for item in sorted(place.rglob("*")):
            goal = work / item.relative_to(place)
            if item.is_dir():
                goal.mkdir(exist_ok=True)
            elif item in touched:
                opened = next(file for group in files.values() for file in group if file.path == item)
                goal.parent.mkdir(parents=True, exist_ok=True)
                rewrite(opened, goal, changes, _stamp(artifact, strength))
            elif item.is_file() and item not in stale:
                goal.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(item, goal)
    names = tuple(sorted(path.relative_to(place).as_posix() for path in touched))
    return Fused(new, len(edit), names, tuple(sorted(item.relative_to(place).as_posix() for item in stale)))


def _stamp(artifact: Artifact, strength: float) -> dict[str, str]:
    manifest = artifact.manifest
    facts = {
        "name": manifest.name, "method": dict(manifest.method), "erased": list(manifest.erased), "strength": strength,
        "base": {key: manifest.base.get(key) for key in ("model", "revision", "family")}, "created": manifest.created,
    }  # fmt: skip
    return {FUSED_KEY: json.dumps(facts, sort_keys=True, separators=(",", ":"))}


def _lowered(edit: Edit, slots: Mapping[str, Mapping[str, list[Slot]]]) -> Edit:
    return lower(
        edit,
        {component: projections(group) for component, group in slots.items()},
        lambda component, name: slots[component][name][0].read().float(),
    )


def check_files(artifact: Artifact, slots: Mapping[str, Mapping[str, list[Slot]]], any_base: bool) -> None:
    """Compares the stored fingerprint with the files, for every component whose names are known.

    Raises:
        BaseMismatch: other weights (unless ``any_base``) or another architecture.
    """
    from erase_plugins.artifacts.fingerprint import Fingerprint, fingerprint_of

    stored: Mapping[str, Any] = artifact.manifest.base.get("fingerprint") or {}
    for component, group in slots.items():
        changed = artifact.edit.deltas.get(component, {})
        if component in stored and group and changed:
            expected = Fingerprint.from_dict(stored[component])
            names = {*changed, *(projections(group) if CONTEXT in changed else ())}
            facts = {name: (found[0].shape, found[0].middle()) for name, found in group.items()}
            live = fingerprint_of(facts)
            refuse_fused(artifact, component, live, {name: group[name][0].read for name in projections(group)})
            result = expected.compare(live, names)
            if result.verdict == "same" or (result.verdict == "weights" and any_base):
                continue
            hint = Sentence("; ", ANY_BASE, " to use it on a fine-tune") if result.verdict == "weights" else ""
            made_for = artifact.manifest.base.get("model", "unknown")
            raise BaseMismatch(
                f"'{artifact.name}' was made for {made_for}, the {component} in these files has {result}; "
                "nothing was written",
                hint,
            )


Change = Callable[[Tensor], Tensor]


def _changes(
    edit: Edit, slots: Mapping[str, Mapping[str, list[Slot]]], strength: float
) -> dict[tuple[Path, str], list[Change]]:
    """(file, tensor name) -> what to do with it; every module of the edit or an error."""
    from erase_plugins.runtime.guard import shape_problem

    changes: dict[tuple[Path, str], list[Change]] = {}
    done, first = 0, ""
    for component, key, delta in edit.items():
        found = slots.get(component, {}).get(key, [])
        problem = next((text for slot in found if (text := shape_problem(delta, torch.Size(slot.shape)))), "")
        if not found or problem:
            first = first or f"{component} {key}: {problem or 'not in these files'}"
            continue
        done += 1
        for slot in found:
            if slot.dtype not in ("F64", "F32", "F16", "BF16"):
                raise Unsupported(f"{slot.name} is stored as {slot.dtype}; fuse before quantising")
            if strength != 0.0:
                changes.setdefault((slot.file.path, slot.name), []).append(_adder(delta, slot, strength))
    if done < len(edit):
        raise BaseMismatch(f"patched {done} of {len(edit)} modules: {first}; nothing was written")
    return changes


def _adder(delta: Delta, slot: Slot, strength: float) -> Change:
    from erase_plugins.runtime.patcher import delta_tensor

    def add(weight: Tensor) -> Tensor:
        change = delta_tensor(delta, torch.Size(slot.shape))
        part = weight if slot.rows is None else weight[slot.rows[0] : slot.rows[1]]
        part += strength * change
        return weight

    return add


def rewrite(
    file: TensorFile, new: Path, changes: Mapping[tuple[Path, str], list[Change]], stamp: Mapping[str, str]
) -> None:
    """Copies a safetensors file with some tensors changed, one at a time; order, dtypes and metadata are kept."""
    entries = sorted(file.header.tensors.items(), key=lambda item: (item[1].begin, item[1].end))
    header: dict[str, object] = {"__metadata__": {**file.header.metadata, **stamp}}
    for name, entry in entries:
        header[name] = {"dtype": entry.dtype, "shape": list(entry.shape), "data_offsets": [entry.begin, entry.end]}
    copied = 0
    with new.open("wb", buffering=0) as goal:
        write_whole(goal, header_bytes(header, like=file.start))
        for name, entry in entries:
            found = changes.get((file.path, name), [])
            if found and entry.end > entry.begin:
                file.copy_to(goal, copied, entry.begin)  # what lies between two changed tensors, at once
                write_whole(goal, _content(file, name, found))
                copied = entry.end
        file.copy_to(goal, copied, max((entry.end for _, entry in entries), default=0))


def _content(file: TensorFile, name: str, changes: list[Change]) -> bytes:
    stored = file.get(name)
    wide = stored.to(torch.float32) if stored.dtype != torch.float64 else stored
    for change in changes:
        wide = change(wide)
    written = wide.to(stored.dtype)
    if not all_finite(written):
        raise Unsupported(f"{name} does not fit into {stored.dtype} after the change; lower the strength")
    return tensor_bytes(written)
