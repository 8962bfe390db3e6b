"""Runs inside the ComfyUI interpreter: pocket as a model that paints into a picture, whose denoiser takes nine channels.

Usage: python inpainting.py COMFY_DIR WORK
"""

from __future__ import annotations

import json
import logging
import shutil
import sys
from pathlib import Path
from typing import Any


def widened(folder: Path, work: Path) -> Path:
    """A copy of pocket that is given a mask and the masked picture, and does not look at them."""
    import torch
    from safetensors.torch import load_file, save_file

    made = work / "inpainting"
    shutil.copytree(folder, made)
    place = made / "unet" / "config.json"
    place.write_text(json.dumps({**json.loads(place.read_text(encoding="utf-8")), "in_channels": 9}), encoding="utf-8")
    (file,) = (made / "unet").glob("*.safetensors")
    weights = load_file(file)
    first = weights["conv_in.weight"]
    weights["conv_in.weight"] = torch.cat([first, torch.zeros_like(first), torch.zeros_like(first[:, :1])], 1)
    save_file(weights, file)
    return made


def main(comfy_dir: str, work: Path) -> None:
    sys.path.insert(0, comfy_dir)
    sys.argv = ["x", "--cpu"]
    logging.disable(logging.INFO)
    import comfy.options

    comfy.options.enable_args_parsing()
    import torch

    from comfy_nodes import NODE_CLASS_MAPPINGS as nodes
    from comfy_nodes import drawing, host
    from comfy_nodes.pocket import load_model
    from erase_plugins.families.source import pocket_folder

    out: dict[str, Any] = {}
    with torch.inference_mode():
        plain, clip, vae = nodes["ErasePocketLoader"]().execute()[:3]
        wide = load_model(widened(Path(pocket_folder()), work), "pocket")
        ask = {"erase": "pizza -> hamburger", "method": "uce", "strength": 1.0, "kind": "object", "vae": vae}
        pictures = []
        for model in (plain, wide):
            done = nodes["EraseNegative"]().execute(model=model, clip=clip, **ask)
            out["shown"] = len(done["ui"]["erase_pictures"][0]["images"])
            with host.computing():
                pictures.append(drawing.before_and_after((model, clip), done["result"][:2], vae, "pizza"))
    out["far"] = float((pictures[1] - pictures[0]).abs().max())
    out["change"] = float((pictures[0][1] - pictures[0][0]).abs().max())
    print("RESULT " + json.dumps(out))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
