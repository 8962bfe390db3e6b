"""Runs inside the ComfyUI interpreter: our nodes beside diffusers with the same edits; prints numbers as JSON.

Usage: python parity.py COMFY_DIR WORK, with this repository on PYTHONPATH. The test of the same name asserts.
"""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path
from typing import Any

from solutions import far, solutions

NUMBERS: dict[str, Any] = {}


class Case:
    """One noisy latent and one prompt on both hosts."""

    def __init__(self, pipe: Any, model: Any, clip: Any) -> None:
        import torch

        draw = torch.Generator().manual_seed(3)
        self.pipe, self.model, self.clip = pipe, model, clip
        self.x = torch.randn(2, 4, 16, 16, generator=draw)
        self.t = torch.tensor([700.0, 120.0])

    def context(self, clip: Any = None) -> Any:
        """Text rows from ComfyUI, (2, tokens, width)."""
        import torch

        used = self.clip if clip is None else clip
        texts = ("a pizza on a blue background", "a photo of a dog")
        return torch.cat([used.encode_from_tokens(used.tokenize(text)) for text in texts])

    def comfy(self, model: Any = None, context: Any = None) -> Any:
        """Prediction of ComfyUI's UNet under everything that hangs on the MODEL."""
        import comfy.model_management
        import torch

        patcher = self.model if model is None else model
        comfy.model_management.load_models_gpu([patcher])
        options = {**patcher.model_options["transformer_options"], "wrappers": patcher.wrappers}
        with torch.no_grad():
            return patcher.model.diffusion_model(
                self.x, timesteps=self.t, context=self.context() if context is None else context,
                transformer_options=options,
            ).clone()  # fmt: skip

    def diffusers(self, context: Any = None) -> Any:
        """Prediction of diffusers' UNet."""
        import torch

        rows = self.context() if context is None else context
        with torch.no_grad():
            return self.pipe.unet(self.x, self.t, encoder_hidden_states=rows, return_dict=False)[0]

    def diffusers_context(self) -> Any:
        """Text rows from diffusers."""
        texts = ["a pizza on a blue background", "a photo of a dog"]
        return self.pipe.encode_prompt(texts, "cpu", 1, False)[0].detach()


def loaders(case: Case, vae: Any) -> None:
    """The three parts of pocket on both hosts."""
    import torch

    NUMBERS["text_encoder"] = far(case.context(), case.diffusers_context())
    NUMBERS["unet"] = far(case.comfy(), case.diffusers())
    latents = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        theirs = (case.pipe.vae.decode(latents, return_dict=False)[0] / 2 + 0.5).clamp(0, 1)
        NUMBERS["vae_decode"] = far(vae.decode(latents), theirs.permute(0, 2, 3, 1))
        picture = torch.rand(1, 64, 64, 3, generator=torch.Generator().manual_seed(6))
        mean = case.pipe.vae.encode(picture.permute(0, 3, 1, 2) * 2 - 1).latent_dist.mean
        NUMBERS["vae_shape"] = [list(vae.encode(picture).shape), list(mean.shape)]


def erasing(case: Case, nodes: dict[str, Any]) -> None:
    """Closed-form nodes beside `ep.erase` and `ep.apply`."""
    import erase_plugins as ep
    from comfy_nodes import row_maps, solved
    from erase_plugins.workflow.models import target_of

    base, source = case.comfy(), target_of(case.pipe, "pocket")
    for name, method in (("EraseUCE", "uce"), ("EraseRECE", "rece")):
        settings = {"erase": "pizza -> hamburger\ndog", "kind": "object", "keep": "a cat"}
        result = nodes[name]().execute(model=case.model, clip=case.clip, strength=1.0, **settings)
        erased, artifact, report = result["result"]
        NUMBERS[f"{method}_report"] = report
        concepts = [ep.Concept("pizza", anchor="hamburger"), ep.Concept("dog")]
        theirs = ep.erase(source, concepts, method, keep=["a cat"])
        NUMBERS[f"{method}_same_base"] = artifact.manifest.base == theirs.manifest.base
        NUMBERS[f"{method}_solutions"] = solutions(case, source, artifact, theirs)
        with ep.apply(case.pipe, theirs, strength=0.7):
            wanted = case.diffusers()
        half = nodes[name]().execute(model=case.model, clip=case.clip, strength=0.7, **settings)["result"][0]
        found = case.comfy(half)
        NUMBERS[f"{method}_output"] = far(found, wanted)
        NUMBERS[f"{method}_effect"] = far(found, base)
        off = nodes[name]().execute(model=case.model, clip=case.clip, strength=0.0, **settings)["result"][0]
        NUMBERS[f"{method}_solves"] = sum(method in key for key in solved._ENTRIES)
        NUMBERS[f"{method}_off"] = bool((case.comfy(off) == base).all())
        NUMBERS[f"{method}_base_after"] = bool((case.comfy() == base).all())
    twice = nodes["EraseUCE"]().execute(model=erased, clip=case.clip, strength=1.0, erase="car", kind="object")
    first, both = (row_maps.carried(item).loaded_keys for item in (erased, twice["result"][0]))
    NUMBERS["keys_of_two"] = [len(first), first == both]
    NUMBERS["patches_of_two"] = [sorted({len(found) for found in item.patches.values()}) for item in
                                 (erased, twice["result"][0])]  # fmt: skip
    theirs = ep.erase(source, "car", "uce")
    rece = ep.erase(source, concepts, "rece", keep=["a cat"])
    with ep.apply(case.pipe, rece, mode="context"), ep.apply(case.pipe, theirs, mode="context"):
        NUMBERS["two_nodes"] = far(case.comfy(twice["result"][0]), case.diffusers())


