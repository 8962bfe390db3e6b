"""A node pack for the test server: a small Stable Diffusion XL with random weights in place of the checkpoint loader.

The stock loader cannot give one: it builds CLIP-G in its one size, 694 million weights, which a CPU encodes in minutes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

UNET = {
    "image_size": 32, "in_channels": 4, "out_channels": 4, "model_channels": 32, "channel_mult": [1, 2],
    "num_res_blocks": [2, 2], "transformer_depth": [0, 0, 2, 2], "transformer_depth_output": [0, 0, 0, 2, 2, 2],
    "transformer_depth_middle": 2, "context_dim": 128, "num_heads": -1, "num_head_channels": 32,
    "use_linear_in_transformer": True, "use_spatial_transformer": True, "legacy": False, "num_classes": "sequential",
    "adm_in_channels": 64 + 6 * 256, "use_temporal_attention": False, "use_temporal_resblock": False,
}  # fmt: skip
ENCODER = {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 2, "num_hidden_layers": 3}


def randomise(module: Any, seed: int) -> Any:
    """The module with small random weights; norms do nothing."""
    import torch

    draw = torch.Generator().manual_seed(seed)
    for name, parameter in module.named_parameters():
        if parameter.ndim == 1:  # gains of norms, biases
            parameter.data = torch.ones_like(parameter) if name.endswith("weight") else torch.zeros_like(parameter)
        elif parameter.ndim > 1:
            parameter.data = torch.randn(parameter.shape, generator=draw) * parameter[0].numel() ** -0.5
    return module


def shallow() -> None:
    """From now on the text encoder of a loaded Stable Diffusion 1.5 has two layers, unless somebody asks for others.

    ComfyUI knows it by its width alone and always builds twelve layers, which is most of the work on a small UNet.
    """
    import comfy.sd1_clip

    kind = comfy.sd1_clip.SDClipModel
    whole = kind.__init__

    def made(self: Any, *given: Any, model_options: dict[str, Any] | None = None, **more: Any) -> None:
        asked = dict(model_options or {})
        asked["clip_l_model_config"] = {"num_hidden_layers": 2, **asked.get("clip_l_model_config", {})}
        whole(self, *given, model_options=asked, **more)

    kind.__init__ = made


def small_clip() -> Any:
    """CLIP with both text encoders of Stable Diffusion XL and their real tokenizers."""
    import comfy.sd
    import comfy.sdxl_clip
    import comfy.supported_models_base
    import torch

    kinds = comfy.supported_models_base.ClipTarget(comfy.sdxl_clip.SDXLTokenizer, comfy.sdxl_clip.SDXLClipModel)
    options = {"dtype": torch.float32, "clip_l_model_config": ENCODER, "clip_g_model_config": ENCODER}
    clip = comfy.sd.CLIP(kinds, model_options=options)
    randomise(clip.cond_stage_model, 1)
    return clip


class SmallSDXL:
    """Takes the place of the checkpoint loader; the autoencoder is that of pocket."""

    RETURN_TYPES = ("MODEL", "CLIP", "VAE")
    FUNCTION = "make"
    CATEGORY = "test"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {}}

    def make(self) -> tuple[Any, Any, Any]:
        import comfy.model_management
        import comfy.model_patcher
        import comfy.supported_models
        import torch

        from comfy_nodes.pocket import load_vae
        from erase_plugins.families.source import pocket_folder

        chosen = comfy.supported_models.SDXL(dict(UNET))
        chosen.set_inference_dtype(torch.float32, None)
        place = comfy.model_management.unet_offload_device()
        model = chosen.get_model({}, "", device=place)
        randomise(model.diffusion_model, 0)
        patcher = comfy.model_patcher.ModelPatcher(model, comfy.model_management.get_torch_device(), place)
        return patcher, small_clip(), load_vae(Path(pocket_folder()))


NODE_CLASS_MAPPINGS = {"SmallSDXL": SmallSDXL}
