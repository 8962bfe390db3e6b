"""Checks of the files alone. Lenient on purpose: a file that the readers refuse must still be explained."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from erase_plugins.artifacts.header import Header, read_header
from erase_plugins.artifacts.manifest import FILENAME, HEADER_KEY, Manifest
from erase_plugins.diagnose.findings import Finding
from erase_plugins.errors import EraseError, RequestError
from erase_plugins.hints import Command, Hint, Sentence

STATISTICS = "statistics|"
_PAIR = re.compile(
    r"^(?P<module>.+?)[._](?:lora_(?P<new>down|up|A|B)(?:\.[A-Za-z0-9_]+)?|lora(?:_linear_layer)?\.(?P<old>down|up))\.weight$"
)
_HALF = {"down": "down", "A": "down", "up": "up", "B": "up"}
_GOOD = {"F32", "F16", "BF16"}
_REFETCH = "fetch the artifact again, or make it again with the command in its manifest"


@dataclass
class RawFile:
    """One safetensors file: header, our manifest in it, and which halves of LoRA pairs each module has."""

    path: Path
    header: Header
    manifest: dict[str, Any] = field(default_factory=dict)

    @property
    def pairs(self) -> dict[str, dict[str, tuple[str, tuple[int, ...]]]]:
        """Module -> half (down, up) -> (dtype, shape); empty for files that are no LoRA."""
        found: dict[str, dict[str, tuple[str, tuple[int, ...]]]] = {}
        for name, entry in self.header.tensors.items():
            match = _PAIR.match(name)
            if match:
                half = _HALF[match["new"] or match["old"]]
                found.setdefault(match["module"], {})[half] = (entry.dtype, entry.shape)
        return found

    @property
    def padding(self) -> frozenset[str]:
        """Modules that hold zeros for the sake of loaders."""
        try:
            return frozenset(json.loads(self.header.metadata.get("erase_plugins.padding", "[]")))
        except (TypeError, ValueError):
            return frozenset()


def open_raw(place: Path) -> tuple[list[RawFile], dict[str, Any]]:
    """All weight files of an artifact and its manifest as plain data, unverified.

    Raises:
        RequestError: nothing to look at.
        CorruptArtifact: a file is no safetensors file.
    """
    manifest = _json(place / FILENAME) if place.is_dir() else {}
    paths = sorted(place.rglob("*.safetensors")) if place.is_dir() else [place]
    if not paths:
        raise RequestError(f"'{place.name}' holds no .safetensors file; give an artifact folder or a LoRA file")
    files = []
    for path in paths:
        header = read_header(path)
        try:
            own = json.loads(header.metadata.get(HEADER_KEY, "{}"))
        except (ValueError, RecursionError):
            own = {}
        files.append(RawFile(path, header, own if isinstance(own, dict) else {}))
    return files, manifest or next((file.manifest for file in files if file.manifest), {})


def _json(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return data if isinstance(data, dict) else {}


def check_files(place: Path, files: list[RawFile], manifest: Mapping[str, Any]) -> Iterator[Finding]:
    """Schema, finite values, dtypes, missing keys, alpha, hashes."""
    yield _schema(manifest)
    yield from _finite(files)
    yield from _dtypes(files)
    yield from _keys(files)
    yield from _alphas(files)
    yield _hashes(place, manifest)


def _schema(manifest: Mapping[str, Any]) -> Finding:
    if not manifest:
        return Finding("schema", "unknown", "the file carries no manifest of ours; what it erases is not recorded")
    found = manifest.get("schema")
    if found == Manifest.schema:
        return Finding("schema", "ok", f"manifest schema {found}")
    if isinstance(found, int) and found > Manifest.schema:
        text = f"the manifest has schema {found}, newer than this version reads ({Manifest.schema})"
        return Finding("schema", "fault", text, "update erase-plugins from where you got it")
    text = f"the artifact was written in an old schema ({found}), the current one is {Manifest.schema}"
    anew = Command("convert", "erase-plugins convert ARTIFACT --layout patch --out NEW")
    return Finding("schema", "fault", text, Sentence(anew, ", or run the method again"))


def _finite(files: list[RawFile]) -> Iterator[Finding]:
    import torch
    from safetensors import safe_open

    bad = []
    for file in files:
        with safe_open(str(file.path), framework="pt") as opened:
            for name in opened.keys():  # noqa: SIM118 - not a mapping
                tensor = opened.get_tensor(name)
                if tensor.is_floating_point() and not bool(torch.isfinite(tensor.float()).all()):
                    bad.append(f"{file.path.name}: {name}")
    if bad:
        text = f"{len(bad)} tensors hold NaN or infinity, first {bad[0]}"
        fix = Sentence("run the method again, with ", Hint("dtype", "float32"), " and a lower learning rate")
        yield Finding("finite", "fault", text, fix)
    else:
        yield Finding("finite", "ok", "all stored values are finite")


def _dtypes(files: list[RawFile]) -> Iterator[Finding]:
    odd: list[str] = []
    for file in files:
        kinds = {entry.dtype for name, entry in file.header.tensors.items() if _is_factor(name)}
        wrong = sorted(kinds - _GOOD)
        if wrong:
            odd.append(f"{file.path.name} stores {', '.join(wrong)}")
        elif len(kinds) > 1:
            odd.append(f"{file.path.name} mixes {', '.join(sorted(kinds))}")
        elif kinds & {"F16", "BF16"} and _recast(file):
            odd.append(f"{file.path.name} was cast to {', '.join(kinds)} by another program")
    if odd:
        small = Command("convert", "'erase-plugins convert ARTIFACT --layout kohya --file-dtype float16'")
        fix = Sentence("use the file as written, or ", small)
        yield Finding("dtype", "fault", f"wrong number format: {'; '.join(odd)}", fix)
    else:
        yield Finding("dtype", "ok", "number formats as written")


def _recast(file: RawFile) -> bool:
    """Whether the tensors are others than those that the writer hashed into the header."""
    from safetensors.torch import load_file

    from erase_plugins.artifacts.tensors import tensor_hash

    stated = file.header.metadata.get("sshs_model_hash")
    return bool(file.manifest) and stated is not None and tensor_hash(load_file(file.path)) != stated


def _is_factor(name: str) -> bool:
    return not name.startswith(STATISTICS) and not name.endswith((".alpha", "|index", "position_ids"))


def _keys(files: list[RawFile]) -> Iterator[Finding]:
    faults, counts = [], []
    for file in files:
        pairs = {name: halves for name, halves in file.pairs.items() if name not in file.padding}
        half = sorted(name for name, halves in pairs.items() if len(halves) < 2)
        wanted = file.manifest.get("modules")
        if half:
            faults.append(
                f"{file.path.name}: {len(half)} of {len(pairs)} modules lack their other factor, first {half[0]}"
            )
        elif pairs and isinstance(wanted, int) and len(pairs) < wanted:
            faults.append(f"{file.path.name} holds {len(pairs)} of {wanted} modules")
        elif pairs:
            counts.append(f"{len(pairs)} modules in {file.path.name}")
    if faults:
        yield Finding("keys", "fault", f"keys are missing: {'; '.join(faults)}", _REFETCH)
    else:
        yield Finding("keys", "ok", "; ".join(counts) or "no LoRA file in it")


def _alphas(files: list[RawFile]) -> Iterator[Finding]:
    faults = [text for file in files for text in _alpha_problems(file)]
    if faults:
        anew = Command("convert", "erase-plugins convert ARTIFACT --layout kohya")
        fix = Sentence("use the original file, or write a new one: ", anew)
        yield Finding("alpha", "fault", f"the scale (alpha) is lost or changed: {'; '.join(faults)}", fix)
    else:
        yield Finding("alpha", "ok", "the scale of the factors is consistent")


def _alpha_problems(file: RawFile) -> Iterator[str]:
    pairs, meta, name = file.pairs, file.header.metadata, file.path.name
    if not pairs:
        return
    alphas = {key.removesuffix(".alpha") for key in file.header.tensors if key.endswith(".alpha")}
    if any(module.startswith("lora_") for module in pairs):
        yield from _kohya_alpha(file, alphas)
    elif file.path.name == "adapter_model.safetensors":
        config = _json(file.path.with_name("adapter_config.json"))
        if not isinstance(config.get("lora_alpha"), int | float):
            yield f"{name} has no lora_alpha in adapter_config.json"
    elif file.manifest:
        config = _parse(meta.get("lora_adapter_metadata"))
        scales = {key: config[key] for key in config if key.endswith(".lora_alpha")}
        if not scales:
            yield f"{name} has lost its lora_adapter_metadata"
        for key, alpha in scales.items():
            rank = config.get(key.replace("lora_alpha", "r"))
            if alpha != rank:
                yield f"{name}: alpha {alpha} at rank {rank}, it was written with alpha = rank"


def _kohya_alpha(file: RawFile, alphas: set[str]) -> Iterator[str]:
    from safetensors import safe_open

    pairs, meta, name = file.pairs, file.header.metadata, file.path.name
    if alphas and set(pairs) - alphas:
        yield f"{name}: {len(set(pairs) - alphas)} of {len(pairs)} modules have no alpha"
    elif not alphas and not file.manifest:
        stated, rank = meta.get("ss_network_alpha"), meta.get("ss_network_dim")
        if stated is None:
            yield f"{name} has no alpha, neither per module nor in its metadata; loaders then guess the scale"
        elif stated != rank and _number(stated) != _number(rank):
            yield f"{name} was trained with alpha {stated} at rank {rank}, but holds no alpha: wrong strength"
    elif alphas and file.manifest:
        with safe_open(str(file.path), framework="pt") as opened:
            for module in sorted(alphas & set(pairs)):
                size = pairs[module].get("down", ("", (0,)))[1][0]
                alpha = float(opened.get_tensor(f"{module}.alpha").float().reshape(-1)[0])
                if size and alpha != size:
                    yield f"{name}: alpha {alpha:g} at rank {size} makes it {alpha / size:.2g} times as strong"
                    return


def _parse(text: str | None) -> dict[str, Any]:
    try:
        data = json.loads(text or "{}")
    except (ValueError, RecursionError):
        return {}
    return data if isinstance(data, dict) else {}


def _number(text: str | None) -> float | None:
    try:
        return float(text) if text is not None else None
    except ValueError:
        return None


def _hashes(place: Path, manifest: Mapping[str, Any]) -> Finding:
    from erase_plugins.workflow.artifacts import load_artifact

    try:
        load_artifact(place)
    except EraseError as error:
        return Finding("files", "fault", Sentence("the artifact does not pass verification: ", error), _REFETCH)
    return Finding("files", "ok", "files are complete and unchanged" if manifest else "the file is readable")
