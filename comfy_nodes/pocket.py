"""The embedded pocket model as ComfyUI objects, so that the stock nodes run on it.

Stock loaders know the published sizes only, so it is put together here from its diffusers folder.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor

from erase_plugins.errors import PluginError, Unsupported

_BETAS = {"scaled_linear": "linear", "linear": "sqrt_linear"}


def original_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """ComfyUI's UNet configuration for a diffusers one; inverse of `naming.unet_config`."""
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


def vae_names(keys: list[str], levels: int) -> dict[str, str]:
    """diffusers name -> original name of every parameter of an autoencoder with ``levels`` levels."""
    return {key: _vae_name(key, levels) for key in keys}


def _vae_name(key: str, levels: int) -> str:
    parts = key.split(".")
    if parts[0] not in ("encoder", "decoder"):
        return key
    side, rest = parts[0], parts[1:]
    if rest[0] == "mid_block":
        index = int(rest[2])
        if rest[1] == "resnets":
            return ".".join([side, "mid", f"block_{index + 1}", *_shortcut(rest[3:])])
        inner = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out": "proj_out"}[rest[3]]
        return ".".join([side, "mid", f"attn_{index + 1}", inner, rest[-1]])
    if rest[0] in ("down_blocks", "up_blocks"):
        level = int(rest[1]) if rest[0] == "down_blocks" else levels - 1 - int(rest[1])
        place = f"{side}.{rest[0].removesuffix('_blocks')}.{level}"
        if rest[2] == "resnets":
            return ".".join([place, "block", rest[3], *_shortcut(rest[4:])])
        return ".".join([place, {"downsamplers": "downsample", "upsamplers": "upsample"}[rest[2]], *rest[4:]])
    return ".".join([side, *["norm_out" if item == "conv_norm_out" else item for item in rest]])


def _shortcut(rest: list[str]) -> list[str]:
    return ["nin_shortcut" if item == "conv_shortcut" else item for item in rest]


