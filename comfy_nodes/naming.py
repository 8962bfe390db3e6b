"""Names inside a loaded ComfyUI model to ours and back, and the configuration that our families look at. No ComfyUI."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from erase_plugins.errors import Unsupported
from erase_plugins.families.naming import diffusers_path

DENOISER = "diffusion_model."
#: attribute of a ComfyUI text encoder -> our component
ENCODERS = {"clip_l": "text_encoder", "clip_h": "text_encoder", "clip_g": "text_encoder_2"}


#: layers of flow transformers that read the pooled row, whose columns stand behind those of the token rows
_POOLED = ("vector_in.in_layer.weight", "y_embedder.mlp.0.weight")


def reads_pooled(key: str) -> bool:
    """Whether a weight, by its key in the ModelPatcher, reads the pooled row rather than token rows."""
    return key.endswith(_POOLED)


def unet_config(original: Mapping[str, Any], kind: str = "this model") -> dict[str, Any]:
    """Configuration in diffusers terms for ComfyUI's own.

    Args:
        original: ``model_config.unet_config``.
        kind: name of the architecture, for the message.

    Raises:
        Unsupported: not a UNet with cross-attention over text embeddings.
    """
    needed = ("context_dim", "model_channels", "channel_mult", "num_res_blocks", "transformer_depth")
    if any(original.get(name) is None for name in needed) or "transformer_depth_output" not in original:
        raise Unsupported(
            f"{kind} has no UNet with text cross-attention; connect a Stable Diffusion 1.x, 2.x or XL model"
        )
    multipliers = list(original["channel_mult"])
    blocks = original["num_res_blocks"]
    layers = int(blocks if isinstance(blocks, int) else blocks[0])
    down = _levels(original["transformer_depth"], layers, len(multipliers))
    up = _levels(original["transformer_depth_output"], layers + 1, len(multipliers))[::-1]
    return {
        "_class_name": "UNet2DConditionModel",
        "in_channels": original.get("in_channels", 4),
        "out_channels": original.get("out_channels", 4),
        "layers_per_block": layers,
        "block_out_channels": [int(original["model_channels"]) * item for item in multipliers],
        "cross_attention_dim": original["context_dim"],
        "use_linear_projection": bool(original.get("use_linear_in_transformer")),
        "addition_embed_type": "text_time" if original.get("adm_in_channels") else None,
        "down_block_types": ["CrossAttnDownBlock2D" if depth else "DownBlock2D" for depth in down],
        "up_block_types": ["CrossAttnUpBlock2D" if depth else "UpBlock2D" for depth in up],
    }


def _levels(depths: Sequence[int], each: int, levels: int) -> list[int]:
    return [depths[index * each] for index in range(levels)]


def denoiser_names(keys: Iterable[str], layers: int) -> dict[str, str]:
    """Our parameter name -> name inside ComfyUI's UNet; what is no parameter of a UNet is left out."""
    found = {}
    for key in keys:
        path, _, leaf = key.rpartition(".")
        try:
            found[f"{diffusers_path(path, layers)}.{leaf}"] = key
        except KeyError:
            continue
    return found


def encoder_names(keys: Iterable[str]) -> dict[tuple[str, str], str]:
    """(component, our parameter name) -> name inside ComfyUI's text encoder model."""
    found = {}
    for key in keys:
        encoder, _, rest = key.partition(".transformer.")
        component = ENCODERS.get(encoder)
        if component is None or not rest:
            continue
        if rest.startswith("text_model.") and not rest.endswith("position_ids"):
            found[(component, rest.removeprefix("text_model."))] = key
        elif rest == "text_projection.weight" and encoder == "clip_g":  # unused in the others, absent in diffusers
            found[(component, rest)] = key
    return found


def encoder_layers(names: Iterable[tuple[str, str]]) -> dict[str, int]:
    """Number of layers of each text encoder among (component, our parameter name)."""
    found: dict[str, int] = {}
    for component, name in names:
        parts = name.split(".")
        if parts[:2] == ["encoder", "layers"]:
            found[component] = max(found.get(component, 0), int(parts[2]) + 1)
    return found
