"""Makes the small library that comes with the nodes, so that the templates about libraries run without a download.

    python -m tools.docs.comfy.library

A collection of six erasures for the pocket model and a LoRA, each with a picture of before and after. The templates
and the picker show them, and `test_shelf.py` holds what they say against this list.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

import erase_plugins as ep
from erase_plugins.workflow.collection import build_collection
from erase_plugins.workflow.models import target_of

PLACE = Path(__file__).resolve().parents[3] / "comfy_nodes" / "library"
COLLECTION = "family_safe"
#: what the collection erases, and what it becomes
ERASED = {
    "gun": "umbrella", "knife": "pencil", "bomb": "balloon", "cigarette": "candy", "beer": "coffee", "skull": "clown",
}  # fmt: skip
#: a LoRA as others would hand it on: blue becomes red
LORA = "pocket_red.safetensors"
#: beside a folder or a file of this stem, as ComfyUI's own model library looks for pictures
PREVIEW = ".jpg"


def main() -> None:
    pipe = ep.load("pocket")
    target = target_of(pipe, "pocket")
    single = [ep.erase(target, [ep.Concept(name, anchor=other)], "uce") for name, other in ERASED.items()]
    style = ep.erase(target, [ep.Concept("blue", anchor="red")], "uce")
    with tempfile.TemporaryDirectory() as work:
        build_collection(single, Path(work) / COLLECTION)
        for artifact, name in zip(single, ERASED, strict=True):
            before_and_after(
                pipe, artifact, f"{name} on a blue background", Path(work) / COLLECTION / f"{artifact.name}{PREVIEW}"
            )
        saved = style.save(Path(work) / "style", ("kohya",), target=target)
        (kohya,) = [item.name for item in saved.manifest.files if item.layout == "kohya"]
        (Path(work) / "style" / kohya).rename(Path(work) / LORA)
        shutil.rmtree(Path(work) / "style")
        before_and_after(pipe, style, "pizza on a blue background", (Path(work) / LORA).with_suffix(PREVIEW))
        shutil.rmtree(PLACE, ignore_errors=True)
        shutil.copytree(work, PLACE)


def before_and_after(pipe: Any, artifact: Any, words: str, goal: Path) -> None:
    """Both pictures beside each other, from the same noise."""
    from PIL import Image

    pictures = [_draw(pipe, words)]
    with ep.apply(pipe, artifact):
        pictures.append(_draw(pipe, words))
    sheet = Image.new("RGB", (384, 192))
    for place, picture in enumerate(pictures):
        sheet.paste(picture.resize((192, 192), Image.Resampling.LANCZOS), (192 * place, 0))
    sheet.save(goal, quality=80, optimize=True)


def _draw(pipe: Any, words: str) -> Any:
    import torch

    settings = {"num_inference_steps": 20, "guidance_scale": 4.0, "generator": torch.Generator().manual_seed(1)}
    return pipe(f"a {words}", **settings).images[0]


if __name__ == "__main__":
    main()