def _read(folder: Path, component: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    from erase_plugins.artifacts.tensors import read_tensors

    place = folder / component
    (file,) = place.glob("*.safetensors")
    tensors, _ = read_tensors(file)
    config = json.loads((place / "config.json").read_text(encoding="utf-8"))
    return config, {key: value.float() for key, value in tensors.items()}


def load_model(folder: Path, name: str) -> Any:
    """MODEL of a small diffusers folder."""
    import torch
    from comfy import latent_formats, model_base, model_management, model_patcher, supported_models

    from .naming import denoiser_names
    from .target import NAME, SIZE

    config, weights = _read(folder, "unet")
    scheduler = json.loads((folder / "scheduler" / "scheduler_config.json").read_text(encoding="utf-8"))
    vae = json.loads((folder / "vae" / "config.json").read_text(encoding="utf-8"))
    if scheduler["beta_schedule"] not in _BETAS:
        raise Unsupported(f"beta schedule {scheduler['beta_schedule']} has no counterpart in ComfyUI")
    kinds = {"epsilon": model_base.ModelType.EPS, "v_prediction": model_base.ModelType.V_PREDICTION}

    class Pocket(supported_models.SD15):
        unet_config: ClassVar[dict[str, Any]] = {}
        unet_extra_config: ClassVar[dict[str, Any]] = {}
        sampling_settings: ClassVar[dict[str, Any]] = {
            "beta_schedule": _BETAS[scheduler["beta_schedule"]], "linear_start": scheduler["beta_start"],
            "linear_end": scheduler["beta_end"], "timesteps": scheduler["num_train_timesteps"],
        }  # fmt: skip

        def model_type(self, state_dict: Any, prefix: str = "") -> Any:
            return kinds[scheduler["prediction_type"]]

    original = original_config(config)
    chosen = Pocket(original)
    chosen.latent_format = latent_formats.SD15(scale_factor=vae["scaling_factor"])
    chosen.latent_format.spacial_downscale_ratio = 2 ** (len(vae["block_out_channels"]) - 1)
    chosen.set_inference_dtype(torch.float32, None)
    offload = model_management.unet_offload_device()
    model = chosen.get_model({}, "", device=offload)
    names = denoiser_names(model.diffusion_model.state_dict(), config["layers_per_block"])
    _same(set(names), set(weights), "UNet")
    model.load_model_weights({names[key]: value for key, value in weights.items()}, "")
    patcher = model_patcher.ModelPatcher(model, load_device=model_management.get_torch_device(), offload_device=offload)
    patcher.set_attachments(NAME, name)
    patcher.set_attachments(SIZE, config["sample_size"])
    return patcher


def load_clip(folder: Path) -> Any:
    """CLIP of a small diffusers folder."""
    import torch
    from comfy import sd, sd1_clip, supported_models_base

    config, weights = _read(folder, "text_encoder")
    length, width = config["max_position_embeddings"], config["hidden_size"]
    special = {"start": config["bos_token_id"], "end": config["eos_token_id"], "pad": config["pad_token_id"]}

    class Inner(sd1_clip.SDClipModel):
        def __init__(self, device: Any = "cpu", dtype: Any = None, model_options: Any = None) -> None:
            super().__init__(
                device=device, dtype=dtype, max_length=length, special_tokens=special, return_projected_pooled=False,
                textmodel_json_config=dict(config), model_options=model_options or {},
            )  # fmt: skip
            table = self.operations.Embedding(config["vocab_size"], width, dtype=dtype, device=device)
            self.transformer.set_input_embeddings(table)

    class Encoder(sd1_clip.SD1ClipModel):
        def __init__(self, device: Any = "cpu", dtype: Any = None, model_options: Any = None) -> None:
            super().__init__(device=device, dtype=dtype, model_options=model_options or {}, clip_model=Inner)

    class Words(sd1_clip.SDTokenizer):
        def __init__(self, embedding_directory: Any = None, tokenizer_data: Any = None) -> None:
            super().__init__(
                tokenizer_path=str(folder / "tokenizer"), max_length=length, embedding_directory=embedding_directory,
                embedding_size=width, embedding_key="clip_l", tokenizer_data=tokenizer_data or {},
            )  # fmt: skip

    class Tokenizer(sd1_clip.SD1Tokenizer):
        def __init__(self, embedding_directory: Any = None, tokenizer_data: Any = None) -> None:
            super().__init__(embedding_directory, tokenizer_data or {}, tokenizer=Words)

    clip = sd.CLIP(supported_models_base.ClipTarget(Tokenizer, Encoder), model_options={"dtype": torch.float32})
    named = {f"text_model.{key.removeprefix('text_model.')}": value for key, value in weights.items()}
    named["text_projection.weight"] = torch.eye(width)  # unused; identity rather than whatever memory held
    missing, unexpected = clip.load_sd(named)
    _same(set(), {*missing, *unexpected} - {"logit_scale"}, "text encoder")
    return clip


def load_vae(folder: Path) -> Any:
    """VAE of a small diffusers folder."""
    import torch
    from comfy import sd

    config, weights = _read(folder, "vae")
    blocks = config["block_out_channels"]
    names = vae_names(list(weights), len(blocks))
    renamed = {
        names[key]: value[:, :, None, None] if ".attentions." in key and value.ndim == 2 else value
        for key, value in weights.items()
    }
    parameters = {
        "ddconfig": {
            "double_z": True, "z_channels": config["latent_channels"], "resolution": config["sample_size"],
            "in_channels": config["in_channels"], "out_ch": config["out_channels"], "ch": blocks[0],
            "ch_mult": [item // blocks[0] for item in blocks], "num_res_blocks": config["layers_per_block"],
            "attn_resolutions": [], "dropout": 0.0,
        },
        "embed_dim": config["latent_channels"],
    }  # fmt: skip
    vae = sd.VAE(renamed, config={"params": parameters}, dtype=torch.float32)
    _same(set(vae.first_stage_model.state_dict()), set(renamed), "autoencoder")
    for module in vae.first_stage_model.modules():
        if isinstance(module, torch.nn.GroupNorm):  # ComfyUI always takes 32 groups
            module.num_groups = config["norm_num_groups"]
    vae.downscale_ratio = vae.upscale_ratio = 2 ** (len(blocks) - 1)
    vae.latent_channels = config["latent_channels"]
    return vae


def _same(expected: set[str], found: set[str], what: str) -> None:
    if expected != found:
        odd = sorted(expected ^ found)[0]
        raise PluginError(f"the {what} of this ComfyUI names its weights differently ({odd}); update erase-plugins")
