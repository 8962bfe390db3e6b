"""The package that talks to the Hub, imported when a node or the picker needs it."""

from __future__ import annotations

import importlib
from typing import Any

from erase_plugins.errors import EraseError


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
        # our own package is named by no index command: whoever registers its name there would be run here
        ours = "huggingface_hub" not in str(error)
        way = "install erase-plugins again from where you got it" if ours else "run: pip install huggingface_hub"
        raise HubMissing(
            f"the Hub nodes need a package that is missing ({error}); {way}, then restart ComfyUI"
        ) from error
    client.disable_progress_bars()
    return module
