"""Random edits, artifacts and latents for the layout and artifact tests."""

from __future__ import annotations

from typing import Any

import torch

from erase_plugins.artifacts.artifact import Artifact
from erase_plugins.artifacts.edit import AddOn, Delta, Dense, Edit, LowRank, Rows
from erase_plugins.artifacts.gated import GATE, gate_addon, gated_lowrank
from erase_plugins.artifacts.manifest import Manifest, describe_base
from erase_plugins.types import Concept


def random_edit(target: Any, groups: tuple[str, ...], rank: int = 3, size: float = 0.05, mixed: bool = True) -> Edit:
    """Low-rank changes of all modules of the groups, of two different ranks if ``mixed``."""
    generator = torch.Generator().manual_seed(7)
    deltas: dict[str, dict[str, Delta]] = {}
    for index, ref in enumerate(ref for group in groups for ref in target.modules(group)):
        r = rank + (index % 2 if mixed else 0)
        A = torch.randn(r, *ref.shape[1:], generator=generator)
        B = size * torch.randn(ref.shape[0], r, *([1] * (len(ref.shape) - 2)), generator=generator)
        deltas.setdefault(ref.component, {})[ref.weight] = LowRank(A, B)
    return Edit(target.family.id, deltas)


def dense_edit(target: Any, group: str = "cross_attn", bias: bool = True) -> Edit:
    """Dense changes of the modules of a group, with their biases."""
    generator = torch.Generator().manual_seed(8)
    deltas: dict[str, dict[str, Delta]] = {}
    for ref in target.modules(group):
        deltas.setdefault(ref.component, {})[ref.weight] = Dense(0.02 * torch.randn(ref.shape, generator=generator))
        if bias and ref.bias:
            deltas[ref.component][f"{ref.path}.bias"] = Dense(0.02 * torch.randn(ref.shape[0], generator=generator))
    return Edit(target.family.id, deltas)


def bias_edit(target: Any) -> Edit:
    """Changes of the biases behind cross-attention."""
    generator = torch.Generator().manual_seed(9)
    refs = [ref for ref in target.modules("cross_attn") if ref.bias]
    deltas = {f"{ref.path}.bias": Dense(0.2 * torch.randn(ref.shape[0], generator=generator)) for ref in refs}
    return Edit(target.family.id, {"unet": deltas})


def rows_edit(target: Any, word: str) -> Edit:
    """Another embedding row for each token of ``word``, in every text encoder."""
    generator = torch.Generator().manual_seed(10)
    index = torch.tensor(target.pipe.tokenizer(word, add_special_tokens=False)["input_ids"])
    deltas: dict[str, dict[str, Delta]] = {}
    for ref in target.modules("token_embedding"):
        values = 0.1 * torch.randn(len(index), ref.shape[1], generator=generator)
        deltas.setdefault(ref.component, {})[ref.weight] = Rows(index, values)
    return Edit(target.family.id, deltas)


def bottleneck_edit(target: Any, rank: int = 3) -> Edit:
    """A random bottleneck behind every cross-attention layer, with biases and an own factor."""
    generator = torch.Generator().manual_seed(11)

    def draw(*shape: int) -> torch.Tensor:
        return 0.3 * torch.randn(shape, generator=generator)

    deltas: dict[str, Delta] = {}
    for ref in target.modules("cross_attn"):
        if ref.path.endswith(".to_out.0"):
            size = ref.shape[0]
            weights = {"down": draw(rank, size), "up": draw(size, rank), "bias": draw(rank)}
            deltas[ref.path.removesuffix(".to_out.0")] = AddOn("bottleneck", weights, {"strength": 0.5})
    return Edit(target.family.id, {"unet": deltas})


def gated_edit(target: Any, concept: str = "pizza") -> Edit:
    """A gate that opens for the concept's prompts only, in front of changes of linear layers and convolutions."""
    generator = torch.Generator().manual_seed(12)
    prompts = [concept, f"a {concept} on a blue background"]
    rows = target.encode(prompts).embeds
    gate = gate_addon(rows, [concept], [0, 0], "cosine", target.info.tokens, low=0.999, high=1.0)
    deltas: dict[str, Delta] = {GATE: gate}
    refs = [*target.modules("cross_attn"), *(ref for ref in target.modules("denoiser") if ref.kind == "conv")]
    for ref in refs:
        A = torch.randn(2, *ref.shape[1:], generator=generator) / ref.shape[1]
        B = torch.randn(ref.shape[0], 2, *([1] * (len(ref.shape) - 2)), generator=generator)
        deltas[ref.path] = gated_lowrank(LowRank(A, 0.3 * B), [0, 0])
    return Edit(target.family.id, {"unet": deltas})


def artifact_of(target: Any, edit: Edit, name: str = "erase_pizza") -> Artifact:
    """An artifact in memory."""
    manifest = Manifest(
        name=name, method={"id": "test", "title": "Test"}, concepts=(Concept("pizza"),), base=describe_base(target),
        kinds=tuple(sorted(edit.kinds)), rank=edit.rank, modules=len(edit), created="2026-01-02T03:04:05Z",
    )  # fmt: skip
    return Artifact(manifest, edit)


def latents(pipe: Any, steps: int = 2) -> torch.Tensor:
    """Latents (1, 4, h, w) of one prompt, always with the same noise."""
    side = pipe.unet.config.sample_size * 2 ** (len(pipe.vae.config.block_out_channels) - 1)
    return pipe(
        "a pizza", num_inference_steps=steps, guidance_scale=4.0, height=side, width=side, output_type="latent",
        generator=torch.Generator().manual_seed(3),
    ).images  # fmt: skip


def count_patched(pipe: Any, components: tuple[str, ...], adapter: str) -> int:
    """Modules that hold a peft adapter of this name."""
    modules = (module for name in components for module in getattr(pipe, name).modules())
    return sum(adapter in getattr(module, "lora_A", {}) for module in modules)
