"""Writes trained parts in the structure of this package's own folder: ``model/``, ``judge.safetensors``, the world."""

from __future__ import annotations

import json
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING, Any

from erase_plugins.artifacts.atomic import atomic_file, atomic_folder

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
    half = build_pipeline(vae, unet, text_encoder, tokenizer, pipe.scheduler)
    with atomic_folder(out / "model", force=True, kind="pocket model") as work:
        half.save_pretrained(work, safe_serialization=True)
        save_tokenizer(tokenizer, work / "tokenizer")


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
