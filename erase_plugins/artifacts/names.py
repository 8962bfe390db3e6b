"""Parameter names as edits and files use them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor, nn

#: attribute that the runtime leaves on a patched parameter: the tensor that was there before
ORIGINAL = "_erase_original"
#: attribute that the runtime leaves on a denoiser whose text rows are mapped: the hook, with ``mapped(rows)``
CONTEXT_HOOK = "_erase_context"


def canonical(component: str, name: str) -> str:
    """Name of a module or parameter, the same for every transformers version and with or without peft wrappers."""
    name = name.replace(".base_layer", "")
    return name.removeprefix("text_model.") if component.startswith("text_encoder") else name


def base_parameters(component: str, module: nn.Module) -> dict[str, Tensor]:
    """Canonical parameter names to the tensors of the base model: our patches and any LoRA looked through."""
    found = {}
    for name, parameter in module.named_parameters():
        if ".lora_" not in name:
            found[canonical(component, name)] = getattr(parameter, ORIGINAL, parameter)
    return found
