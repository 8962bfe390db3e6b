"""Where somebody's LoRAs lie, files and folders of peft adapters, and where cleaned ones go. No torch at import."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from erase_plugins.artifacts.atomic import atomic_file, atomic_folder
from erase_plugins.artifacts.lora_rewrite import PEFT_CONFIG, PEFT_FILE
from erase_plugins.errors import ArtifactError, RequestError
from erase_plugins.hints import Hint

#: names under which LoRAs lie in folders
_NAMES = (PEFT_FILE, "pytorch_lora_weights.safetensors")
#: kind in the marker of a peft folder
KIND = "lora"


def lora_file(place: Path) -> Path:
    """The LoRA file of a path: itself, or the one with a usual name in a folder.

    Raises:
        ArtifactError: none, or several.
    """
    if place.is_file():
        return place
    there = [place / name for name in _NAMES if (place / name).is_file()] if place.is_dir() else []
    if len(there) != 1:
        what = "several LoRA files" if there else "no LoRA file"
        raise ArtifactError(f"{what} at '{place.name}'; give one .safetensors file, or a folder with {_NAMES[0]}")
    return there[0]


def lora_files(place: Path) -> list[Path]:
    """The LoRAs of a folder that is a collection of them: files, and folders of a single one, such as peft adapters.

    Empty for a file, and for the folder of a single one.
    """
    if not place.is_dir() or _single(place):
        return []
    return sorted(item for item in place.iterdir() if _single(item) or _named(item))


def _single(place: Path) -> bool:
    """Whether a folder holds one LoRA, or says that it does."""
    return any((place / name).is_file() for name in (*_NAMES, PEFT_CONFIG))


def _named(place: Path) -> bool:
    return place.is_file() and place.suffix.lower() == ".safetensors"


def place_in(out: Path, lora: Path) -> Path:
    """Where one of `lora_files` goes below another folder: under the name that it has, a file in its folder too."""
    alone = lora.is_dir() and (lora / _NAMES[1]).is_file() and not (lora / PEFT_CONFIG).is_file()
    return out / lora.name / _NAMES[1] if alone else out / lora.name


def check_out(place: Path, file: Path) -> None:
    """Refuses an output of the wrong kind: peft needs a folder, all others a file.

    Raises:
        RequestError: says which.
    """
    peft, named = file.name == PEFT_FILE, place.suffix.lower() == ".safetensors"
    if peft and named:
        raise RequestError(
            "a peft adapter is a folder of two files; give ", Hint("out"), f" a folder, not '{place.name}'"
        )
    if not peft and not named:
        raise RequestError(
            Hint("out"),
            f" {place.name} must end in .safetensors; for example ",
            Hint("out"),
            f" {place.name}.safetensors",
        )


@contextmanager
def written_at(place: Path, file: Path) -> Iterator[Path]:
    """The path of the file to write; what lies beside it in a peft adapter comes along."""
    check_out(place, file)
    if file.name != PEFT_FILE:
        with atomic_file(place, False) as work:
            yield work
        return
    with atomic_folder(place, False, KIND) as folder:
        shutil.copyfile(file.with_name(PEFT_CONFIG), folder / PEFT_CONFIG)
        yield folder / PEFT_FILE
