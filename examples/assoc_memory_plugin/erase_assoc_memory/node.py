"""The node for ComfyUI: a conditioning passes if its prompt is clear, and is replaced if the guard flags it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from erase_plugins.errors import RequestError


def node(spec: Any) -> Any:
    """The node, made with the host's own records."""
    return spec.NodeSpec(
        id="EraseAssocMemoryGuard",
        title="Erase: prompt guard (associative memory)",
        category="erase/guard",
        description="Passes a prompt that holds no stored concept, and replaces it otherwise. The strength output "
        "raises an erasure for flagged prompts only.",
        inputs=(
            spec.Input("text", "STRING", "The prompt of the conditioning.", options={"multiline": True}),
            spec.Input("conditioning", "CONDITIONING", "The encoded prompt; given on unchanged if it is clear."),
            spec.Input("guard", "STRING", "Guard file in models/erase_plugins (made by 'erase-plugins guard add').",
                       options={"default": "guard.safetensors"}),
            spec.Input("replacement", "CONDITIONING", "Takes the place of a flagged prompt.", required=False),
        ),
        outputs=(
            spec.Output("conditioning", "CONDITIONING", "The prompt, or its replacement."),
            spec.Output("flagged", "BOOLEAN", "Whether a stored concept was recognised."),
            spec.Output("strength", "FLOAT", "1 if flagged, else 0: for the strength of an erase node."),
            spec.Output("report", "STRING", "What was recognised, and how surely."),
        ),
        run=lambda **values: _run(spec, **values),
        aliases=("guard", "prompt filter", "unlearn", "associative memory"),
        package="erase-plugins-assoc-memory",
    )  # fmt: skip


def _run(spec: Any, text: str, conditioning: Any, guard: str, replacement: Any = None) -> Any:
    from erase_assoc_memory.coding import GramEncoder
    from erase_assoc_memory.file import load_guard

    found = load_guard(_path(guard)).check(GramEncoder(), [text])[0]
    said = f"flagged: {found.label or 'a stored concept'} (overlap {found.overlap:.2f})" if found.flagged else "clear"
    out = replacement if found.flagged and replacement is not None else conditioning
    return spec.Result((out, found.flagged, float(found.flagged), said), text=said)


def _path(name: str) -> Path:
    """The guard file; only names below the model folders, never a way out of them."""
    import folder_paths

    for folder in folder_paths.get_folder_paths("erase_plugins"):
        place = (Path(folder) / name).resolve()
        if place.is_relative_to(Path(folder).resolve()) and place.is_file():
            return place
    raise RequestError(
        f"there is no guard '{Path(name).name[:60]}' in models/erase_plugins; 'erase-plugins guard add' makes one"
    )
