"""A node pack for test servers: the pair on an Erase node is drawn in two steps where nobody looks at what it shows.

Twelve steps of two pictures take seconds of a processor in every run. A file `WHOLE` in the folder of inputs asks for all of them.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import folder_paths
from server import PromptServer

FEW, WHOLE = 2, "whole_pairs"


def _set(prompt: dict[str, Any]) -> dict[str, Any]:
    """Before each run, as packs are loaded in any order; nothing of the run is changed."""
    whole = (Path(folder_paths.get_input_directory()) / WHOLE).exists()
    for name in [name for name in sys.modules if name.rpartition(".")[2] == "comfy_nodes"]:
        drawing = importlib.import_module(f"{name}.drawing")
        drawing.latents_of.__defaults__ = (drawing.STEPS if whole else FEW, drawing.GUIDANCE)
    return prompt


PromptServer.instance.add_on_prompt_handler(_set)
NODE_CLASS_MAPPINGS: dict[str, Any] = {}
