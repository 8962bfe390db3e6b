"""Runs inside the ComfyUI interpreter: the Erase node on the real MODEL, alone, chained and switched off; prints numbers.

Usage: python erase_node.py COMFY_DIR, with this repository on PYTHONPATH. The test of the same name asserts.
"""

from __future__ import annotations

import json
import logging
import sys
import tempfile
from pathlib import Path
from typing import Any

from parity import Case, far

NUMBERS: dict[str, Any] = {}
FAST = "vocabulary = 200"
NEIGHBOURS = ("cat", "lion", "horse", "bus", "train", "truck", "banana", "tree")


def erase(nodes: dict[str, Any], model: Any, clip: Any, rows: str, method: str = "uce", **more: Any) -> dict[str, Any]:
    values = {"strength": 1.0, "kind": "object", "keep": "", "options": FAST, **more}
    return nodes["EraseNegative"]().execute(model=model, clip=clip, erase=rows, method=method, **values)


def drift(model: Any, base: Any, clip: Any) -> float:
    """Mean drift of neighbours in keys and values."""
    from comfy_nodes.probing import probe
    from comfy_nodes.target import ComfyTarget

    found = probe(ComfyTarget(model, clip), (), NEIGHBOURS, ComfyTarget(base, clip))
    return sum(item.value for item in found) / len(found)


def measure(case: Case, nodes: dict[str, Any], vae: Any) -> None:
    model, clip = case.model, case.clip
    base = case.comfy()
    rows = ("dog -> tiger", "car -> bicycle", "pizza -> hamburger")
    whole = erase(nodes, model, clip, "\n".join(rows))
    NUMBERS["report"] = whole["ui"]["text"][0]
    now = model
    for row in rows:
        last = erase(nodes, now, clip, row)
        now = last["result"][0]
    NUMBERS["chain_report"] = last["ui"]["text"][0]
    NUMBERS["chain_output"] = far(case.comfy(now), case.comfy(whole["result"][0]))
    NUMBERS["effect"] = far(case.comfy(now), base)
    NUMBERS["chain_edit"] = list(last["result"][2].manifest.erased)
    added = model
    for row in rows:
        added = nodes["EraseUCE"]().execute(model=added, clip=clip, erase=row, strength=1.0, kind="object")["result"][0]
    NUMBERS["drift"] = {
        "whole": drift(whole["result"][0], model, clip), "chain": drift(now, model, clip),
        "added": drift(added, model, clip),
    }  # fmt: skip
    off = erase(nodes, model, clip, "# dog -> tiger\n# car")
    NUMBERS["off_is_base"] = off["result"][0] is model and off["result"][1] is clip
    NUMBERS["zero_is_base"] = erase(nodes, model, clip, rows[0], strength=0.0)["result"][0] is model
    mixed = erase(nodes, model, clip, "dog -> tiger : 0.5\ncar -> bicycle\npizza : 0")
    NUMBERS["mixed_report"] = mixed["ui"]["text"][0]
    half = erase(nodes, model, clip, "dog -> tiger\ncar -> bicycle", strength=0.5)
    same = erase(nodes, model, clip, "dog -> tiger : 0.5\ncar -> bicycle : 0.5")
    NUMBERS["half"] = far(case.comfy(half["result"][0]), case.comfy(same["result"][0]))
    drawn = erase(nodes, model, clip, "pizza -> hamburger", vae=vae)
    NUMBERS["pictures"] = drawn["ui"]["erase_pictures"]
    NUMBERS["left"] = {item["concept"]: item["left"] for item in drawn["ui"]["erase_left"]}
    NUMBERS["drawn_report"] = drawn["ui"]["text"][0]
    for name, values in {
        "option": {"options": "preserv = 3"}, "line": {"options": "what"}, "method": {"method": "uze"},
        "strengths": {"method": "esd", "options": "steps = 2", "rows": "dog : 0.5\ncar"},
    }.items():  # fmt: skip
        try:
            erase(nodes, model, clip, **{"rows": "dog", **values})
        except Exception as error:
            NUMBERS[f"wrong {name}"] = f"{type(error).__name__}: {error}"
    for name in ("unrelated", "shifts_text", "pizza_look"):
        behind = erase(nodes, model, clip, "pizza -> hamburger", behind=f"{name}.safetensors : 1 : 1")
        NUMBERS[f"behind {name}"] = behind["ui"]["erase_back"]
    off = erase(nodes, model, clip, "pizza -> hamburger", behind="shifts_text.safetensors : 0 : 0\ngone.safetensors")
    NUMBERS["behind off"] = off["ui"]["erase_back"]
    search(case, nodes)
    NUMBERS["base_after"] = bool((case.comfy() == base).all())


