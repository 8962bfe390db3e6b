"""Writes trained parts in the structure of this package's own folder: ``model/``, ``judge.safetensors``, the world."""

from __future__ import annotations

import json
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING, Any

from erase_plugins.artifacts.atomic import atomic_file, atomic_folder
from erase_plugins.families.assembled import PARTS

#: names in a text encoder's file
PROJECTION, POSITIONS = "text_projection.weight", "embeddings.position_embedding.weight"
#: before the names of a text encoder that has a projection
INNER = "text_model."

if TYPE_CHECKING:
    from erase_plugins.pocket.world import World


def build_pipeline(vae: Any, unet: Any, text_encoder: Any, tokenizer: Any, scheduler: Any) -> Any:
    """A stock `StableDiffusionPipeline` of the parts."""
    from diffusers import StableDiffusionPipeline

    return StableDiffusionPipeline(
        vae=vae,
        unet=unet,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def save_model(pipe: Any, tokenizer: Any, out: Path) -> None:
    """``out/model`` in fp16 safetensors, complete or not at all. The pipeline keeps its own precision."""
    from tools.pocket.words import save_tokenizer

    vae, unet, text_encoder = (deepcopy(part).half() for part in (pipe.vae, pipe.unet, pipe.text_encoder))
    for part in (vae, unet):
        part.register_to_config(_name_or_path="")  # a folder of this machine is nobody else's
    half = build_pipeline(vae, unet, text_encoder, tokenizer, pipe.scheduler)
    with atomic_folder(out / "model", force=True, kind="pocket model") as work:
        half.save_pretrained(work, safe_serialization=True)
        save_tokenizer(tokenizer, work / "tokenizer")


def flow_parts(base: Path, tokens: int) -> tuple[Any, Any, Any]:
    """What `pocket-flow` takes over from a pocket model: autoencoder, text encoder, tokenizer of ``tokens`` positions.

    The text encoder gets a place for a projection, which is the identity, and its first ``tokens`` positions only.
    """
    import torch
    from diffusers import AutoencoderKL
    from safetensors.torch import load_file
    from transformers import CLIPTextConfig, CLIPTextModelWithProjection, CLIPTokenizer

    vae = AutoencoderKL.from_pretrained(base / "vae", torch_dtype=torch.float32, local_files_only=True)
    config = CLIPTextConfig.from_pretrained(base / "text_encoder", max_position_embeddings=tokens)
    encoder = CLIPTextModelWithProjection(config).float()  # its inner model takes the type of the file
    stored = load_file(base / "text_encoder" / "model.safetensors")
    state = {f"{INNER}{name}": value.float() for name, value in stored.items()}
    state[f"{INNER}{POSITIONS}"] = state[f"{INNER}{POSITIONS}"][:tokens]
    encoder.load_state_dict({**state, PROJECTION: torch.eye(config.hidden_size)}, strict=False)
    tokenizer = CLIPTokenizer.from_pretrained(base / "tokenizer", model_max_length=tokens, local_files_only=True)
    return vae.eval(), encoder.requires_grad_(False).eval(), tokenizer


def save_flow(network: Any, projection: Any, base: Path, tokens: int, out: Path) -> None:
    """``out/flow``: the transformer, what differs from the pocket model in ``base``, and ``parts.json``.

    The last names the files that are taken from ``out/model``; see `erase_plugins.families.assembled`.
    """
    from diffusers import StableDiffusion3Pipeline
    from safetensors.torch import load_file, save_file

    from tools.pocket.networks import build_flow_scheduler
    from tools.pocket.words import save_tokenizer

    vae, encoder, tokenizer = flow_parts(base, tokens)
    vae.register_to_config(shift_factor=0.0, _name_or_path="")  # a folder of this machine is nobody else's
    with atomic_folder(out / "flow", force=True, kind="pocket model") as work:
        pipe = StableDiffusion3Pipeline(
            transformer=deepcopy(network).half(), scheduler=build_flow_scheduler(), vae=vae.half(),
            text_encoder=encoder.half(), text_encoder_2=encoder, text_encoder_3=None,
            tokenizer=tokenizer, tokenizer_2=tokenizer, tokenizer_3=None,
        )  # fmt: skip
        pipe.save_pretrained(work, safe_serialization=True)
        save_tokenizer(tokenizer, work / "tokenizer")
        positions = load_file(base / "text_encoder" / "model.safetensors")[POSITIONS][:tokens].clone()
        own = {PROJECTION: projection.half().contiguous(), f"{INNER}{POSITIONS}": positions}
        save_file(own, work / "text.safetensors", {"format": "pt"})
        parts = {"vae/diffusion_pytorch_model.safetensors": {"../model/vae/diffusion_pytorch_model.safetensors": ""}}
        for name in ("text_encoder", "text_encoder_2"):
            parts[f"{name}/model.safetensors"] = {
                "../model/text_encoder/model.safetensors": INNER, "text.safetensors": "",
            }  # fmt: skip
        for path in sorted((work / "tokenizer").iterdir()):
            parts[f"tokenizer_2/{path.name}"] = {f"tokenizer/{path.name}": ""}
        for name in parts:
            (work / name).unlink(missing_ok=True)
        (work / "tokenizer_2").rmdir()
        save_json(parts, work / PARTS)


def save_judge(network: Any, world: World, out: Path) -> None:
    """``out/judge.safetensors`` in fp16, with the names of its outputs in the header."""
    from safetensors.torch import save_file

    state = {
        name: value.half().cpu().contiguous()
        for name, value in network.state_dict().items()
        if not name.endswith("num_batches_tracked")
    }
    names = {
        "concepts": [item.name for item in world.concepts],
        "styles": list(world.styles),
        "backgrounds": list(world.backgrounds),
    }
    metadata = {"format": "pt", **{key: json.dumps(value) for key, value in names.items()}}
    with atomic_file(out / "judge.safetensors") as work:
        save_file(state, work, metadata)


def save_world(world: World, out: Path, size: int) -> None:
    """``out/concepts.json``, which `world.pocket_world` reads."""
    data = {
        "image_size": size,
        "styles": {name: {"synonyms": list(world.style_synonyms[name])} for name in world.styles},
        "backgrounds": {
            name: {"rgb": list(world.background_rgb[name]), "synonyms": list(world.background_synonyms[name])}
            for name in world.backgrounds
        },
        "concepts": [
            {"name": item.name, "codepoint": item.codepoint, "group": item.group, "synonyms": list(item.synonyms)}
            for item in world.concepts
        ],
    }
    save_json(data, out / "concepts.json")


def save_json(data: Any, path: Path) -> None:
    """Readable JSON, written whole."""
    with atomic_file(path) as work:
        work.write_text(json.dumps(data, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
