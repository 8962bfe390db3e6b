"""How to use an artifact: what the lines on its page are made of, for the readers its files are for."""

from __future__ import annotations

import re
from typing import Any

from erase_plugins.artifacts.manifest import Manifest
from erase_plugins.artifacts.verify import ADAPTER
from erase_plugins.evaluation.wording import DRAWS
from erase_plugins.families.source import EMBEDDED, POCKET
from erase_plugins.manager import get_manager
from erase_plugins.markdown import Inert, flat
from erase_plugins.workflow.pairs import choose_prompts

#: what a model does -> class of transformers that loads it
AUTO = {"image-classification": "AutoModelForImageClassification", "text-generation": "AutoModelForCausalLM"}
#: what diffusers itself loads from a repository
STOCK = "pytorch_lora_weights.safetensors"
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def uses(artifact: Any, repo: str) -> dict[str, Any]:
    """What the templates about using it need.

    Args:
        artifact: a saved `Artifact`; the names of its files and their layouts decide.
        repo: "owner/name".
    """
    manifest, task = artifact.manifest, task_of(artifact.manifest)
    model = flat(manifest.base.get("model") or "MODEL")
    files: dict[str, str] = {}  # program -> the first file for it
    layouts: dict[str, str] = {}  # layout -> the first file in it
    for item in manifest.files:
        layouts.setdefault(item.layout, item.name)
        for reader in readers(item.layout):
            files.setdefault(reader, item.name)
    folders = [item.name.rpartition("/")[0] for item in manifest.files if item.name.endswith(ADAPTER)]
    parts = [(folder.removeprefix("peft_"), folder) for folder in folders]
    return {
        "repo": repo, "model": model, "pocket": model == POCKET, "embedded": model in EMBEDDED,
        "draws": task == DRAWS, "loader": AUTO.get(task), "timm": manifest.base.get("library") == "timm",
        "weight": Inert(f"{float(manifest.strength.get('recommended', 1.0)):g}"),
        "prompt": (choose_prompts(manifest, 1) or ["a photo"])[0],
        "files": files, "stock": STOCK, "kohya": layouts.get("kohya"),
        "peft_folder": layouts.get("peft", "").split("/")[0],
        "adapters": [(part or str(get_manager().family(manifest.family).denoiser), folder) for part, folder in parts
                     if not part or part.isidentifier()],
        "solvable": isinstance(artifact.edit.meta.get("statistics"), dict),
    }  # fmt: skip


def has_lora(manifest: Manifest) -> bool:
    """Whether one of the files is a LoRA that stock diffusers loads from a repository."""
    return any("diffusers" in readers(item.layout) for item in manifest.files)


def task_of(manifest: Manifest) -> str:
    """What the base model does, by the Hub's name for it."""
    return str(manifest.base.get("task") or DRAWS)


def hub_id(base: Any) -> str | None:
    """A base model's id on the Hub; None if it was a local model."""
    name = str(base.get("model") or "")
    return name if HUB_ID.fullmatch(name) else None


def readers(layout: str) -> tuple[str, ...]:
    """Programs that read a layout; none of one that is not known here."""

    known = get_manager().known().layouts.get(layout)
    return () if known is None else tuple(known.readers)
