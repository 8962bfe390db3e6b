"""Runs inside the ComfyUI interpreter: what ComfyUI's own nodes save and merge of an erased model; prints numbers.

Usage: python baking.py COMFY_DIR WORK; WORK/models/checkpoints holds what small_checkpoint.py writes, WORK/models/loras a
LoRA on keys and values. Every node but the one that erases is ComfyUI's own.
"""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path
from typing import Any

from small_sdxl import shallow

NUMBERS: dict[str, Any] = {}
BASE = "small.safetensors"
PROMPT = "a village at night, painting by van gogh"


class Graph:
    """Runs nodes of ComfyUI one by one.

    Args:
        nodes: their classes by id.
        output: folder that saving nodes write into.
    """

    def __init__(self, nodes: dict[str, Any], output: Path) -> None:
        self.nodes, self.output = nodes, output

    def __call__(self, node: str, /, **values: Any) -> Any:
        kind = self.nodes[node]
        made = kind()
        found = getattr(made, kind.FUNCTION)(**values)
        return found["result"] if isinstance(found, dict) and "result" in found else found

    def erased(self, model: Any, clip: Any, erase: str = "van gogh -> painting", strength: float = 1.0) -> Any:
        return self("EraseUCE", model=model, clip=clip, erase=erase, strength=strength, kind="style")

    def latents(self, model: Any, clip: Any) -> Any:
        """What the sampler makes of the prompt, from one noise."""
        (rows,) = self("CLIPTextEncode", clip=clip, text=PROMPT)
        (blank,) = self("CLIPTextEncode", clip=clip, text="")
        (empty,) = self("EmptyLatentImage", width=64, height=64, batch_size=1)
        (found,) = self(
            "KSampler", model=model, seed=7, steps=2, cfg=5.0, sampler_name="euler", scheduler="normal", positive=rows,
            negative=blank, latent_image=empty, denoise=1.0,
        )  # fmt: skip
        return found["samples"].clone()

    def saved(self, node: str, name: str, **values: Any) -> Path:
        """The file that a saving node wrote."""
        before = set(self.output.rglob("*.safetensors"))
        self(node, filename_prefix=name, **values)
        (file,) = set(self.output.rglob("*.safetensors")) - before
        return file

    def checkpoint(self, name: str, model: Any, clip: Any, vae: Any) -> Path:
        """A checkpoint of ComfyUI's own node, where its loader looks."""
        file = self.saved("CheckpointSave", name, model=model, clip=clip, vae=vae)
        goal = self.output.parent / "models" / "checkpoints" / f"{name}.safetensors"
        return file.rename(goal)

    def loaded(self, file: Path) -> Any:
        return self("CheckpointLoaderSimple", ckpt_name=file.name)


def far(found: Any, wanted: Any) -> float:
    return float((found.float() - wanted.float()).norm() / wanted.float().norm())


def weights(model: Any) -> dict[str, Any]:
    """The denoiser's weights as they are while the model runs."""
    import comfy.model_management

    comfy.model_management.load_models_gpu([model], force_patch_weights=True)
    return {name: value.detach().clone() for name, value in model.model.diffusion_model.state_dict().items()}


def mapped(source: dict[str, Any], *maps: Any) -> dict[str, Any]:
    """Weights that read text rows, behind maps of them."""
    change = sum(item.B @ item.A for item in maps)
    keys = [name for name in source if name.endswith(("attn2.to_k.weight", "attn2.to_v.weight"))]
    return {**source, **{key: source[key] + source[key] @ change for key in keys}}


def saving(graph: Graph) -> None:
    """A checkpoint of an erased model, loaded by the stock loader."""
    from safetensors.torch import load_file

    model, clip, vae = graph.loaded(Path(BASE))
    erased, _, report = graph.erased(model, clip)
    NUMBERS["report"] = report
    base, live = graph.latents(model, clip), graph.latents(erased, clip)
    files = [graph.checkpoint(name, item, clip, vae) for name, item in (("saved_base", model), ("saved", erased))]
    first, second = map(load_file, files)
    NUMBERS["tensors"] = len(first)
    NUMBERS["differ"] = sorted(name for name in first if not first[name].equal(second[name]))
    again = graph.loaded(files[1])
    found = graph.latents(again[0], again[1])
    NUMBERS["live_to_base"] = float((live - base).abs().max())
    NUMBERS["saved_to_live"] = float((found - live).abs().max())
    NUMBERS["base_after"] = bool(graph.latents(model, clip).equal(base))
    off = graph.erased(model, clip, strength=0.0)[0]
    NUMBERS["off"] = off is model
    file = graph.saved("ModelSave", "denoiser", model=erased)
    goal = file.rename(graph.output.parent / "models" / "diffusion_models" / file.name)
    (alone,) = graph("UNETLoader", unet_name=goal.name, weight_dtype="default")
    NUMBERS["denoiser_to_live"] = float((graph.latents(alone, clip) - live).abs().max())
    half = graph.erased(model, clip, strength=0.5)[0]
    file = graph.checkpoint("half", half, clip, vae)
    found = graph.latents(*graph.loaded(file)[:2])
    NUMBERS["half_to_live"] = float((found - graph.latents(half, clip)).abs().max())


