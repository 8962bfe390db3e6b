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
#: attribute that the runtime leaves on a text encoder that it watches: the prompts encoded lately, with ``remember``
PROMPTS = "_erase_prompts"


def canonical(component: str, name: str) -> str:
    """Name of a module or parameter, the same for every transformers version and with or without peft wrappers."""
    name = name.replace(".base_layer", "")
    return name.removeprefix("text_model.") if component.startswith("text_encoder") else name


#: parts of parameter names that are put beside a base model: attention processors and image projections of IP-Adapter,
#: motion modules of AnimateDiff, projections that were fused from those of the base
_ADDED = frozenset({"processor", "encoder_hid_proj", "motion_modules", "to_qkv", "to_kv"})


def live_parameters(component: str, module: nn.Module) -> dict[str, nn.Parameter]:
    """Canonical parameter names of the base model to its live parameters; what adapters added is left out."""
    parameters = list(module.named_parameters())
    wrapped = {name.partition(".base_layer.")[0] for name, _ in parameters if ".base_layer." in name}
    found = {}
    for name, parameter in parameters:
        parts = name.split(".")
        inside = next((n for n in range(len(parts)) if ".".join(parts[:n]) in wrapped), None) if wrapped else None
        if _ADDED.isdisjoint(parts) and (inside is None or parts[inside] == "base_layer"):
            found[canonical(component, name)] = parameter
    return found


def base_parameters(component: str, module: nn.Module) -> dict[str, Tensor]:
    """Canonical parameter names to the tensors of the base model: our patches and adapters looked through."""
    return {name: getattr(item, ORIGINAL, item) for name, item in live_parameters(component, module).items()}


def whole_parameters(component: str, module: nn.Module) -> dict[str, Tensor]:
    """As `base_parameters`, but with all adapters other than LoRA counted in, as older versions did."""
    return {
        canonical(component, name): getattr(parameter, ORIGINAL, parameter)
        for name, parameter in module.named_parameters()
        if ".lora_" not in name
    }
