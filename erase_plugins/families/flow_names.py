"""Where modules of flow transformers are in the original files, which ComfyUI reads: names, thirds, swaps.

The original keeps queries, keys and values in one weight, below each other, and FLUX's single blocks add their first
MLP layer to it. A low-rank change of one diffusers module is a change of some rows of the original weight.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from erase_plugins.errors import Unsupported
from erase_plugins.families.model import ModuleRef


@dataclass(frozen=True)
class Place:
    """A diffusers module in an original file.

    Attributes:
        path: module whose weight (and bias) holds it.
        start: first row; ``rows`` of them belong to it, all where ``rows`` is None.
        swapped: the halves of its output, scale and shift, are in the other order.
    """

    path: str
    start: int = 0
    rows: int | None = None
    swapped: bool = False


@dataclass(frozen=True)
class Names:
    """Rules of one architecture.

    Attributes:
        top: module outside the blocks -> original.
        blocks: (prefix of a block in diffusers, original prefix, module inside -> original), with {} for the number.
        fused: (prefix of a block, module inside -> original weight and the part of it in units of the width).
    """

    top: Mapping[str, str]
    blocks: tuple[tuple[str, str, Mapping[str, str]], ...]
    fused: tuple[tuple[str, Mapping[str, tuple[str, int]]], ...]
    swapped: Callable[[str, int], bool]

    def place(self, ref: ModuleRef, width: int, count: int) -> Place:
        """Where a module is.

        Args:
            ref: a module of the transformer.
            width: of its token stream.
            count: number of its joint blocks.

        Raises:
            Unsupported: the original has no such module.
        """
        swapped = self.swapped(ref.path, count)
        if ref.path in self.top:
            return Place(self.top[ref.path], swapped=swapped)
        found = re.match(r"^((?:single_)?transformer_blocks)\.(\d+)\.(.+)$", ref.path)
        for block, original, inside in self.blocks if found else ():
            assert found is not None
            if found[1] != block:
                continue
            start = original.format(found[2])
            if found[3] in inside:
                return Place(f"{start}.{inside[found[3]]}", swapped=swapped)
            for name, parts in self.fused:
                if name == block and found[3] in parts:
                    path, unit = parts[found[3]]
                    return Place(f"{start}.{path}", unit * width, ref.shape[0])
        raise Unsupported(f"{ref.path} has no place in the original files")


def _thirds(stream: Mapping[str, str]) -> dict[str, tuple[str, int]]:
    """Three modules of every fused weight, in the order query, key, value."""
    return {name: (path, unit) for names, path in stream.items() for unit, name in enumerate(names.split())}


def _embedders(named: Mapping[str, tuple[str, str, str]]) -> dict[str, str]:
    return {
        f"time_text_embed.{name}.linear_{number}": f"{path}.{inner}"
        for name, (path, *layers) in named.items()
        for number, inner in enumerate(layers, 1)
    }


FLUX = Names(
    top={
        "context_embedder": "txt_in", "x_embedder": "img_in", "proj_out": "final_layer.linear",
        "norm_out.linear": "final_layer.adaLN_modulation.1",
        **_embedders({"timestep_embedder": ("time_in", "in_layer", "out_layer"),
                      "guidance_embedder": ("guidance_in", "in_layer", "out_layer"),
                      "text_embedder": ("vector_in", "in_layer", "out_layer")}),
    },
    blocks=(
        ("transformer_blocks", "double_blocks.{}", {
            "attn.to_out.0": "img_attn.proj", "attn.to_add_out": "txt_attn.proj",
            "norm1.linear": "img_mod.lin", "norm1_context.linear": "txt_mod.lin",
            "ff.net.0.proj": "img_mlp.0", "ff.net.2": "img_mlp.2",
            "ff_context.net.0.proj": "txt_mlp.0", "ff_context.net.2": "txt_mlp.2",
        }),
        ("single_transformer_blocks", "single_blocks.{}", {"norm.linear": "modulation.lin", "proj_out": "linear2"}),
    ),
    fused=(
        ("transformer_blocks", _thirds({
            "attn.to_q attn.to_k attn.to_v": "img_attn.qkv",
            "attn.add_q_proj attn.add_k_proj attn.add_v_proj": "txt_attn.qkv",
        })),
        ("single_transformer_blocks", _thirds({"attn.to_q attn.to_k attn.to_v proj_mlp": "linear1"})),
    ),
    swapped=lambda path, count: path == "norm_out.linear",
)  # fmt: skip

SD3 = Names(
    top={
        "context_embedder": "context_embedder", "pos_embed.proj": "x_embedder.proj", "proj_out": "final_layer.linear",
        "norm_out.linear": "final_layer.adaLN_modulation.1",
        **_embedders({"timestep_embedder": ("t_embedder.mlp", "0", "2"),
                      "text_embedder": ("y_embedder.mlp", "0", "2")}),
    },
    blocks=(
        ("transformer_blocks", "joint_blocks.{}", {
            "attn.to_out.0": "x_block.attn.proj", "attn.to_add_out": "context_block.attn.proj",
            "attn2.to_out.0": "x_block.attn2.proj",
            "norm1.linear": "x_block.adaLN_modulation.1", "norm1_context.linear": "context_block.adaLN_modulation.1",
            "ff.net.0.proj": "x_block.mlp.fc1", "ff.net.2": "x_block.mlp.fc2",
            "ff_context.net.0.proj": "context_block.mlp.fc1", "ff_context.net.2": "context_block.mlp.fc2",
        }),
    ),
    fused=(
        ("transformer_blocks", _thirds({
            "attn.to_q attn.to_k attn.to_v": "x_block.attn.qkv",
            "attn.add_q_proj attn.add_k_proj attn.add_v_proj": "context_block.attn.qkv",
            "attn2.to_q attn2.to_k attn2.to_v": "x_block.attn2.qkv",
        })),
    ),
    # the last block only modulates its text, with scale and shift
    swapped=lambda path, count: path in ("norm_out.linear", f"transformer_blocks.{count - 1}.norm1_context.linear"),
)  # fmt: skip


def original_places(names: Names, refs: Iterable[ModuleRef]) -> dict[str, Place]:
    """Where every linear layer and convolution of a transformer is in an original file."""
    found = [ref for ref in refs if ref.component == "transformer" and ref.kind in ("linear", "conv")]
    width = next(ref.shape[0] for ref in found if ref.path == "context_embedder")
    count = 1 + max(int(ref.path.split(".")[1]) for ref in found if ref.path.startswith("transformer_blocks."))
    return {ref.path: names.place(ref, width, count) for ref in found}