def baked(graph: Graph) -> None:
    """Our own node: what it keeps, what it says, and what it refuses."""
    import torch

    from comfy_nodes import baking

    baking._STEPS = 1  # other weights show in the first one
    model, clip, vae = graph.loaded(Path(BASE))
    erased, clip_after, *_ = graph(
        "EraseNegative", model=model, clip=clip, erase="van gogh -> painting", method="uce", strength=1.0, kind="style",
    )  # fmt: skip
    name, report = graph("EraseBake", model=erased, clip=clip_after, vae=vae, filename_prefix="baked/no_van_gogh")
    NUMBERS["baked"] = [name, report]
    again, _ = graph("EraseBake", model=erased, clip=clip_after, vae=vae, filename_prefix="baked/no_van_gogh")
    NUMBERS["baked_again"] = again
    file = graph.output / name
    goal = file.rename(graph.output.parent / "models" / "checkpoints" / "ours.safetensors")
    found = graph.latents(*graph.loaded(goal)[:2])
    NUMBERS["baked_to_live"] = float((found - graph.latents(erased, clip_after)).abs().max())
    (merged,) = graph("ModelMergeSimple", model1=erased, model2=model, ratio=0.5)
    NUMBERS["baked_merge"] = graph("EraseBake", model=merged, clip=clip, vae=vae, filename_prefix="merged")[1]
    front = graph("EraseEmbeddingPatch", model=model, edit=graph.erased(model, clip)[1], strength=1.0)[0]
    save = baking.latents_of
    draws = iter((save, lambda *given: torch.zeros_like(save(*given)) + 1))
    for problem, change in {"front": {"model": front}, "draws": {}}.items():
        if problem == "draws":
            baking.latents_of = lambda *given: next(draws)(*given)
        before = sorted(graph.output.rglob("*"))
        try:
            graph("EraseBake", **{"model": erased, "clip": clip, "vae": vae, "filename_prefix": "refused", **change})
        except Exception as error:
            NUMBERS[f"bake_{problem}"] = f"{type(error).__name__}: {error}"
        NUMBERS[f"bake_{problem}_left"] = [str(item) for item in sorted(graph.output.rglob("*")) if item not in before]
    baking.latents_of = save


def merging(graph: Graph) -> None:
    """Nodes that mix weights."""
    model, clip, _ = graph.loaded(Path(BASE))
    erased = graph.erased(model, clip)[0]
    base, full = weights(model), weights(erased)
    NUMBERS["effect"] = sum(far(full[name], base[name]) > 0.001 for name in base)

    def worst(found: dict[str, Any], wanted: dict[str, Any]) -> float:
        scale = max(float((full[name] - base[name]).abs().max()) for name in base) or 1.0
        return max(float((found[name] - wanted[name]).abs().max()) for name in base) / scale

    for name, pair in {"first": (erased, model), "second": (model, erased)}.items():
        (merged,) = graph("ModelMergeSimple", model1=pair[0], model2=pair[1], ratio=0.5)
        wanted = {key: (base[key] + full[key]) / 2 for key in base}
        NUMBERS[f"merged_{name}"] = worst(weights(merged), wanted)
    (difference,) = graph("ModelMergeSubtract", model1=erased, model2=model, multiplier=1.0)
    NUMBERS["subtracted"] = worst(weights(difference), {key: full[key] - base[key] for key in base})
    (total,) = graph("ModelMergeAdd", model1=erased, model2=model)
    NUMBERS["added"] = worst(weights(total), {key: full[key] + base[key] for key in base})
    (merged,) = graph("ModelMergeSimple", model1=erased, model2=model, ratio=0.5)
    twice, second, _ = graph.erased(merged, clip, "a cat -> a dog")
    wanted = mapped({key: (base[key] + full[key]) / 2 for key in base}, second.edit.deltas["unet"]["context"])
    NUMBERS["erased_again"] = worst(weights(twice), wanted)
    # the stock node clamps and rounds, so it is asked for the same change hung on by ComfyUI alone
    dense = model.clone()
    dense.add_patches({f"diffusion_model.{key}": ("diff", (full[key] - base[key],)) for key in base})
    (plain,) = graph("ModelMergeSubtract", model1=dense, model2=model, multiplier=1.0)
    loras = []
    for name, item in {"extracted": difference, "extracted_plain": plain}.items():
        file = graph.saved("LoraSave", name, rank=320, lora_type="standard", bias_diff=False, model_diff=item)
        goal = file.rename(graph.output.parent / "models" / "loras" / file.name)
        (stock,) = graph("LoraLoaderModelOnly", model=model, lora_name=goal.name, strength_model=1.0)
        loras.append(weights(stock))
    NUMBERS["lora_of_the_difference"] = worst(*loras)
    NUMBERS["lora_effect_of_the_difference"] = worst(loras[0], base)


