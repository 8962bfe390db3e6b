"""Artifacts by name, from wherever they may be, and whether they fit the connected model."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from erase_plugins.errors import ArtifactError, EraseError

from . import files, host, hub, moving
from .wording import refusal

#: what names a repository on the Hub begins with
HUB = "hub:"


@dataclass(frozen=True)
class Opened:
    """An artifact, the name that finds exactly this one again, and where it came from if that has to be told."""

    artifact: Any
    name: str
    note: str = ""


def open_artifact(name: str) -> Opened:
    """A verified artifact.

    Args:
        name: entry of ``models/erase_plugins``, a file of ``models/loras``, or a reference ("hub:owner/name@revision").

    Raises:
        ArtifactError: not there (with the nearest name), or it does not pass verification.
        HubError: see `hub.pulled`.
    """
    import erase_plugins as ep
    from erase_plugins.artifacts.reference import is_reference

    if name.startswith(HUB) and is_reference(name):
        found = hub.pulled(name)
        return Opened(found.artifact, HUB + found.reference, found.note)
    return Opened(ep.load_artifact(name if is_reference(name) else place_of(name)), name)


def place_of(name: str) -> Path:
    """Where an entry of ``models/erase_plugins`` or a file of ``models/loras`` lies.

    Raises:
        ArtifactError: in neither (with the nearest name), or outside of them.
    """
    return files.placed(name) or host.lora_path(name) or files.find(name, host.lora_names)  # the last one says why not


def choices() -> list[str]:
    """Entries of the load node: the model folder, and files of ``models/loras`` whose header says what they erase."""
    try:
        names = host.lora_names()
    except Exception:  # asked for outside ComfyUI, or the folders cannot be read: the widget must not fail
        names = []
    own = [name for name in names if name.endswith(".safetensors") and _is_ours(host.lora_path(name))]
    listed = files.listing()
    return sorted({*own, *listed} - ({files.NOTHING} if own else set()))


def problem(name: str) -> str | None:
    """Why a name cannot be opened, as far as that is seen without reading weights; None if it can, or if nothing was
    there to choose from. Told before the queue takes a graph: an error in a running node costs what comes after it."""
    from erase_plugins.artifacts.verify import glance

    return None if name == files.NOTHING else refusal(lambda: glance(place_of(name)))


def is_here(name: str) -> bool:
    """Whether a name is one of the model folders, whatever is in it."""
    try:
        return bool(place_of(name))
    except ArtifactError:
        return False


def referred(text: str) -> str:
    """The reference that a person wrote. What is no name here and looks like owner/name, or like the address of a page,
    is on the Hub; "" for nothing."""
    from erase_plugins.artifacts.reference import is_reference

    text = text.strip()
    page = text.startswith("https://")
    owner = text.count("/") == 1 and not text.startswith((".", "/", "~"))  # those are places, which nobody is called
    if page or (owner and not is_reference(text) and not is_here(text)):
        return HUB + text
    return text


def state(name: str) -> str:
    """Changes when the files behind a name change, or the commit that a reference names."""
    from erase_plugins.artifacts.reference import is_reference

    if is_reference(name):
        return moving.state(name) if name.startswith(HUB) else name
    lora = host.lora_path(name) if name not in files.listing() else None
    return files.state(name) if lora is None else _stamp(lora)


def _stamp(path: Path) -> str:
    found = path.stat()
    return f"{path}:{found.st_mtime_ns}:{found.st_size}"


def _is_ours(path: Path | None) -> bool:
    try:
        return path is not None and _header_is_ours(path, _stamp(path))
    except OSError:
        return False


@lru_cache(maxsize=4096)
def _header_is_ours(path: Path, _stamp: str) -> bool:
    """Reads the header only, again when the file changed."""
    from erase_plugins.artifacts.header import read_header
    from erase_plugins.artifacts.manifest import HEADER_KEY

    try:
        return HEADER_KEY in read_header(path).metadata
    except (EraseError, OSError):
        return False


def check_fits(artifact: Any, target: Any, any_base: bool) -> tuple[str, ...]:
    """Refuses an artifact that was made for another model.

    Args:
        artifact: what is to be used.
        target: the connected model; without CLIP only the denoiser is compared.
        any_base: allow other weights of the same architecture.

    Returns:
        What was not compared, or is not the same without being touched.

    Raises:
        BaseMismatch: names both sides.
    """
    from erase_plugins.runtime.guard import check_base

    manifest = artifact.manifest
    stored = manifest.base.get("fingerprint") or {}
    here = {name: item for name, item in stored.items() if target.clip is not None or name == target.family.denoiser}
    shown = replace(manifest, base={**manifest.base, "fingerprint": here})
    return check_base(shown, target, any_base, artifact.edit)
