"""The Hub package, imported when a node needs it. Whoever is logged in is known to the Hub's client alone.

No node has a place for a token: widgets are saved into every workflow file and picture.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Mapping
from typing import Any

from erase_plugins.errors import ArtifactError, EraseError

_COMMIT = re.compile(r"^[0-9a-f]{40}$")


class HubMissing(EraseError, ImportError):
    """The package that talks to the Hub, or its client, is not installed."""


def part(name: str) -> Any:
    """A module of hub_cards.

    Raises:
        HubMissing: says what to install.
    """
    try:
        client: Any = importlib.import_module("huggingface_hub.utils")
        module = importlib.import_module(f"hub_cards.{name}")
    except ImportError as error:
        missing = "huggingface_hub" if "huggingface_hub" in str(error) else "erase-plugins"
        raise HubMissing(
            f"the Hub nodes need a package that is missing ({error}); run: pip install {missing}, then restart ComfyUI"
        ) from error
    client.disable_progress_bars()
    return module


def pinned(repo: str, artifact: Any) -> str:
    """ "owner/name@commit" of what was pulled, as far as the client's cache tells the commit."""
    place = artifact.path if artifact.path.is_dir() else artifact.path.parent
    commit = next((item for item in (place.name, place.parent.name) if _COMMIT.match(item)), None)
    return repo if commit is None else f"{repo}@{commit}"


def is_pinned(spec: str) -> bool:
    """Whether a reference names a commit, which never changes."""
    return bool(_COMMIT.match(spec.partition("@")[2].strip()))


def write_down(reference: str, prompt: Any, extra_pnginfo: Any, unique_id: Any) -> None:
    """Puts the pinned reference where ComfyUI takes a picture's metadata from, so that the picture can be made again.

    Args:
        reference: for the widget "repo", the first one of the node.
        prompt, extra_pnginfo, unique_id: ComfyUI's hidden inputs.
    """
    node = (prompt or {}).get(str(unique_id), {})
    if isinstance(node.get("inputs", {}).get("repo"), str):
        node["inputs"]["repo"] = reference
    workflow = (extra_pnginfo or {}).get("workflow")
    for item in workflow.get("nodes", ()) if isinstance(workflow, Mapping) else ():
        values = item.get("widgets_values")
        if str(item.get("id")) == str(unique_id) and isinstance(values, list) and values:
            values[0] = reference


def saved(name: str) -> Any:
    """The saved artifact of this name.

    Raises:
        ArtifactError: it is a single file, or not there.
    """
    from erase_plugins.artifacts.artifact import load_artifact

    from . import files

    place = files.find(name)
    if not place.is_dir():
        raise ArtifactError(f"'{name}' is a single file; load it and save it with the save node, then publish that")
    return load_artifact(place)
