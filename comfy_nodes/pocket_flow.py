"""The embedded flow transformer as ComfyUI objects: a Stable Diffusion 3 of toy size, both text encoders of it CLIP."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from erase_plugins.families.flow_names import original_places
from erase_plugins.families.model import ModuleRef
from erase_plugins.manager import get_manager

from .pocket import _read, _same

#: norms of queries and keys, which are no linear layers
_NORMS = {
    "norm_q": "x_block.attn.ln_q", "norm_k": "x_block.attn.ln_k", "norm_added_q": "context_block.attn.ln_q",
    "norm_added_k": "context_block.attn.ln_k",
}  # fmt: skip


def original_weights(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights of a diffusers `SD3Transformer2DModel` by their original names, which ComfyUI's denoiser has."""
    refs = [
        ModuleRef("transformer", name.removesuffix(".weight"), "linear" if value.ndim == 2 else "conv",
                  tuple(value.shape), True)
        for name, value in weights.items() if name.endswith(".weight") and value.ndim > 1
    ]  # fmt: skip
    parts: dict[str, list[tuple[int, Tensor]]] = {}
    for path, place in original_places(get_manager().family("sd3").originals, refs).items():
        for leaf in ("weight", "bias"):
            value = weights[f"{path}.{leaf}"]
            value = torch.cat(value.chunk(2)[::-1]) if place.swapped else value
            parts.setdefault(f"{place.path}.{leaf}", []).append((place.start, value))
    found = {
        name: torch.cat([value for _, value in sorted(rows, key=lambda row: row[0])]) for name, rows in parts.items()
    }
    found["pos_embed"] = weights["pos_embed.pos_embed"]
    for name, value in weights.items():
        block, _, inside = name.partition(".attn.")
        norm = _NORMS.get(inside.removesuffix(".weight"))
        if norm is not None:
            found[f"joint_blocks.{block.rpartition('.')[2]}.{norm}.weight"] = value
    return found


def load_model(folder: Path, name: str) -> Any:
    """MODEL of a small diffusers folder."""
    from comfy import latent_formats, model_management, model_patcher, supported_models

    from .target import NAME, SIZE

    config, weights = _read(folder, "transformer")
    vae, _ = _read(folder, "vae")
    width = config["caption_projection_dim"]

    class PocketFlow(supported_models.SD3):
        unet_config: ClassVar[dict[str, Any]] = {}
        sampling_settings: ClassVar[dict[str, Any]] = {"shift": 1.0}

    chosen = PocketFlow({
        "in_channels": config["in_channels"], "patch_size": config["patch_size"], "depth": config["num_layers"],
        "input_size": None, "adm_in_channels": config["pooled_projection_dim"], "qk_norm": "rms", "qkv_bias": True,
        "pos_embed_scaling_factor": None, "pos_embed_max_size": config["pos_embed_max_size"],
        "num_patches": config["pos_embed_max_size"] ** 2,
        "context_embedder_config": {"target": "torch.nn.Linear", "params": {
            "in_features": config["joint_attention_dim"], "out_features": width,
        }},
    })  # fmt: skip
    chosen.latent_format = latent_formats.SD15(scale_factor=vae["scaling_factor"])
    chosen.latent_format.spacial_downscale_ratio = 2 ** (len(vae["block_out_channels"]) - 1)
    chosen.set_inference_dtype(torch.float32, None)
    offload = model_management.unet_offload_device()
    model = chosen.get_model({}, "", device=offload)
    original = original_weights(weights)
    _same(set(model.diffusion_model.state_dict()), set(original), "flow transformer")
    model.load_model_weights(original, "")
    patcher = model_patcher.ModelPatcher(model, load_device=model_management.get_torch_device(), offload_device=offload)
    patcher.set_attachments(NAME, name)
    patcher.set_attachments(SIZE, config["sample_size"])
    return patcher


def load_clip(folder: Path) -> Any:
    """CLIP of a small diffusers folder: both text encoders."""
    from comfy import sd, sd1_clip, supported_models_base
    from comfy.text_encoders import sd3_clip

    parts = {name: _read(folder, name) for name in ("text_encoder", "text_encoder_2")}
    config = parts["text_encoder"][0]
    length, width = config["max_position_embeddings"], config["hidden_size"]
    special = {"start": config["bos_token_id"], "end": config["eos_token_id"], "pad": config["pad_token_id"]}

    def part(device: Any, dtype: Any, options: Any) -> Any:
        made = sd1_clip.SDClipModel(
            device=device, dtype=dtype, max_length=length, special_tokens=special, return_projected_pooled=True,
            textmodel_json_config=dict(config), model_options=options or {}, layer="hidden", layer_idx=-2,
            layer_norm_hidden_state=False,
        )  # fmt: skip
        table = made.operations.Embedding(config["vocab_size"], width, dtype=dtype, device=device)
        made.transformer.set_input_embeddings(table)
        return made

    class Encoder(sd3_clip.SD3ClipModel):
        """The original pads the rows to 4096 columns."""

        def __init__(self, device: Any = "cpu", dtype: Any = None, model_options: Any = None) -> None:
            torch.nn.Module.__init__(self)
            self.clip_l, self.clip_g = (part(device, dtype, model_options) for _ in range(2))
            self.t5xxl, self.dtypes = None, {dtype}

        def encode_token_weights(self, token_weight_pairs: Any) -> tuple[Tensor, Tensor, dict[str, Any]]:
            pairs = zip("lg", (self.clip_l, self.clip_g), strict=True)
            rows, pooled = zip(
                *(one.encode_token_weights(token_weight_pairs[name]) for name, one in pairs), strict=True
            )
            return torch.cat(rows, -1), torch.cat(pooled, -1), {}

    class Tokenizer:
        def __init__(self, embedding_directory: Any = None, tokenizer_data: Any = None) -> None:
            self.clip_l, self.clip_g = (
                sd1_clip.SDTokenizer(
                    tokenizer_path=str(folder / place), max_length=length, embedding_directory=embedding_directory,
                    embedding_size=width, embedding_key=key, tokenizer_data=tokenizer_data or {},
                )
                for place, key in (("tokenizer", "clip_l"), ("tokenizer_2", "clip_g"))
            )  # fmt: skip

        def tokenize_with_weights(self, text: str, return_word_ids: bool = False, **how: Any) -> dict[str, Any]:
            found = {name: one.tokenize_with_weights(text, return_word_ids, **how)
                     for name, one in (("l", self.clip_l), ("g", self.clip_g))}  # fmt: skip
            return {**found, "t5xxl": []}

        def state_dict(self) -> dict[str, Any]:
            return {}

    clip = sd.CLIP(supported_models_base.ClipTarget(Tokenizer, Encoder), model_options={"dtype": torch.float32})
    for one, (_, weights) in zip(
        (clip.cond_stage_model.clip_l, clip.cond_stage_model.clip_g), parts.values(), strict=True
    ):
        missing, unexpected = one.load_sd(weights)
        _same(set(), {*missing, *unexpected} - {"logit_scale"}, "text encoder")
    return clip
