"""Saves a checkpoint of an erased model, and keeps it only if it draws what the graph draws."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from erase_plugins.errors import ArtifactError, RequestError, Unsupported
from erase_plugins.evaluation.draw import initial_noise

from .drawing import SEED, latents_of
from .targets import target_of

#: relative difference of the latents that a file in half precision may have; an erasure makes several times more
FAR = 0.05
#: other weights show from the first step on; a few, on a small picture, cost a twelfth of a whole one
_STEPS, _SMALL = 4, 16


@dataclass(frozen=True)
class Baked:
    """The file, its name below the output folder, and how far its latents are from those of the graph."""

    path: Path
    name: str
    far: float


def lost(model: Any) -> list[str]:
    """What hangs on a MODEL and is in no file of its weights."""
    found = []
    options = model.model_options.get("transformer_options", {})
    if any(options.get("patches", {}).values()):
        found.append("changes in front of or behind attention layers")
    if any(options.get("patches_replace", {}).values()):
        found.append("attention layers that were replaced")
    if any(wrapped for kinds in options.get("wrappers", {}).values() for wrapped in kinds.values()):
        found.append("a change around the whole model")
    if any(getattr(model, "weight_wrapper_patches", {}).values()):
        found.append("changes of weights in a type too coarse to hold them, such as fp8")
    if any(name.endswith(".forward") for name in getattr(model, "object_patches", {})):
        found.append("a strength that follows the prompt")
    return found


def bake(model: Any, clip: Any, vae: Any, prefix: str, prompt: str, prompt_info: Any, picture_info: Any) -> Baked:
    """Writes a checkpoint, loads it, draws with both, and gives the file its name if they agree.

    Args:
        model, clip, vae: what the graph draws with.
        prefix: as that of ComfyUI's saving nodes; a number is added, nothing is replaced.
        prompt: drawn for the comparison.
        prompt_info, picture_info: noted in the file as ComfyUI does.

    Raises:
        Unsupported: part of the model is in no file of its weights.
        ArtifactError: the file cannot be loaded, or draws something else; it is gone again.
    """
    import folder_paths
    from comfy_extras.nodes_model_merging import save_checkpoint

    missing = lost(model)
    if missing:
        raise Unsupported(
            f"a checkpoint would not hold everything that is on this MODEL: {'; '.join(missing)}. Take a method that "
            "changes weights, on a model in 16 or 32 bit, and put nodes that change sampling behind this one"
        )
    output = folder_paths.get_output_directory()
    folder, name, _counter, below, _prefix = folder_paths.get_save_image_path(prefix, output)
    with _work(Path(output)) as work:
        save_checkpoint(
            model, clip=clip, vae=vae, filename_prefix=name, output_dir=str(work), prompt=prompt_info,
            extra_pnginfo=picture_info,
        )  # fmt: skip
        (file,) = work.rglob("*.safetensors")
        far = _difference(file, model, clip, prompt)
        if not far <= FAR:
            raise ArtifactError(
                f"the checkpoint draws '{prompt}' differently from this graph (by {100 * far:.0f} % of the latents), "
                "so it was not kept; something on MODEL or CLIP is not in their weights"
            )
        goal = _placed(file, Path(folder), name)
    return Baked(goal, str(Path(below) / goal.name), far)


@contextlib.contextmanager
def _work(output: Path) -> Iterator[Path]:
    """A folder on the disk of the output, gone at the end."""
    output.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=".erase-bake-", dir=output))
    try:
        yield work
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _placed(file: Path, folder: Path, name: str) -> Path:
    """Gives the file the next free number; a file that came meanwhile is left alone."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(1, 100_000):
        goal = folder / f"{name}_{number:05}_.safetensors"
        try:
            os.link(file, goal)
        except FileExistsError:
            continue
        except OSError:  # a disk without links
            if goal.exists():
                continue
            os.replace(file, goal)
        return goal
    raise RequestError(f"output holds a hundred thousand files called {name}; give another name")


def _difference(file: Path, model: Any, clip: Any, prompt: str) -> float:
    """Relative difference of what the file and the graph draw from one noise."""
    import comfy.sd
    import folder_paths

    try:
        found = comfy.sd.load_checkpoint_guess_config(
            str(file), output_vae=False, output_clip=True,
            embedding_directory=folder_paths.get_folder_paths("embeddings"),
        )  # fmt: skip
    except RuntimeError as error:
        raise ArtifactError(
            "ComfyUI's loader does not recognise a checkpoint of this model, so it was not kept; save the erasure with "
            "the save node instead"
        ) from error
    channels, height, width = target_of(model).drawn
    height, width = (max(side // 4, min(side, _SMALL)) for side in (height, width))
    noise = initial_noise(SEED, (channels, height, width))[None]
    mine = latents_of(model, clip, noise, prompt, _STEPS)
    theirs = latents_of(found[0], found[1], noise, prompt, _STEPS)
    return float((theirs - mine).norm() / mine.norm().clamp(min=1e-9))


def mixed(model: Any) -> bool:
    """Whether a merge put other weights over those that are erased."""
    patches: dict[str, list[Any]] = getattr(model, "patches", {})
    return any(isinstance(patch[1], list) for found in patches.values() for patch in found)
