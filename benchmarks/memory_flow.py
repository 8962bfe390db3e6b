"""Memory of a pass through published flow transformers, counted with fake tensors: nothing is computed.

    python -m benchmarks.memory_flow [--sizes flux,sd3m,sd35m,sd35l]

For one sample of 1024 x 1024 pixels and weights in bfloat16: what a pass keeps for its way back, the same with blocks
computed again, and what a pass without gradients has at once. `engine.activations` is fitted to these numbers.
"""

from __future__ import annotations

import argparse
from contextlib import nullcontext
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from benchmarks.memory import GIB, Alive, WideNorms, faked, low_rank

_LARGE = {"num_layers": 38, "num_attention_heads": 38, "caption_projection_dim": 2432, "qk_norm": "rms_norm"}
_MEDIUM = {"num_layers": 24, "num_attention_heads": 24, "caption_projection_dim": 1536}
#: published size -> how its transformer differs from the default; FLUX is the default
SIZES: dict[str, dict[str, Any]] = {
    "flux": {}, "sd3m": _MEDIUM, "sd35l": _LARGE,
    "sd35m": {**_MEDIUM, "qk_norm": "rms_norm", "dual_attention_layers": tuple(range(13)), "pos_embed_max_size": 384},
}  # fmt: skip
MODES = ("kept", "again", "looking")


def transformer(size: str) -> Any:
    """The transformer of a published size on meta tensors."""
    from diffusers import FluxTransformer2DModel, SD3Transformer2DModel

    with torch.device("meta"):
        if size == "flux":
            return FluxTransformer2DModel(guidance_embeds=True).eval()
        same = {"in_channels": 16, "out_channels": 16, "joint_attention_dim": 4096, "pos_embed_max_size": 192}
        return SD3Transformer2DModel(**{**same, "pooled_projection_dim": 2048, **SIZES[size]}).eval()


def ask(network: Any, size: str) -> Any:
    """A pass of one sample with as many text rows as stock pipelines give."""
    given = {"timestep": torch.empty(1), "return_dict": False, "pooled_projections": torch.empty(1, 2048)}
    if size != "flux":
        return network(
            hidden_states=torch.empty(1, 16, 128, 128), encoder_hidden_states=torch.empty(1, 333, 4096), **given
        )[0]
    given |= {"pooled_projections": torch.empty(1, 768), "guidance": torch.empty(1)}
    given |= {"img_ids": torch.empty(4096, 3), "txt_ids": torch.empty(512, 3)}
    return network(hidden_states=torch.empty(1, 4096, 64), encoder_hidden_states=torch.empty(1, 512, 4096), **given)[0]


def measure(size: str, mode: str) -> float:
    """GiB beside the weights; ``mode`` of `MODES`."""
    network = transformer(size)
    before = torch.get_default_dtype()
    with FakeTensorMode(allow_non_fake_inputs=True):
        faked(network, torch.bfloat16)
        for name, buffer in list(network.named_buffers()):
            owner, _, leaf = name.rpartition(".")
            network.get_submodule(owner).register_buffer(leaf, torch.empty(buffer.shape, dtype=buffer.dtype), False)
        network.requires_grad_(False)
        paths = [name for name, item in network.named_modules() if name.endswith(("to_q", "to_k", "to_v"))]
        alive = Alive([*network.parameters(), *network.buffers()])
        torch.set_default_dtype(torch.bfloat16)
        try:
            with torch.autocast("cpu", torch.bfloat16), alive, nullcontext() if mode == "again" else WideNorms():
                if mode == "looking":
                    with torch.no_grad():
                        ask(network, size)
                else:
                    factors = low_rank(network, paths, 8)()
                    if mode == "again":
                        network.enable_gradient_checkpointing()
                    torch.autograd.grad(ask(network, size).float().square().mean(), factors, allow_unused=True)
        finally:
            torch.set_default_dtype(before)
    return alive.peak / GIB


def main(arguments: list[str] | None = None) -> None:
    """Prints one row for each size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default=",".join(SIZES))
    for size in parser.parse_args(arguments).sizes.split(","):
        print(size, {mode: round(measure(size, mode), 2) for mode in MODES}, flush=True)


if __name__ == "__main__":
    main()
