"""What a method needs beside ComfyUI's own packages, told before any work with the command that brings it."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from erase_plugins.errors import EraseError
from erase_plugins.needs import packages_of

#: loads checkpoints and diffusers folders
LOADER = "diffusers"


class PackageMissing(EraseError, ImportError):
    """A package is not installed."""


def lacking(names: Iterable[str]) -> list[str]:
    """Packages that cannot be imported here.

    Args:
        names: packages, or extras of this package.
    """
    from erase_plugins.extras import extras

    table = extras()
    packages = {package for name in names for package in table.get(name, (name,))}
    return sorted(name for name in packages if importlib.util.find_spec(name.replace("-", "_")) is None)


def install(packages: Iterable[str]) -> str:
    """The command that installs packages for this ComfyUI; no folder of the user is named in it."""
    home = Path(sys.executable).parent.name
    portable = home.startswith("python_embed")
    python = f".\\{home}\\python.exe -s" if portable else "python"
    return f"{python} -m pip install {' '.join(packages)}"


def problem(method: Any, checkpoint: str = "") -> str | None:
    """Why a method cannot run here; None if it can.

    Args:
        method: a registered method.
        checkpoint: text of the widget that names another model than the connected one.
    """
    named = bool(checkpoint.strip())
    missing = lacking({*packages_of(method), *((LOADER,) if named else ())})
    if not missing:
        return None
    own = lacking(packages_of(method))
    what = f"the method '{method.id}'" if own else "a model named in 'checkpoint'"
    return (
        f"{what} needs {' and '.join(missing)}, which ComfyUI does not bring; run: {install(missing)}  (with the "
        "Python that runs ComfyUI), then start ComfyUI again"
    )
