"""The "how to use it" part of a card: lines that can be pasted, for the readers that the files are written for."""

from __future__ import annotations

from typing import Any

from hub_cards.escape import block, code, flat

STOCK = "pytorch_lora_weights.safetensors"


def sections(artifact: Any, repo: str) -> str:
    """One part per reader that has a file; says so where there is none.

    Args:
        artifact: a saved `Artifact`; the names of its files and their layouts decide.
        repo: "owner/name".
    """
    manifest = artifact.manifest
    weight = float(manifest.strength.get("recommended", 1.0))
    readers: dict[str, str] = {}
    for item in manifest.files:
        for reader in _readers(item.layout):
            readers.setdefault(reader, item.name)
    parts = [_diffusers(manifest, repo, weight, readers.get("diffusers"))]
    stock = next((item.name for item in manifest.files if item.layout == "kohya"), None)
    if stock is not None:
        stem = stock.removesuffix(".safetensors")
        parts.append(
            f"**ComfyUI**: put {code(stock)} into {code('ComfyUI/models/loras')} and load it with the node "
            f"*Load LoRA*, strength {weight:g}."
        )
        parts.append(
            f"**A1111**: put {code(stock)} into {code('models/Lora')} and add {code(f'<lora:{stem}:{weight:g}>')} "
            "to the prompt."
        )
    else:
        parts.append("**ComfyUI, A1111**: there is no file for them here; `erase-plugins convert` may write one.")
    text = f'erase-plugins generate hub:{repo} --model {_model(manifest)} --prompt "a photo" --out picture.png'
    parts.append("**Command line** (checks the files and the base first):\n\n" + block(text, "bash"))
    return "\n\n".join(parts)


def _readers(layout: str) -> tuple[str, ...]:
    from erase_plugins.errors import UnknownName
    from erase_plugins.manager import get_manager

    try:
        return tuple(get_manager().layout(layout).readers)
    except UnknownName:
        return ()


def _model(manifest: Any) -> str:
    import shlex

    return shlex.quote(flat(manifest.base.get("model") or "MODEL"))


def _diffusers(manifest: Any, repo: str, weight: float, name: str | None) -> str:
    if name is None:
        return "**diffusers**: there is no file for it here; `erase-plugins convert` may write one."
    model = flat(manifest.base.get("model") or "MODEL")
    extra = "" if name == STOCK else f", weight_name={name!r}"
    if model == "pocket":
        start = 'import erase_plugins\n\npipe = erase_plugins.load("pocket")'
    else:
        start = (
            "from diffusers import AutoPipelineForText2Image\n\n"
            f"pipe = AutoPipelineForText2Image.from_pretrained({model!r})"
        )
    lines = f'{start}\npipe.load_lora_weights({repo!r}{extra}, adapter_name="erased")\n'
    return "**diffusers**:\n\n" + block(f'{lines}pipe.set_adapters("erased", {weight:g})', "python")
