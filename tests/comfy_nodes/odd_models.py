"""A node pack for the test server: models and text encoders that an erase node has to refuse."""

from __future__ import annotations

from pathlib import Path
from typing import Any

FLUX = {
    "image_model": "flux", "in_channels": 16, "out_channels": 16, "vec_in_dim": 32, "context_in_dim": 32,
    "hidden_size": 64, "mlp_ratio": 4.0, "num_heads": 4, "depth": 1, "depth_single_blocks": 1, "axes_dim": [4, 6, 6],
    "theta": 10000, "patch_size": 2, "qkv_bias": True, "guidance_embed": False,
}  # fmt: skip
SD3 = {
    "in_channels": 16, "pos_embed_scaling_factor": None, "depth": 1, "input_size": None, "patch_size": 2,
    "adm_in_channels": 32, "pos_embed_max_size": 8, "num_patches": 64, "qkv_bias": True,
    "context_embedder_config": {"target": "torch.nn.Linear", "params": {"in_features": 32, "out_features": 64}},
}  # fmt: skip
AURA = {
    "cond_seq_dim": 32,
    "in_channels": 4,
    "n_layers": 2,
    "n_double_layers": 1,
    "dim": 256,
    "n_heads": 1,
    "max_seq": 64,
}
WIDTH = 96


def small_model(kind: str, config: dict[str, Any]) -> Any:
    """MODEL of a supported architecture with random weights."""
    import comfy.model_management
    import comfy.model_patcher
    import comfy.supported_models
    import torch

    chosen = getattr(comfy.supported_models, kind)(dict(config))
    chosen.set_inference_dtype(torch.float32, None)
    place = comfy.model_management.unet_offload_device()
    return comfy.model_patcher.ModelPatcher(
        chosen.get_model({}, "", device=place), comfy.model_management.get_torch_device(), place
    )


def other_clip() -> Any:
    """CLIP like that of pocket, with rows of another width."""
    import json
    import shutil
    import tempfile

    import torch
    from safetensors.torch import load_file, save_file

    from comfy_nodes.pocket import load_clip
    from erase_plugins.families.source import pocket_folder

    with tempfile.TemporaryDirectory() as work:
        folder = Path(work)
        for name in ("text_encoder", "tokenizer"):
            shutil.copytree(Path(pocket_folder()) / name, folder / name)
        place = folder / "text_encoder" / "config.json"
        config = json.loads(place.read_text(encoding="utf-8"))
        (file,) = (folder / "text_encoder").glob("*.safetensors")
        old = config["hidden_size"]
        weights = {
            name: torch.randn([WIDTH if size == old else size for size in value.shape]) / WIDTH
            for name, value in load_file(file).items()
        }
        save_file(weights, file)
        place.write_text(json.dumps({**config, "hidden_size": WIDTH}), encoding="utf-8")
        return load_clip(folder)


def no_clip() -> Any:
    """A text encoder that is no CLIP."""
    from comfy_nodes.pocket import load_clip
    from erase_plugins.families.source import pocket_folder

    found = load_clip(Path(pocket_folder())).clone()
    found.tokenizer = type("T5Tokenizer", (), {})()
    return found


def node(output: str, make: Any) -> type:
    """A node without inputs."""
    members = {
        "INPUT_TYPES": classmethod(lambda _cls: {"required": {}}), "RETURN_TYPES": (output,), "FUNCTION": "make",
        "CATEGORY": "test", "make": lambda _self: (make(),),
    }  # fmt: skip
    return type("Odd", (), members)


NODE_CLASS_MAPPINGS = {
    "OddFlux": node("MODEL", lambda: small_model("Flux", FLUX)),
    "OddAura": node("MODEL", lambda: small_model("AuraFlow", AURA)),
    "OddSD3": node("MODEL", lambda: small_model("SD3", SD3)),
    "OddClip": node("CLIP", other_clip),
    "OddT5": node("CLIP", no_clip),
}