def loading(case: Case, nodes: dict[str, Any], work: Path) -> None:
    """Saved edits of every kind through the load node, beside `ep.apply`."""
    import folder_paths

    import erase_plugins as ep

    folder_paths.models_dir = str(work / "models")
    base, base_context = case.comfy(), case.context()
    for folder in sorted(path.parent for path in (work / "models" / "erase_plugins").glob("*/erase.json")):
        kind = folder.name
        loaded = nodes["EraseLoadArtifact"]().execute(
            artifact=kind, model=case.model, clip=case.clip, strength=0.6, strength_clip=0.6, any_base=False
        )
        model, clip, _, report = loaded["result"]
        context = case.context(clip)
        with ep.apply(case.pipe, folder, strength=0.6):
            wanted_context = case.diffusers_context()
            wanted = case.diffusers(wanted_context)
        NUMBERS[f"load_{kind}"] = {
            "report": report, "output": far(case.comfy(model, context), wanted), "text": far(context, wanted_context),
            "changed": far(wanted, base), "clip_changed": far(context, base_context),
            "base_after": bool((case.comfy() == base).all() and (case.context() == base_context).all()),
        }  # fmt: skip


def foreign(case: Case, nodes: dict[str, Any], work: Path) -> None:
    """Files of other programs, and Kohya files that lie in loras, beside our own form of the same edit."""
    import folder_paths

    folder_paths.folder_names_and_paths["loras"] = ([str(work / "loras")], {".safetensors"})

    def load(entry: str, **more: Any) -> Any:
        return nodes["EraseLoadArtifact"]().execute(
            artifact=entry, model=case.model, clip=case.clip, strength=0.6, strength_clip=0.6, any_base=False, **more
        )["result"]

    model, clip, _, _ = load("lowrank")
    wanted, rows = case.comfy(model, case.context(clip)), case.context(clip)
    denoiser = case.comfy(model)
    NUMBERS["foreign"] = {}
    for entry in (
        "foreign_kohya.safetensors",
        "foreign_diffusers.safetensors",
        "foreign_peft.safetensors",
        "ours.safetensors",
    ):
        model, clip, _, report = load(entry)
        partial = "peft" in entry  # one component a file
        found = case.comfy(model) if partial else case.comfy(model, case.context(clip))
        NUMBERS["foreign"][entry] = [
            far(found, denoiser if partial else wanted), 0.0 if partial else far(case.context(clip), rows), report
        ]  # fmt: skip
    combo = nodes["EraseLoadArtifact"].INPUT_TYPES()["required"]["artifact"][0]
    NUMBERS["listed_loras"] = [name for name in combo if (work / "loras" / name).is_file()]
    NUMBERS["referred"] = far(case.comfy(load("lowrank", reference="ours.safetensors")[0]), denoiser)


def several(case: Case, nodes: dict[str, Any], work: Path) -> None:
    """Add-ons of two artifacts on the same layers, and the context map by its own two nodes, beside `ep.apply`."""
    import erase_plugins as ep

    def load(kind: str, model: Any) -> Any:
        return nodes["EraseLoadArtifact"]().execute(
            artifact=kind, model=model, clip=case.clip, strength=0.6, strength_clip=0.6, any_base=False
        )["result"]

    folder = work / "models" / "erase_plugins"
    twice = load("addon_again", load("addon", case.model)[0])[0]
    with ep.apply(case.pipe, folder / "addon", strength=0.6), ep.apply(case.pipe, folder / "addon_again", strength=0.6):
        NUMBERS["two_addons"] = far(case.comfy(twice), case.diffusers())
    edit = load("contextmap", case.model)[2]
    with ep.apply(case.pipe, folder / "contextmap", strength=0.6):
        wanted = case.diffusers()
    patch, conditioning = nodes["EraseEmbeddingPatch"](), nodes["EraseConditioning"]()
    base = case.comfy()
    patched = patch.execute(model=case.model, edit=edit, strength=0.6)["result"][0]
    NUMBERS["embedding_patch"] = far(case.comfy(patched), wanted)
    off = patch.execute(model=case.model, edit=edit, strength=0.0)["result"][0]
    NUMBERS["embedding_patch_off"] = bool((case.comfy(off) == base).all())
    prompt = [[case.context(), {"pooled_output": None, "mask_strength": 0.5}]]
    ((rows, extra),) = conditioning.execute(conditioning=prompt, edit=edit, strength=0.6)["result"][0]
    NUMBERS["embedding_conditioning"] = far(case.comfy(context=rows), wanted)
    same = conditioning.execute(conditioning=prompt, edit=edit, strength=0.0)["result"][0]
    NUMBERS["embedding_conditioning_off"] = same is prompt and extra == prompt[0][1] and extra is not prompt[0][1]
    try:
        patch.execute(model=case.model, edit=load("dense", case.model)[2], strength=1.0)
    except ep.errors.Unsupported as error:
        NUMBERS["embedding_refusal"] = str(error)