def search(case: Case, nodes: dict[str, Any]) -> None:
    """The entry auto: what it measures with, a stop in its second trial, and the same search gone on with."""
    import comfy.model_management as management
    import folder_paths

    from comfy_nodes import host
    from comfy_nodes.identity import identity
    from comfy_nodes.searching import SampledTarget
    from comfy_nodes.target import ComfyTarget
    from erase_plugins.autotune.measure import Yardstick

    def asked(model: Any, kind: Any = SampledTarget) -> Any:
        texts = ("a pizza on a blue background", "a photo of a dog")
        with host.computing():
            target = kind(model, case.clip)
            return target.predict(case.x.clone(), case.t.clone(), target.encode(texts))

    gated = erase(nodes, case.model, case.clip, "pizza", method="oce")["result"][0]
    NUMBERS["asked"] = far(asked(case.model), asked(case.model, ComfyTarget))
    NUMBERS["asked_gated"] = far(asked(gated), case.comfy(gated))
    NUMBERS["gated"] = far(asked(gated), asked(case.model))
    again = erase(nodes, case.model, case.clip, "dog", method="oce")["result"][0]
    NUMBERS["names"] = [identity(ComfyTarget(model, case.clip)) for model in (case.model, gated, again, gated.clone())]

    from small_sdxl import SmallSDXL

    other, other_clip, _ = SmallSDXL().make()
    with host.computing():
        one, two = SampledTarget(other, other_clip), ComfyTarget(other, other_clip)
        latents, times, rows = case.x.clone(), case.t.clone(), two.encode(["a pizza", "a dog"])
        NUMBERS["asked_xl"] = far(one.predict(latents, times, rows), two.predict(latents, times, rows))

    real, measured = Yardstick.measure, []

    def measure(yardstick: Any, artifact: Any) -> Any:
        measured.append(artifact.manifest.method["id"])
        if len(measured) == 2:
            management.interrupt_current_processing()
        return real(yardstick, artifact)

    Yardstick.measure = measure
    values = {"method": "auto", "options": "methods = uce, oce\nminutes = 0.8"}
    try:
        erase(nodes, case.model, case.clip, "pizza -> hamburger", **values)
        NUMBERS["stopped"] = "not at all"
    except management.InterruptProcessingException:
        NUMBERS["stopped"] = list(measured)
    del measured[2:]
    found = erase(nodes, case.model, case.clip, "pizza -> hamburger", **values)
    NUMBERS["searched"] = measured
    Yardstick.measure = real
    NUMBERS["auto_report"] = found["ui"]["text"][0]
    NUMBERS["auto_left"] = found["ui"]["erase_left"]
    NUMBERS["auto_anchors"] = sorted({item.anchor for item in found["result"][2].manifest.concepts})
    (picture,) = found["ui"]["images"]
    NUMBERS["auto_picture"] = (
        Path(folder_paths.get_output_directory()) / picture["subfolder"] / picture["filename"]
    ).is_file()
    NUMBERS["auto_output"] = far(case.comfy(found["result"][0]), case.comfy())
    try:
        erase(nodes, case.model, case.clip, "pizza\ndog", **values)
    except Exception as error:
        NUMBERS["wrong rows"] = f"{type(error).__name__}: {error}"


def write_loras(folder: Path, clip: Any) -> None:
    """One that only changes keys of the denoiser's own attention, one that rewrites what prompts say, and one that says
    what it is for."""
    import torch
    from safetensors.torch import save_file

    draw = torch.Generator().manual_seed(1)
    weights = {name: value for name, value in clip.cond_stage_model.state_dict().items() if "fc1.weight" in name}
    text = {}
    for name, value in weights.items():
        stem = "lora_te_" + name.partition("transformer.")[2].removesuffix(".weight").replace(".", "_")
        text[f"{stem}.lora_up.weight"] = torch.randn(len(value), 4, generator=draw)
        text[f"{stem}.lora_down.weight"] = torch.randn(4, value.shape[1], generator=draw)
    nothing = {name: 0 * value for name, value in text.items()}
    save_file(nothing, folder / "unrelated.safetensors", {"ss_output_name": "pizzazz"})
    save_file(text, folder / "shifts_text.safetensors")
    save_file(nothing, folder / "pizza_look.safetensors")


def main(comfy_dir: str) -> None:
    sys.path.insert(0, comfy_dir)
    sys.argv = ["x", "--cpu"]
    logging.disable(logging.INFO)
    import comfy.options

    comfy.options.enable_args_parsing()
    import folder_paths
    import torch

    from comfy_nodes import NODE_CLASS_MAPPINGS as nodes

    with tempfile.TemporaryDirectory() as place:
        folder_paths.set_temp_directory(place)
        folder_paths.set_output_directory(place)
        folder_paths.add_model_folder_path("loras", place, is_default=True)
        with torch.inference_mode():  # as ComfyUI runs nodes
            model, clip, vae, *_ = nodes["ErasePocketLoader"]().execute()
            write_loras(Path(place), clip)
            measure(Case(None, model, clip), nodes, vae)
    print("RESULT " + json.dumps(NUMBERS))


if __name__ == "__main__":
    main(sys.argv[1])
