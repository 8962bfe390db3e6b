"""Parameter names as edits and files use them."""

from __future__ import annotations


def canonical(component: str, name: str) -> str:
    """Name of a module or parameter, the same for every transformers version and with or without peft wrappers."""
    name = name.replace(".base_layer", "")
    return name.removeprefix("text_model.") if component.startswith("text_encoder") else name