def gated(case: Case, nodes: dict[str, Any], work: Path) -> None:
    """A gated edit, sample by sample; twice; and what a clone leaves behind on the shared model."""
    import erase_plugins as ep
    from comfy_nodes.target import ComfyTarget

    def load(model: Any, name: str = "gate") -> Any:
        return nodes["EraseLoadArtifact"]().execute(
            artifact=name, model=model, clip=case.clip, strength=0.6, strength_clip=0.6, any_base=False
        )["result"][0]

    folder = work / "models" / "erase_plugins" / "gate"
    again = folder.with_name("gate_again")
    base, once = case.comfy(), load(case.model)
    found = case.comfy(once)
    twice = load(once, again.name)
    with ep.apply(case.pipe, folder, strength=0.6), ep.apply(case.pipe, again, strength=0.6):
        wanted = case.diffusers()
    NUMBERS["gates"] = {
        "pizza": far(found[:1], base[:1]), "dog": far(found[1:], base[1:]), "two": far(case.comfy(twice), wanted),
        "base_while_loaded": bool((case.comfy() == base).all()),
    }  # fmt: skip
    case.comfy(twice)
    NUMBERS["gates"]["base_while_loaded"] &= bool((case.comfy(load(case.model)) == found).all())
    try:
        _ = ComfyTarget(once, case.clip).live
    except ep.errors.Unsupported as error:
        NUMBERS["gates"]["training"] = str(error)


def saving(case: Case, nodes: dict[str, Any], work: Path) -> None:
    """An edit saved from the graph: the folder, and its Kohya file in the stock loader."""
    import comfy.sd
    import comfy.utils
    import folder_paths

    folder_paths.folder_names_and_paths["loras"] = ([str(work / "loras")], {".safetensors"})
    erased, artifact, _ = nodes["EraseUCE"]().execute(
        model=case.model, clip=case.clip, strength=1.0, erase="pizza", kind="object"
    )["result"]
    result = nodes["EraseSaveArtifact"]().execute(
        edit=artifact, name="From the graph", overwrite=False, kohya_copy=True, model=case.model, clip=case.clip
    )
    NUMBERS["saved"] = result["result"][0]
    NUMBERS["listed"] = nodes["EraseLoadArtifact"].INPUT_TYPES()["required"]["artifact"][0]
    (file,) = {
        path for path in (work / "loras").iterdir() if path.name not in ("ours.safetensors", "somebody.safetensors")
    }
    NUMBERS["copied"] = file.name
    stock, _ = comfy.sd.load_lora_for_models(case.model, None, comfy.utils.load_torch_file(str(file)), 1.0, 0.0)
    NUMBERS["stock_lora"] = far(case.comfy(stock), case.comfy(erased))


def lora_order(case: Case, nodes: dict[str, Any]) -> None:
    """A LoRA in front of the erase node: the target reads effective weights."""
    import torch

    from comfy_nodes.target import ComfyTarget

    target = ComfyTarget(case.model, case.clip)
    ref = target.modules("cross_kv")[0]
    patched = case.model.clone()
    delta = torch.ones(ref.shape)
    patched.add_patches({target.key("unet", ref.weight): ("diff", (delta,))}, 0.5)
    with_lora = ComfyTarget(patched, case.clip)
    NUMBERS["effective"] = far(with_lora.weight(ref), target.base_weight(ref) + 0.5)
    NUMBERS["base_weight"] = bool((with_lora.base_weight(ref) == target.weight(ref)).all())


def main(comfy_dir: str, work: Path) -> None:
    sys.path.insert(0, comfy_dir)
    sys.argv = ["x", "--cpu"]
    logging.disable(logging.INFO)
    import comfy.options

    comfy.options.enable_args_parsing()
    import torch

    import erase_plugins as ep
    from comfy_nodes import NODE_CLASS_MAPPINGS as nodes

    NUMBERS["file"] = ep.__file__
    with torch.inference_mode():  # as ComfyUI runs nodes
        model, clip, vae, *_ = nodes["ErasePocketLoader"]().execute()
        pipe = ep.load("pocket")
    with torch.no_grad():
        case = Case(pipe, model, clip)
        loaders(case, vae)
        with torch.inference_mode():
            erasing(case, nodes)
            loading(case, nodes, work)
            foreign(case, nodes, work)
            several(case, nodes, work)
            gated(case, nodes, work)
            saving(case, nodes, work)
        lora_order(case, nodes)
    print("RESULT " + json.dumps(NUMBERS))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
