"""What is said of an artifact folder without torch: manifest, hashes, headers, and whether values are numbers."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from erase_plugins.artifacts.header import Header, read_header
from erase_plugins.artifacts.links import is_inside
from erase_plugins.artifacts.manifest import FILENAME, ArtifactFile, Manifest
from erase_plugins.errors import ArtifactError, CorruptArtifact

#: what a manifest may have, in bytes and in files that it lists
MOST_MANIFEST_BYTES = 8_000_000
MOST_FILES = 100
#: the weights of a folder as peft writes it
ADAPTER = "adapter_model.safetensors"
#: floating point type -> what holds its bits, and the bits of the exponent, which are all ones in NaN and infinity
_EXPONENTS = {
    "F64": ("<u8", 0x7FF << 52), "F32": ("<u4", 0xFF << 23), "F16": ("<u2", 0x1F << 10), "BF16": ("<u2", 0xFF << 7),
    "F8_E5M2": ("<u1", 0x1F << 2), "F8_E4M3": ("<u1", 0x7F),
}  # fmt: skip
_PART = 16 << 20


def check_folder(folder: Path, layouts: Mapping[str, Any]) -> Manifest:
    """The manifest of a folder whose files are those it lists, whole, named as their layouts name them, and finite.

    Whether the shapes of a change agree is looked at when it is loaded.

    Args:
        folder: with a manifest.
        layouts: the registered ones, by id.

    Raises:
        CorruptArtifact: names the file and what does not fit.
    """
    with named(folder):
        manifest = read_manifest(folder / FILENAME)
        essential = set(manifest.essential)
        for item in manifest.files:
            if item not in essential and not os.path.lexists(folder / item.name):
                continue
            verify_file(folder, item)
            if not item.name.endswith(".safetensors"):
                continue
            header, layout = read_header(folder / item.name), layouts.get(item.layout)
            if layout is not None and not layout.sniff(list(header.tensors), header.metadata):
                raise CorruptArtifact(f"{item.name} is not in layout {item.layout}, as the manifest says")
            check_values(folder / item.name, header)
        if len(essential) > 1:
            refuse_unlisted(folder, manifest)
    return manifest


@contextmanager
def named(folder: Path) -> Iterator[None]:
    """Names the artifact in front of what is found damaged in its folder: files have equal names in all of them."""
    try:
        yield
    except CorruptArtifact as error:
        raise CorruptArtifact(f"'{folder.resolve().name}': ", error) from error


def glance(place: Path) -> None:
    """Refuses a folder or file that is seen to be no whole artifact without a look at its weights.

    Raises:
        ArtifactError: as for `stated`; `CorruptArtifact` for a damaged header, or a file that is missing or too short.
    """
    if place.is_file():
        read_header(place)
        return
    with named(place):
        manifest = stated(place)
        if manifest is None:
            read_header(place / ADAPTER)
            return
        for item in manifest.essential:
            check_size(place, item)


def stated(folder: Path) -> Manifest | None:
    """The manifest of an artifact folder; None for one as peft writes it.

    Raises:
        ArtifactError: neither; `CorruptArtifact` for a damaged manifest.
    """
    path = folder / FILENAME
    if path.is_file():
        return read_manifest(path)
    if (folder / ADAPTER).is_file():
        return None
    name = folder.resolve().name  # also of "."
    raise ArtifactError(f"'{name}' has no {FILENAME}; not an artifact folder (give the file itself instead)")


def check_values(path: Path, header: Header) -> None:
    """Refuses a file with NaN or infinity in it.

    Raises:
        CorruptArtifact: names the tensor.
    """
    import numpy

    with path.open("rb") as file:
        for name, entry in header.tensors.items():
            if entry.dtype not in _EXPONENTS:
                continue
            kind, ones = _EXPONENTS[entry.dtype]
            file.seek(header.start + entry.begin)
            left = entry.end - entry.begin
            while left > 0 and (part := file.read(min(left, _PART))):
                left -= len(part)
                bits = numpy.frombuffer(part, dtype=kind)
                if ((bits & numpy.array(ones, dtype=kind)) == ones).any():
                    raise CorruptArtifact(f"damaged values: {path.name}: {name[:120]} holds NaN or infinity")


def file_hash(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_manifest(path: Path) -> Manifest:
    """The manifest in a file, if it is of a reasonable size.

    Raises:
        CorruptArtifact: damaged, too large, or it lists no file or too many.
    """
    try:
        if path.stat().st_size > MOST_MANIFEST_BYTES:
            raise CorruptArtifact(f"{FILENAME} has {path.stat().st_size} bytes; not a manifest")
        manifest = Manifest.from_json(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, OSError) as error:
        raise CorruptArtifact(f"{FILENAME} is not readable UTF-8 text; fetch the artifact again") from error
    if not (manifest.files or manifest.changes_nothing) or len(manifest.files) > MOST_FILES:
        raise CorruptArtifact(f"{FILENAME} lists {len(manifest.files)} files")
    return manifest


def refuse_unlisted(folder: Path, manifest: Manifest) -> None:
    """Layouts of several files read what they find there, so nothing may be there that was not verified."""
    listed = {item.name for item in manifest.files}
    for path in (*folder.glob("*/*"), *folder.glob("adapter_*")):
        name = path.relative_to(folder).as_posix()
        if name not in listed:
            raise CorruptArtifact(f"{ascii(name)[:80]} is in the artifact folder but not in its manifest")


def verify_file(folder: Path, item: ArtifactFile) -> None:
    """Presence, size and SHA-256 of one file.

    Raises:
        CorruptArtifact: names the file and what differs.
    """
    check_size(folder, item)
    if file_hash(folder / item.name) != item.sha256:
        raise CorruptArtifact(f"{item.name} does not match its SHA-256; fetch the artifact again")


def check_size(folder: Path, item: ArtifactFile) -> None:
    """Presence and size of one file.

    Raises:
        CorruptArtifact: names the file and what differs.
    """
    path = folder / item.name
    if not is_inside(path, folder):
        raise CorruptArtifact(f"{item.name} is a link that leaves the artifact folder")
    if not path.is_file():
        raise CorruptArtifact(f"{item.name} is missing; fetch the artifact again")
    if path.stat().st_size != item.bytes:
        raise CorruptArtifact(
            f"{item.name} has {path.stat().st_size} bytes, the manifest says {item.bytes}; fetch the artifact again"
        )
