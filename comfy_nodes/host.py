"""The few services of ComfyUI that run functions use: progress, interruption, folders. Imported when called."""

from __future__ import annotations

from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Any
from uuid import uuid4

FOLDER = "erase_plugins"


def progress(total: int) -> Any:
    """Listener for `erase_plugins.erase`: moves the progress bar and stops where the user asked for it."""
    import comfy.model_management
    import comfy.utils

    bar = comfy.utils.ProgressBar(total)

    def listen(event: Any) -> None:
        if event.kind == "step":
            bar.update_absolute(event.done, max(event.total, 1))
        # raises the exception that ComfyUI waits for
        comfy.model_management.throw_exception_if_processing_interrupted()

    return listen


def stages() -> Any:
    """Progress of a suite, (stage, done, total); stops where the user asked for it."""
    import comfy.model_management
    import comfy.utils

    bars: dict[str, Any] = {}

    def listen(stage: str, done: int, total: int) -> None:
        bars.setdefault(stage, comfy.utils.ProgressBar(total)).update_absolute(done, total)
        comfy.model_management.throw_exception_if_processing_interrupted()

    return listen


def computing() -> AbstractContextManager[Any]:
    """Ordinary tensors without gradients: nodes run in inference mode, whose tensors cannot be used elsewhere."""
    import torch

    stack = ExitStack()
    stack.enter_context(torch.inference_mode(False))
    stack.enter_context(torch.no_grad())
    return stack


def artifact_folders() -> list[Path]:
    """Folders with artifacts: ``models/erase_plugins`` and whatever extra paths the user configured under that name."""
    import folder_paths

    if FOLDER not in folder_paths.folder_names_and_paths:
        folder_paths.add_model_folder_path(FOLDER, str(Path(folder_paths.models_dir) / FOLDER))
    return [Path(item) for item in folder_paths.get_folder_paths(FOLDER)]


def lora_folder() -> Path:
    """First folder that the stock LoRA loader reads."""
    import folder_paths

    return Path(folder_paths.get_folder_paths("loras")[0])


def lora_names() -> list[str]:
    """Files that the stock LoRA loader lists."""
    import folder_paths

    return [str(name) for name in folder_paths.get_filename_list("loras")]


def lora_path(name: str) -> Path | None:
    """Path of a LoRA file by its name in the stock loader; None if there is none."""
    import folder_paths

    if not name.endswith(".safetensors") or name not in folder_paths.get_filename_list("loras"):
        return None
    found = folder_paths.get_full_path("loras", name)
    return None if found is None else Path(found)


def previews(images: Any) -> list[dict[str, str]]:
    """Writes pictures into ComfyUI's temporary folder, for the interface.

    Args:
        images: (n, height, width, 3) in 0..1.

    Returns:
        What the interface asks for: file name, subfolder and type of each picture.
    """
    import folder_paths
    from PIL import Image

    place = Path(folder_paths.get_temp_directory())
    place.mkdir(parents=True, exist_ok=True)
    pixels = (images.detach().float().cpu().clamp(0, 1) * 255).round().byte().numpy()
    shown = []
    for item in pixels:
        name = f"erase_{uuid4().hex}.png"
        Image.fromarray(item).save(place / name, compress_level=1)
        shown.append({"filename": name, "subfolder": "", "type": "temp"})
    return shown
