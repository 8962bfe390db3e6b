"""A checkpoint of the user in a template that has to run without it, too."""

from __future__ import annotations

from pathlib import Path
from typing import Any

#: height of the pictures that a family draws, by the width of its text rows; of others 1024
_SIDES = {768: 512, 1024: 768}
_UNKNOWN_SIDE = 1024
_CELL = 8


def names() -> list[str]:
    """Files of ``models/checkpoints`` that can be opened without running code; none outside ComfyUI."""
    try:
        import folder_paths

        found = folder_paths.get_filename_list("checkpoints")
    except Exception:  # asked for outside ComfyUI, or the folders cannot be read: the widget must not fail
        return []
    return sorted(str(name) for name in found if str(name).endswith(".safetensors"))


def path_of(name: str) -> Path | None:
    """Path of an entry of ``models/checkpoints``; None if it is not there."""
    if name not in names():
        return None
    import folder_paths

    found = folder_paths.get_full_path("checkpoints", name)
    return None if found is None else Path(found)


def stand_in(name: str) -> str:
    """What is told while a checkpoint is missing."""
    from .files import shown

    return (
        f"{shown(name)} is not in models/checkpoints, so pocket, the tiny model that comes with erase-plugins, drew "
        "this. Download the file (the editor offers it), press R and run again"
    )


def load(path: Path, pictures: int) -> tuple[Any, Any, Any, dict[str, Any]]:
    """MODEL, CLIP and VAE as the stock loader gives them, and an empty latent of the size that the model draws.

    Raises:
        RequestError: the file has no text encoder or no VAE in it.
    """
    import comfy.sd
    import folder_paths
    import torch

    from erase_plugins.errors import RequestError

    model, clip, vae = comfy.sd.load_checkpoint_guess_config(
        str(path), output_vae=True, output_clip=True,
        embedding_directory=folder_paths.get_folder_paths("embeddings"),
    )[:3]  # fmt: skip
    lacking = [name for name, part in (("a text encoder", clip), ("a VAE", vae)) if part is None]
    if lacking:
        raise RequestError(f"{path.name} lacks {' and '.join(lacking)}; take the stock loaders for its parts")
    width = model.model.model_config.unet_config.get("context_dim")
    side = _SIDES.get(width, _UNKNOWN_SIDE) // _CELL
    channels = model.model.latent_format.latent_channels
    return model, clip, vae, {"samples": torch.zeros(pictures, channels, side, side)}