def order(graph: Graph) -> None:
    """LoRAs in front and behind, and two erasures one behind the other: as if text rows were mapped."""
    model, clip, _ = graph.loaded(Path(BASE))
    lora = {"lora_name": "look.safetensors", "strength_model": 1.0}
    erased, artifact, _ = graph.erased(model, clip)
    (styled,) = graph("LoraLoaderModelOnly", model=model, **lora)
    (behind,) = graph("LoraLoaderModelOnly", model=erased, **lora)
    in_front = graph.erased(styled, clip)[0]
    look, erasing = weights(styled), artifact.edit.deltas["unet"]["context"]
    NUMBERS["lora_effect"] = max(far(look[name], value) for name, value in weights(model).items())

    def worst(found: dict[str, Any], wanted: dict[str, Any]) -> float:
        return max(far(found[name], value) for name, value in wanted.items() if bool(value.any()))

    NUMBERS["lora_behind"] = worst(weights(behind), mapped(look, erasing))
    (removed,) = graph("LoraLoaderModelOnly", model=behind, **{**lora, "strength_model": -1.0})
    NUMBERS["lora_taken_back"] = worst(weights(removed), mapped(weights(model), erasing))
    NUMBERS["lora_in_front"] = worst(weights(in_front), mapped(look, erasing))
    two, other, _ = graph.erased(erased, clip, "a cat -> a dog")
    both = mapped(weights(model), erasing, other.edit.deltas["unet"]["context"])
    NUMBERS["two_nodes"] = worst(weights(two), both)
    NUMBERS["first_stays"] = worst(weights(erased), mapped(weights(model), erasing))
    NUMBERS["erasures_are_large"] = far(both[KEY], weights(model)[KEY])


def changed_only(extract: Any) -> Any:
    """How the stock node takes a difference apart, for weights that differ: it leaves out what fails, and nothing takes long."""

    def extracted(diff: Any, rank: int) -> Any:
        if not diff.any():
            raise ValueError("nothing to take apart")
        return extract(diff, rank)

    return extracted


def text_encoder(graph: Graph) -> None:
    """A change of the text encoder, in a checkpoint and in a file of its own."""
    import torch

    from comfy_nodes.patches import apply_edit
    from comfy_nodes.target import ComfyTarget
    from erase_plugins.artifacts.edit import Edit, LowRank

    model, clip, vae = graph.loaded(Path(BASE))
    target = ComfyTarget(model, clip)
    draw = torch.Generator().manual_seed(3)
    deltas = {
        ref.weight: LowRank(
            0.02 * torch.randn(2, ref.shape[1], generator=draw), 0.2 * torch.randn(ref.shape[0], 2, generator=draw)
        )
        for ref in target.info.refs
        if ref.component == "text_encoder" and ref.path.endswith(("q_proj", "v_proj"))
    }
    done = apply_edit(target, Edit("sd1", {"text_encoder": deltas}), 1.0)
    NUMBERS["clip_report"] = done.report("text", 1.0)

    def rows(item: Any) -> Any:
        return graph("CLIPTextEncode", clip=item, text=PROMPT)[0][0][0].clone()

    base, live = rows(clip), rows(done.clip)
    NUMBERS["clip_effect"] = far(live, base)
    file = graph.checkpoint("with_text", model, done.clip, vae)
    NUMBERS["clip_in_checkpoint"] = far(rows(graph.loaded(file)[1]), live)
    file = graph.saved("CLIPSave", "text", clip=done.clip)
    goal = file.rename(graph.output.parent / "models" / "text_encoders" / file.name)
    (alone,) = graph("CLIPLoader", clip_name=goal.name, type="stable_diffusion")
    NUMBERS["clip_alone"] = far(rows(alone), live)
    NUMBERS["clip_base_after"] = bool(rows(clip).equal(base))


KEY = "middle_block.1.transformer_blocks.0.attn2.to_k.weight"


def main(comfy_dir: str, work: Path) -> None:
    sys.path.insert(0, comfy_dir)
    sys.argv = ["x", "--cpu", "--base-directory", str(work)]
    logging.disable(logging.INFO)
    import comfy.options

    comfy.options.enable_args_parsing()
    import folder_paths
    import nodes as stock
    import torch
    from comfy_extras import nodes_lora_extract, nodes_model_merging

    from comfy_nodes import NODE_CLASS_MAPPINGS as ours

    shallow()
    nodes_lora_extract.extract_lora = changed_only(nodes_lora_extract.extract_lora)
    folder_paths.set_output_directory(str(work / "output"))
    kinds = {**stock.NODE_CLASS_MAPPINGS, **nodes_model_merging.NODE_CLASS_MAPPINGS, **ours}
    kinds.update({"LoraSave": nodes_lora_extract.LoraSave})
    graph = Graph(kinds, work / "output")
    with torch.inference_mode():
        for part in (saving, baked, merging, order, text_encoder):
            part(graph)
    print("RESULT " + json.dumps(NUMBERS))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
