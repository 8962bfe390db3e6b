"""Names of UNet modules: diffusers paths against the original (ldm/sgm) ones, and Kohya stems."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "time_emb_proj": "emb_layers.1",
    "conv_shortcut": "skip_connection",
}
_TOP = {
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
}


def kohya_stem(prefix: str, path: str) -> str:
    """File stem in Kohya naming: prefix and the path with dots as underscores."""
    return f"{prefix}_{path.replace('.', '_')}"


def sgm_path(path: str, config: Mapping[str, Any]) -> str:
    """Original name of a diffusers UNet module.

    Args:
        path: diffusers module path.
        config: UNet configuration (layers per block and block types set the numbering).
    """
    if path in _TOP:
        return _TOP[path]
    parts = path.split(".")
    layers = config.get("layers_per_block", 2)
    layers = layers if isinstance(layers, int) else layers[0]
    if parts[0] == "mid_block":
        index = 2 * int(parts[2]) if parts[1] == "resnets" else 1
        return ".".join([f"middle_block.{index}", *_inner(parts[1], parts[3:])])
    block = int(parts[1])
    if parts[0] == "down_blocks":
        if parts[2] == "downsamplers":
            return f"input_blocks.{(block + 1) * (layers + 1)}.0.op"
        number = 1 + block * (layers + 1) + int(parts[3])
        return ".".join([f"input_blocks.{number}.{0 if parts[2] == 'resnets' else 1}", *_inner(parts[2], parts[4:])])
    if parts[2] == "upsamplers":
        slot = 2 if "CrossAttn" in config["up_block_types"][block] else 1
        return f"output_blocks.{block * (layers + 1) + layers}.{slot}.conv"
    number = block * (layers + 1) + int(parts[3])
    return ".".join([f"output_blocks.{number}.{0 if parts[2] == 'resnets' else 1}", *_inner(parts[2], parts[4:])])


def _inner(kind: str, rest: list[str]) -> list[str]:
    if kind == "resnets" and rest:
        return [_RESNET.get(rest[0], rest[0]), *rest[1:]]
    return rest
