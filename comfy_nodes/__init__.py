"""Nodes for ComfyUI: erase inside the graph, load, save and compare.

ComfyUI is imported when a node runs, not before.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

if importlib.util.find_spec("erase_plugins") is None:  # a checkout in custom_nodes, nothing installed
    sys.path.append(str(Path(__file__).resolve().parent.parent))

from . import routes
from .registry import collect

NODE_CLASS_MAPPINGS, NODE_DISPLAY_NAME_MAPPINGS = collect()
#: help pages and comfort for the browser; everything works without it
WEB_DIRECTORY = str(Path(__file__).resolve().parent / "web")
routes.register()

__all__ = ["NODE_CLASS_MAPPINGS", "NODE_DISPLAY_NAME_MAPPINGS", "WEB_DIRECTORY"]
