"""``erase-plugins comfy-install``: makes the installed node pack visible to a ComfyUI folder."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path

import click

from erase_plugins.cli.command import declare, dry_run_option
from erase_plugins.cli.console import emit, say
from erase_plugins.errors import RequestError

FOLDER = "erase-plugins"
#: what ComfyUI imports; the nodes themselves stay in the installed package
SHIM = '''"""Makes the nodes of the installed package erase-plugins visible to ComfyUI."""

from comfy_nodes import NODE_CLASS_MAPPINGS, NODE_DISPLAY_NAME_MAPPINGS, WEB_DIRECTORY

__all__ = ["NODE_CLASS_MAPPINGS", "NODE_DISPLAY_NAME_MAPPINGS", "WEB_DIRECTORY"]
'''
#: ComfyUI looks for these directly below custom_nodes/<folder>, so a checkout has them in its root; a wheel in the pack
COPIED = ("example_workflows", "locales", "subgraphs")


@declare("comfy-install", example="~/ComfyUI")
@click.argument("comfyui", metavar="FOLDER")
@dry_run_option
def command(comfyui: str, dry_run: bool) -> None:
    """Make the nodes visible to the ComfyUI in FOLDER. Run it with the Python that runs ComfyUI."""
    place, assets = check_folder(Path(comfyui)), asset_folders()
    if dry_run:
        say(f"would write {place}")
        emit({"schema": 1, "dry_run": True, "folder": str(place)})
        return
    from erase_plugins.artifacts.atomic import atomic_folder

    with atomic_folder(place, True, "node pack") as work:
        (work / "__init__.py").write_text(SHIM, encoding="utf-8")
        for name, folder in assets.items():
            shutil.copytree(folder, work / name)
    say(f"wrote {place}")
    say("start ComfyUI again, and look for 'Erase' among the nodes and for 'erase-plugins' among the templates")
    emit({"schema": 1, "folder": str(place)})


def check_folder(comfyui: Path) -> Path:
    """Where the pack goes in a ComfyUI folder.

    Raises:
        RequestError: no ComfyUI there, or something that is not ours has the name.
    """
    if not (comfyui / "nodes.py").is_file() or not (comfyui / "custom_nodes").is_dir():
        raise RequestError(f"'{comfyui.name}' is no ComfyUI folder; give the one with nodes.py and custom_nodes in it")
    place = comfyui / "custom_nodes" / FOLDER
    shim = place / "__init__.py"
    ours = shim.is_file() and shim.read_text(encoding="utf-8", errors="replace").startswith(SHIM.splitlines()[0])
    if place.exists() and not ours:
        raise RequestError(f"custom_nodes/{FOLDER} is there already and not from this command; remove it first")
    return place


def asset_folders() -> dict[str, Path]:
    """Name -> folder of what ComfyUI reads from a pack as files.

    Raises:
        RequestError: this installation has no nodes, or lacks one of the folders.
    """
    found = importlib.util.find_spec("comfy_nodes")
    if found is None or found.origin is None:
        raise RequestError("this installation of erase-plugins has no nodes; install it again with pip")
    pack = Path(found.origin).parent
    place = pack.parent if (pack.parent / "pyproject.toml").is_file() else pack
    assets = {name: place / name for name in COPIED}
    missing = [name for name, folder in assets.items() if not folder.is_dir()]
    if missing:
        raise RequestError(f"this installation of erase-plugins lacks {', '.join(missing)}; install it again with pip")
    return assets
