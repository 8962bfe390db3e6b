"""Runs inside the ComfyUI interpreter: stock loaders put LoRA files on the embedded model, patched weights come back.

Usage: python stock_lora.py COMFY_DIR JOB.json, where JOB.json names model (diffusers folder), files, strength and out.
Imports nothing of this project; the output file has tensors "INDEX|component|parameter", JSON counts go to stdout.
"""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path
from typing import Any


def ldm_config(config: dict[str, Any]) -> dict[str, Any]:
    """Configuration of the original UNet for a diffusers one."""
    blocks, layers = config["block_out_channels"], config["layers_per_block"]
    down = [1 if "CrossAttn" in name else 0 for name in config["down_block_types"]]
    up = [1 if "CrossAttn" in name else 0 for name in reversed(config["up_block_types"])]
    return {
        "image_size": 32, "legacy": False, "use_checkpoint": False, "use_spatial_transformer": True,
        "in_channels": config["in_channels"], "out_channels": config["out_channels"],
        "context_dim": config["cross_attention_dim"], "model_channels": blocks[0],
        "channel_mult": [item // blocks[0] for item in blocks], "num_res_blocks": [layers] * len(blocks),
        "transformer_depth": [depth for depth in down for _ in range(layers)],
        "transformer_depth_output": [depth for depth in up for _ in range(layers + 1)],
        "transformer_depth_middle": 1, "num_heads": config["attention_head_dim"], "num_head_channels": -1,
        "use_linear_in_transformer": bool(config.get("use_linear_projection")), "adm_in_channels": None,
        "use_temporal_attention": False, "use_temporal_resblock": False,
    }  # fmt: skip


def load_unet(folder: Path) -> tuple[Any, dict[str, str]]:
    """ModelPatcher of a diffusers UNet, and the map of parameter names."""
    import torch
    from comfy import latent_formats, model_management, model_patcher, supported_models, utils

    config = ldm_config(json.loads((folder / "unet" / "config.json").read_text(encoding="utf-8")))

    class Small(supported_models.SD15):
        unet_config: dict[str, Any] = {}
        unet_extra_config: dict[str, Any] = {}

    chosen = Small(config)
    chosen.latent_format = latent_formats.SD15(scale_factor=1.0)
    chosen.set_inference_dtype(torch.float32, None)
    device = model_management.unet_offload_device()
    model = chosen.get_model({}, "", device=device)
    names = utils.unet_to_diffusers(config)
    weights = utils.load_torch_file(str(folder / "unet" / "diffusion_pytorch_model.safetensors"), safe_load=True)
    renamed = {names[key]: value.float() for key, value in weights.items()}
    missing = set(model.diffusion_model.state_dict()) ^ set(renamed)
    if missing:
        raise SystemExit(f"names differ: {sorted(missing)[:3]}")
    model.load_model_weights(renamed, "")
    return model_patcher.ModelPatcher(model, load_device=device, offload_device=device), names


class TextEncoder:
    """As much of a CLIP model as the key map looks at: names and weights."""

    def __init__(self, folder: Path) -> None:
        from comfy import utils

        stored = utils.load_torch_file(str(folder / "text_encoder" / "model.safetensors"), safe_load=True)
        self.weights = {
            f"clip_l.transformer.text_model.{name.removeprefix('text_model.')}": value.float()
            for name, value in stored.items()
        }

    def state_dict(self) -> dict[str, Any]:
        """Names and weights."""
        return self.weights


def run(job: dict[str, Any]) -> None:
    """Patches the model with every file in turn and saves what changed."""
    import comfy.lora
    import comfy.lora_convert
    import comfy.sd
    import comfy.utils
    import torch
    from safetensors.torch import save_file

    folder = Path(job["model"])
    patcher, names = load_unet(folder)
    text = TextEncoder(folder)
    reverse = {value: key for key, value in names.items()}
    out, counts = {}, []
    untouched = {key: value.clone() for key, value in patcher.model.diffusion_model.state_dict().items()}
    for index, file in enumerate(job["files"]):
        lora = comfy.utils.load_torch_file(file, safe_load=True)
        edited, _ = comfy.sd.load_lora_for_models(patcher, None, lora, job["strength"], 0.0)
        edited.patch_model(device_to=torch.device("cpu"))
        unet = 0
        for key, value in edited.model.diffusion_model.state_dict().items():
            if f"diffusion_model.{key}" in edited.patches:
                unet += 1
                out[f"{index}|unet|{reverse[key]}"] = value.detach().clone().contiguous()
        edited.unpatch_model(device_to=torch.device("cpu"))
        for key, value in patcher.model.diffusion_model.state_dict().items():
            if not torch.equal(value, untouched[key]):
                raise SystemExit(f"{key} was not restored")
        patches = comfy.lora.load_lora(
            comfy.lora_convert.convert_lora(lora), comfy.lora.model_lora_keys_clip(text, {}), log_missing=False
        )
        for key, patch in patches.items():
            value = comfy.lora.calculate_weight(
                [(job["strength"], patch, 1.0, None, None)], text.weights[key].clone(), key
            )
            out[f"{index}|text_encoder|{key.removeprefix('clip_l.transformer.text_model.')}"] = value.contiguous()
        counts.append({"unet": unet, "text_encoder": len(patches)})
    save_file(out, job["out"])
    maps = {name: comfy.utils.unet_to_diffusers(config) for name, config in job["maps"].items()}
    print("RESULT " + json.dumps({"counts": counts, "maps": maps, "names": names}))


if __name__ == "__main__":
    comfy_dir, job_file = sys.argv[1:3]
    sys.path.insert(0, comfy_dir)
    sys.argv = ["x", "--cpu"]
    logging.disable(logging.INFO)
    import comfy.options

    comfy.options.enable_args_parsing()
    run(json.loads(Path(job_file).read_text(encoding="utf-8")))
