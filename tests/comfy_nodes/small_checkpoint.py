"""Runs inside the ComfyUI interpreter: writes a Stable Diffusion 1.5 checkpoint that the stock loader recognises.

Usage: python small_checkpoint.py COMFY_DIR FILE. All weights are random. ComfyUI knows the family by channels and text
width, so only the depth of the UNet is small, and that of the text encoder where the loader is told so (`shallow`); its autoencoder
has one size for all checkpoints.
"""

from __future__ import annotations

import json
import logging
import sys

from full_size import clip_of_sd15
from small_sdxl import randomise, shallow

UNET = {
    "image_size": 32, "in_channels": 4, "out_channels": 4, "model_channels": 320, "channel_mult": [1, 1],
    "num_res_blocks": [1, 1], "transformer_depth": [1, 0], "transformer_depth_output": [1, 1, 0, 0],
    "transformer_depth_middle": 1, "context_dim": 768, "num_heads": 8, "num_head_channels": -1,
    "use_linear_in_transformer": False, "use_spatial_transformer": True, "legacy": False, "adm_in_channels": None,
    "use_temporal_attention": False, "use_temporal_resblock": False,
}  # fmt: skip
VAE = {
    "double_z": True, "z_channels": 4, "resolution": 256, "in_channels": 3, "out_ch": 3, "ch": 128,
    "ch_mult": [1, 2, 4, 4], "num_res_blocks": 2, "attn_resolutions": [], "dropout": 0.0,
}  # fmt: skip


def main(comfy_dir: str, file: str) -> None:
    sys.path.insert(0, comfy_dir)
    sys.argv = ["x", "--cpu"]
    logging.disable(logging.INFO)
    import comfy.options

    comfy.options.enable_args_parsing()
    import comfy.supported_models
    import torch
    from comfy.ldm.models.autoencoder import AutoencoderKL
    from safetensors.torch import save_file

    shallow()
    chosen = comfy.supported_models.SD15(dict(UNET))
    chosen.set_inference_dtype(torch.float32, None)
    parts = {
        "model.diffusion_model.": randomise(chosen.get_model({}, "", device="cpu").diffusion_model, 0),
        "first_stage_model.": randomise(AutoencoderKL(ddconfig=VAE, embed_dim=4), 1),
        "cond_stage_model.transformer.": clip_of_sd15().cond_stage_model.clip_l.transformer,
    }
    tensors = {
        prefix + name: value.half().contiguous()
        for prefix, part in parts.items()
        for name, value in part.state_dict().items()
    }
    save_file(tensors, file, metadata={"format": "pt"})
    print("RESULT " + json.dumps({"megabytes": sum(value.nbytes for value in tensors.values()) / 2**20}))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
