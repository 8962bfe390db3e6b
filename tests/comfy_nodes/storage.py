"""Runs inside the ComfyUI interpreter: edits on a base stored in fp8, bf16 or fp16, beside the same weights in fp32.

Usage: python storage.py COMFY_DIR WORK; WORK/models/erase_plugins holds the artifacts.
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
    import comfy.model_management
    import comfy.supported_models
    import folder_paths
    import torch

    from comfy_nodes import NODE_CLASS_MAPPINGS as nodes

    folder_paths.models_dir = str(work / "models")
    usual = comfy.supported_models.SD15.set_inference_dtype
    out: dict[str, Any] = {}

    def model_stored_as(dtype: Any) -> Any:
        if dtype is not None:
            comfy.supported_models.SD15.set_inference_dtype = lambda self, *_: usual(self, dtype, torch.float32)
        try:
            return nodes["ErasePocketLoader"]().execute()[:3]
        finally:
            comfy.supported_models.SD15.set_inference_dtype = usual

    def predicted(model: Any, context: Any) -> Any:
        draw = torch.Generator().manual_seed(3)
        noisy = torch.randn(2, 4, 16, 16, generator=draw)
        comfy.model_management.load_models_gpu([model])
        with torch.no_grad():
            return model.model.diffusion_model(
                noisy, timesteps=torch.tensor([700.0, 120.0]), context=context,
                transformer_options=model.model_options["transformer_options"],
            ).clone()  # fmt: skip

    def far(found: Any, wanted: Any) -> float:
        return float((found - wanted).norm() / wanted.norm())

    def held(edited: Any, plain: Any) -> int:
        """How many tensors of a saved file would differ from those of the base."""
        comfy.model_management.load_models_gpu([plain], force_patch_weights=True)
        before = {key: value.float().clone() for key, value in plain.model.diffusion_model.state_dict().items()}
        comfy.model_management.load_models_gpu([edited], force_patch_weights=True)
        after = edited.model.diffusion_model.state_dict()
        return sum(not before[key].equal(value.float()) for key, value in after.items())

    def lowvram() -> dict[str, Any]:
        """An erased model whose weights are patched at every use, and what is saved of it then."""
        model, clip, _ = model_stored_as(torch.float16)
        ask = {"artifact": "contextmap", "strength": 0.6, "strength_clip": 0.0, "any_base": True}
        edited = nodes["EraseLoadArtifact"]().execute(model=model, clip=clip, **ask)["result"][0]
        context = clip.encode_from_tokens(clip.tokenize(PROMPT)).expand(2, -1, -1)
        base, wanted = predicted(model, context), predicted(edited, context)
        patched = {key: value.clone() for key, value in edited.model.diffusion_model.state_dict().items()}
        comfy.model_management.unload_all_models()
        edited.patch_model(edited.offload_device, lowvram_model_memory=1)
        options = edited.model_options["transformer_options"]
        draw = torch.Generator().manual_seed(3)
        noisy = torch.randn(2, 4, 16, 16, generator=draw)
        found = edited.model.diffusion_model(
            noisy, timesteps=torch.tensor([700.0, 120.0]), context=context, transformer_options=options
        )
        count = edited.model.lowvram_patch_counter
        edited.partially_load(edited.offload_device, 1, force_patch_weights=True)
        saved = edited.model.diffusion_model.state_dict()
        same = all(saved[key].equal(value) for key, value in patched.items())
        edited.detach()
        return {
            "error": far(found, wanted), "patched_at_use": count, "saved_is_patched": same, "effect": far(wanted, base),
            "base_after": bool((predicted(model, context) == base).all()),
        }  # fmt: skip

    with torch.inference_mode():
        for name, dtype in (
            ("fp8_e4m3", torch.float8_e4m3fn),
            ("fp8_e5m2", torch.float8_e5m2),
            ("bf16", torch.bfloat16),
            ("fp16", torch.float16),
        ):
            stored, clip, _ = model_stored_as(dtype)
            plain, _, _ = model_stored_as(None)
            rounded = {key: value.float() for key, value in stored.model.diffusion_model.state_dict().items()}
            plain.model.diffusion_model.load_state_dict(rounded)
            context = clip.encode_from_tokens(clip.tokenize(PROMPT)).expand(2, -1, -1)
            base = predicted(stored, context)
            found: dict[str, Any] = {"dtype": str(next(stored.model.diffusion_model.parameters()).dtype)}
            # the edited weights, rounded as a file of this type rounds them; no file of ours is written in 8 bit
            once = model_stored_as(None)[0] if dtype.itemsize == 2 else None
            for folder in sorted((work / "models" / "erase_plugins").iterdir()):
                ask = {"artifact": folder.name, "strength": 0.6, "strength_clip": 0.0, "any_base": True}
                edited, _, _, report = nodes["EraseLoadArtifact"]().execute(model=stored, clip=clip, **ask)["result"]
                wanted = nodes["EraseLoadArtifact"]().execute(model=plain, clip=clip, **ask)["result"][0]
                ours, theirs = predicted(edited, context), predicted(wanted, context)
                exact = {key: value.clone() for key, value in wanted.model.diffusion_model.state_dict().items()}
                if once is not None:
                    once.model.diffusion_model.load_state_dict({key: value.to(dtype) for key, value in exact.items()})
                found[folder.name] = {
                    "error": far(ours, theirs), "report": report, "effect": far(theirs, base),
                    "error_of_rounded": None if once is None else far(ours, predicted(once, context)),
                    "base_after": bool((predicted(stored, context) == base).all()),
                    "held": held(edited, stored),
                }  # fmt: skip
            out[name] = found
        out["lowvram"] = lowvram()
    print("RESULT " + json.dumps(out))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
