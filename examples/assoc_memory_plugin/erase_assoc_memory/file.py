"""One safetensors file holds a guard. What comes from a file is checked before it is used."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from erase_assoc_memory.coding import Coder
from erase_assoc_memory.guard import Guard
from erase_assoc_memory.learning import between
from erase_assoc_memory.memory import CliqueMemory
from erase_plugins.errors import CorruptArtifact, RequestError

HEADER = "erase_plugins.assoc_memory"
_MOST_BYTES = 300_000_000


def save_guard(guard: Guard, path: Path, counts: bool = True, names: bool = True) -> None:
    """Writes a guard, whole or not at all.

    Args:
        counts: keep what exact forgetting needs; leave it out of a published file.
        names: keep the table of names; without it the guard only says "known". Not encryption: whoever has the file can
            ask it for any concept.
    """
    memory = guard.memory
    tensors = {"assoc.w": np.packbits(memory.links, axis=1), "assoc.mean": guard.coder.mean}
    if guard.coder.common is not None:
        tensors["assoc.common"] = guard.coder.common
    if counts and memory.counts is not None:
        tensors["assoc.counts"] = memory.counts
    labels = sorted((label, np.frombuffer(key, np.uint16)) for key, label in guard.labels.items()) if names else []
    if labels:
        tensors["assoc.codes"] = np.stack([code for _, code in labels])
    header = {
        "schema": 1, "encoder": guard.encoder_id, "clusters": memory.clusters, "letters": memory.letters,
        "seed": guard.coder.seed, "tau": guard.tau, "clique_min": guard.clique_min, "density_max": memory.density_max,
        "labels": [label for label, _ in labels],
    }  # fmt: skip
    # one key only: the library writes several in an order of its own, and equal guards must give equal bytes
    data = save(tensors, {HEADER: json.dumps(header, sort_keys=True)})
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def load_guard(path: Path) -> Guard:
    """A verified guard.

    Raises:
        RequestError: no such file.
        CorruptArtifact: not a guard, or damaged: wrong shapes, connections inside a cluster or in one direction only,
            counts that do not agree with them.
    """
    if not path.is_file():
        raise RequestError(f"'{path.name}' is not there; 'guard add' makes it")
    if path.stat().st_size > _MOST_BYTES:
        raise CorruptArtifact(f"'{path.name}' has {path.stat().st_size} bytes; that is no guard")
    try:
        with safe_open(path, "numpy") as file:
            header = json.loads((file.metadata() or {})[HEADER])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dictionary
        return _build(header, tensors)
    except (SafetensorError, KeyError, ValueError, TypeError, AttributeError) as error:
        reason = str(error) if isinstance(error, RequestError) else "names, shapes or header do not fit"
        raise CorruptArtifact(f"'{path.name}' is no guard of this program, or is damaged: {reason}") from error


def _build(header: dict[str, Any], tensors: dict[str, Any]) -> Guard:
    if header["schema"] != 1:
        raise RequestError(f"schema {header['schema']} is newer than this version; update erase-plugins-assoc-memory")
    extra = set(tensors) - {"assoc.w", "assoc.mean", "assoc.common", "assoc.counts", "assoc.codes"}
    if extra:
        raise RequestError(f"unknown tensor {sorted(extra)[0][:40]}")
    counts = tensors.get("assoc.counts")
    memory = CliqueMemory(
        int(header["clusters"]), int(header["letters"]), counts is not None, float(header["density_max"])
    )
    units = memory.units
    packed = tensors["assoc.w"]
    if packed.dtype != np.uint8 or packed.shape != (units, (units + 7) // 8):
        raise RequestError(f"connections of shape {packed.shape}")
    bits = np.unpackbits(packed, axis=1).astype(bool)
    links = bits[:, :units].copy()
    if bits[:, units:].any() or (links != links.T).any() or links[~between(memory)].any():
        raise RequestError("connections are not symmetric, or lie inside a cluster")
    memory.links = links
    if counts is not None:
        if (
            counts.dtype != np.uint16
            or counts.shape != links.shape
            or ((counts > 0) != links).any()
            or (counts != counts.T).any()
        ):
            raise RequestError("counts and connections do not agree")
        memory.counts = counts.copy()
    mean, common = tensors["assoc.mean"], tensors.get("assoc.common")
    if mean.dtype != np.float32 or (
        common is not None and (common.dtype != np.float32 or not np.isfinite(common).all())
    ):
        raise RequestError("mean or common directions are not finite float32 rows")
    coder = Coder(
        mean.copy(), None if common is None else common.copy(), memory.clusters, memory.letters, int(header["seed"])
    )
    guard = Guard(str(header["encoder"]), coder, memory, float(header["tau"]), float(header["clique_min"]))
    labels, codes = header["labels"], tensors.get("assoc.codes", np.zeros((0, memory.clusters), np.uint16))
    if codes.dtype != np.uint16 or codes.shape != (len(labels), memory.clusters):
        raise RequestError("names and codes do not agree")
    for label, code in zip(labels, codes, strict=True):
        one, two = memory.edges(code.astype(np.int64))
        if not isinstance(label, str) or not links[one, two].all():
            raise RequestError("a named code is not stored")
        guard.labels[code.tobytes()] = label
    return guard
