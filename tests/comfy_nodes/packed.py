"""Runs inside the ComfyUI interpreter: edits on weights that only their modules can read, as the packs for GGUF files
keep them, beside the same weights in fp32. (A file named gguf beside it would hide the package of that name.)

Usage: python packed.py COMFY_DIR WORK; WORK/models/erase_plugins holds the artifacts. The real pack needs a real file; its
way of keeping weights is stood in for: bytes that lie about their shape, patches on the tensor, a list of weights with
entries that are only there to count memory.
"""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path
from typing import Any

PROMPT = "a pizza on a blue background"


def main(comfy_dir: str, work: Path) -> None:
    sys.path.insert(0, comfy_dir)
    sys.argv = ["x", "--cpu"]
    logging.disable(logging.INFO)
    import comfy.options

    comfy.options.enable_args_parsing()
    import comfy.lora
    import comfy.model_management
    import comfy.model_patcher
    import comfy.ops
    import folder_paths
    import torch

    from comfy_nodes import NODE_CLASS_MAPPINGS as nodes

    class Bytes(torch.Tensor):
        """A scale and a byte per value, a row of the weight a row."""

        def to(self, *arguments: Any, **named: Any) -> Any:
            new = super().to(*arguments, **named)
            new.tensor_type, new.tensor_shape, new.patches = "bytes", self.tensor_shape, [*self.patches]
            return new

        def detach(self) -> Any:
            return self

        @property
        def shape(self) -> Any:
            return getattr(self, "tensor_shape", None) or self.size()

    class Linear(comfy.ops.manual_cast.Linear):
        largest = False

        def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
            destination[f"{prefix}weight"] = torch.zeros(1, device="meta")
            if self.bias is not None:
                destination[f"{prefix}bias"] = torch.zeros(1, device="meta")
            if self.largest:
                destination[f"{prefix}temp.weight"] = torch.zeros(1, device="meta")

        def get_weight(self, tensor: Any, dtype: Any) -> Any:
            raw = tensor.as_subclass(torch.Tensor)
            scale = raw[:, :4].contiguous().view(torch.float32)
            weight = ((raw[:, 4:].float() - 128) * scale).to(dtype)
            for patches, key in getattr(tensor, "patches", ()):
                weight = comfy.lora.calculate_weight(patches, weight, key)
            return weight

        def forward(self, x: Any) -> Any:
            bias = None if self.bias is None else self.bias.to(x.dtype)
            return torch.nn.functional.linear(x, self.get_weight(self.weight, x.dtype), bias)

    class Patcher(comfy.model_patcher.ModelPatcher):
        def patch_weight_to_device(self, key: str, device_to: Any = None, inplace_update: bool = False) -> Any:
            weight = comfy.utils.get_attr(self.model, key)
            if not isinstance(weight, Bytes):
                return super().patch_weight_to_device(key, device_to, inplace_update)
            if key in self.patches:
                weight.patches = [(self.patches[key], key)]
            return None

        def unpatch_model(self, *arguments: Any, **named: Any) -> Any:
            for weight in self.model.parameters():
                if isinstance(weight, Bytes):
                    weight.patches = []
            return super().unpatch_model(*arguments, **named)

    def packed(module: Any, name: str) -> None:
        """Keeps the linear layers inside as bytes."""
        for child_name, child in module.named_children():
            packed(child, f"{name}.{child_name}")
            if not isinstance(child, torch.nn.Linear):
                continue
            weight = child.weight.detach().float()
            scale = (weight.abs().amax(1, keepdim=True) / 127).clamp(min=1e-9)
            values = (weight / scale).round().add(128).to(torch.uint8)
            kept = torch.cat([scale.contiguous().view(torch.uint8), values], 1).as_subclass(Bytes)
            kept.tensor_type, kept.tensor_shape, kept.patches = "bytes", weight.shape, []
            child.__class__ = Linear
            child.largest = child_name == "to_k"
            child.weight = torch.nn.Parameter(kept, requires_grad=False)

    def predicted(model: Any, context: Any) -> Any:
        draw = torch.Generator().manual_seed(3)
        noisy = torch.randn(2, 4, 16, 16, generator=draw)
        comfy.model_management.load_models_gpu([model], force_patch_weights=True)
        with torch.no_grad():
            return model.model.diffusion_model(
                noisy, timesteps=torch.tensor([700.0, 120.0]), context=context,
                transformer_options=model.model_options["transformer_options"],
            ).clone()  # fmt: skip

    def far(found: Any, wanted: Any) -> float:
        return float((found - wanted).norm() / wanted.norm())

    def read(model: Any) -> dict[str, float]:
        """What we read of a weight on which a LoRA of somebody else hangs, while that model is loaded, and of a clone
        without it, which has the same tensors; and what the model's own module makes of it before and after."""
        from comfy_nodes.weights import PatchedWeights

        names = dict(model.model.diffusion_model.named_modules())
        name = next(name for name, module in names.items() if isinstance(module, Linear) and module.largest)
        key, module = f"diffusion_model.{name}.weight", names[name]
        plain = module.get_weight(module.weight, torch.float32).clone()
        change = torch.randn(plain.shape, generator=torch.Generator().manual_seed(5))
        under, without = model.clone(), model.clone()
        under.add_patches({key: ("diff", (change,))}, 0.5)
        comfy.model_management.load_models_gpu([under], force_patch_weights=True)
        used = module.get_weight(module.weight, torch.float32).clone()
        weights, bare = PatchedWeights(under), PatchedWeights(without)
        found = {
            "change": far(used, plain), "base": far(weights.base(key).float(), plain),
            "effective": far(weights.effective(key), plain + 0.5 * change), "clone": far(bare.effective(key), plain),
            "rows": far(weights.effective_rows(key, torch.arange(3)), (plain + 0.5 * change)[:3]),
            "shape": float(weights.sample(key)[0] == tuple(plain.shape)),
            "after": far(module.get_weight(module.weight, torch.float32), used),
        }  # fmt: skip
        comfy.model_management.unload_all_models()
        return found

    folder_paths.models_dir = str(work / "models")
    out: dict[str, Any] = {}
    with torch.inference_mode():
        kept, clip, _ = nodes["ErasePocketLoader"]().execute()[:3]
        plain = nodes["ErasePocketLoader"]().execute()[0]
        packed(kept.model.diffusion_model, "")
        kept.__class__ = Patcher
        mine, theirs = (dict(item.model.diffusion_model.named_modules()) for item in (kept, plain))
        for name, module in mine.items():
            if isinstance(module, Linear):
                theirs[name].weight.copy_(module.get_weight(module.weight, torch.float32))
        context = clip.encode_from_tokens(clip.tokenize(PROMPT)).expand(2, -1, -1)
        base = predicted(kept, context)
        out["same_base"] = far(base, predicted(plain, context))

        def compare(name: str, node: str, **ask: Any) -> None:
            # weights that were rounded and written in fp32 are others; those of the file are the base in few bits
            fits = lambda model: {"any_base": model is plain} if "artifact" in ask else {}  # noqa: E731
            (edited, *_, report), (wanted, *_) = (
                nodes[node]().execute(model=model, clip=clip, **ask, **fits(model))["result"] for model in (kept, plain)
            )
            first, second = predicted(edited, context), predicted(wanted, context)
            out[name] = {
                "error": far(first, second), "effect": far(second, base), "report": report,
                "base_after": bool((predicted(kept, context) == base).all()),
            }  # fmt: skip

        for folder in sorted((work / "models" / "erase_plugins").iterdir()):
            compare(folder.name, "EraseLoadArtifact", artifact=folder.name, strength=0.6, strength_clip=0.0)
        edit = nodes["EraseLoadArtifact"]().execute(
            model=kept, clip=clip, artifact="lowrank", strength=0.6, strength_clip=0.0, any_base=True
        )["result"][2]
        try:
            nodes["EraseStrength"]().execute(edit=edit, model=kept, strength=1.0, over_time="0 : 1\n0.8 : 0", layers="")
        except Exception as error:
            out["curve"] = str(error)
        out["read"] = read(kept)
        compare("erased", "EraseNegative", erase="pizza -> hamburger", method="uce", strength=1.0, kind="object")
    print("RESULT " + json.dumps(out))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
