"""Parameter names as edits and files use them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor, nn

#: attribute that the runtime leaves on a patched parameter: the tensor that was there before
ORIGINAL = "_erase_original"
#: attribute that the runtime leaves on a component with edits in force: the ledger of them
LEDGER = "_erase_ledger"
#: attribute that the runtime leaves on a denoiser whose text rows are mapped: the hook, with ``mapped(rows)``
CONTEXT_HOOK = "_erase_context"


def canonical(component: str, name: str) -> str:
    """Name of a module or parameter, the same for every transformers version and with or without peft wrappers."""
    name = name.replace(".base_layer", "")
    return name.removeprefix("text_model.") if component.startswith("text_encoder") else name


def live_parameters(component: str, module: nn.Module) -> dict[str, nn.Parameter]:
    """Canonical parameter names to the parameters that are in the model now, those of a LoRA left out."""
    named = module.named_parameters()
    return {canonical(component, name): parameter for name, parameter in named if ".lora_" not in name}


def base_parameters(component: str, module: nn.Module) -> dict[str, Tensor]:
    """Canonical parameter names to the tensors of the base model: our patches and any LoRA looked through."""
    live = live_parameters(component, module)
    return {name: getattr(parameter, ORIGINAL, parameter) for name, parameter in live.items()}
