"""Names of UNet and CLIP modules: diffusers paths, the original (ldm/sgm) ones, and Kohya stems; all both ways.

Nothing here needs a loaded model. A Kohya stem has lost its dots, so it is split by a grammar: the words below are the
only module names that contain an underscore, and the longest one wins.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

#: the UNet of AnimateDiff: that of Stable Diffusion with motion modules beside it
MOTION = "UNetMotionModel"
_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "time_emb_proj": "emb_layers.1",
    "conv_shortcut": "skip_connection",
}
_RESNET_BACK = {value: key for key, value in _RESNET.items()}
_TOP = {
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
}
_TOP_BACK = {value: key for key, value in _TOP.items()}
_WORDS = frozenset(  # one string, since a list would take forty lines
    """
    down_blocks up_blocks mid_block transformer_blocks time_embedding add_embedding linear_1 linear_2 conv_in conv_out
    conv_norm_out conv_shortcut time_emb_proj proj_in proj_out to_q to_k to_v to_out input_blocks middle_block
    output_blocks in_layers out_layers emb_layers skip_connection time_embed label_emb text_model text_projection
    self_attn q_proj k_proj v_proj out_proj layer_norm1 layer_norm2 final_layer_norm token_embedding position_embedding
    """.split()  # noqa: SIM905
)
_LONGEST = max(word.count("_") + 1 for word in _WORDS)
_SGM = re.compile(r"^(input_blocks|middle_block|output_blocks|time_embed|label_emb|out)\.")


def whole_words(entries: Mapping[str, int]) -> tuple[str, ...]:
    """Words that are one token of a CLIP tokenizer, in token order, from its table of tokens."""
    ends = [token for token in entries if token.endswith("</w>") and len(token) > 6 and token[:-4].isalpha()]
    return tuple(token[:-4] for token in sorted(ends, key=entries.__getitem__))


def kohya_stem(prefix: str, path: str) -> str:
    """File stem in Kohya naming: prefix and the path with dots as underscores."""
    return f"{prefix}_{path.replace('.', '_')}"


def split_stem(flat: str) -> str:
    """Module path of a Kohya stem without prefix: "mid_block_attentions_0_norm" -> "mid_block.attentions.0.norm"."""
    tokens, parts = flat.split("_"), []
    while tokens:
        size = next((size for size in range(min(_LONGEST, len(tokens)), 1, -1) if "_".join(tokens[:size]) in _WORDS), 1)
        parts.append("_".join(tokens[:size]))
        del tokens[:size]
    return ".".join(parts)


def is_sgm(path: str) -> bool:
    """Whether a denoiser path is in original (ldm/sgm) naming."""
    return _SGM.match(path) is not None


def layers_of(config: Mapping[str, Any]) -> int:
    """Resnets per block, which sets the numbering of the original names."""
    layers = config.get("layers_per_block", 2)
    return int(layers if isinstance(layers, int) else layers[0])


def sgm_path(path: str, config: Mapping[str, Any]) -> str:
    """Original name of a diffusers UNet module.

    Args:
        path: diffusers module path.
        config: UNet configuration (layers per block and block types set the numbering).
    """
    if path in _TOP:
        return _TOP[path]
    parts = path.split(".")
    layers = layers_of(config)
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


def diffusers_path(path: str, layers: int = 2) -> str:
    """Inverse of `sgm_path`; only the number of resnets per block is needed.

    Raises:
        KeyError: not an original UNet name.
    """
    if path in _TOP_BACK:
        return _TOP_BACK[path]
    parts = path.split(".")
    try:
        number, rest = int(parts[1]), parts[2:]
        if parts[0] == "middle_block":
            place = "mid_block.attentions.0" if number == 1 else f"mid_block.resnets.{number // 2}"
            return ".".join([place, *_outer("attentions" if number == 1 else "resnets", rest)])
        if parts[0] == "input_blocks":
            block, index = divmod(number - 1, layers + 1)
            side = "down_blocks"
            if rest[1:] == ["op"]:
                return f"down_blocks.{block}.downsamplers.0.conv"
        elif parts[0] == "output_blocks":
            block, index = divmod(number, layers + 1)
            side = "up_blocks"
            if rest[1:] == ["conv"]:
                return f"up_blocks.{block}.upsamplers.0.conv"
        else:
            raise KeyError(path)
        kind = ("resnets", "attentions")[int(rest[0])]
        return ".".join([f"{side}.{block}.{kind}.{index}", *_outer(kind, rest[1:])])
    except (IndexError, ValueError) as error:
        raise KeyError(path) from error


def _inner(kind: str, rest: list[str]) -> list[str]:
    if kind == "resnets" and rest:
        return [_RESNET.get(rest[0], rest[0]), *rest[1:]]
    return rest


def _outer(kind: str, rest: list[str]) -> list[str]:
    if kind == "resnets" and rest:
        name = _RESNET_BACK.get(".".join(rest[:2])) or _RESNET_BACK.get(rest[0])
        return [name] if name else rest
    return rest
