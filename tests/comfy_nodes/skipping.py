"""Runs inside the ComfyUI interpreter: clip skip, strengths of an artifact, pictures that are not square, guards.

Usage: python skipping.py COMFY_DIR WORK, with this repository on PYTHONPATH. The test of the same name asserts.
"""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
from parity import Case, far

NUMBERS: dict[str, Any] = {}
TEXTS = ["a pizza on a blue background", "a photo of a dog"]
#: of the node for a method that has options; of fewer common words than by default, which are encoded with every encoder anew
SETTINGS = {
    "erase": "pizza -> hamburger", "kind": "object", "keep": "a cat", "strength": 1.0, "seed": 0, "checkpoint": "",
    "any_base": False, "preview_every": 0, "vocabulary": "100",
}  # fmt: skip


def skipped(pipe: Any, texts: list[str]) -> Any:
    """The text rows of the layer before the last, through the final norm, by transformers."""
    ids = pipe.tokenizer(texts, padding="max_length", max_length=pipe.tokenizer.model_max_length, return_tensors="pt")
    encoder = pipe.text_encoder
    layers = encoder(ids.input_ids, output_hidden_states=True).hidden_states
    return getattr(encoder, "text_model", encoder).final_layer_norm(layers[-2]).detach()


def clip_skip(case: Case, nodes: dict[str, Any]) -> None:
    """Rows for solving and for training, the solution, its report and its name, behind the stock node."""
    import torch
    from nodes import CLIPSetLastLayer

    import erase_plugins as ep
    from comfy_nodes import host
    from comfy_nodes.identity import identity
    from comfy_nodes.stacking import text_changed
    from comfy_nodes.target import ComfyTarget
    from erase_plugins.workflow.models import target_of

    (clip,) = CLIPSetLastLayer().set_last_layer(case.clip, -2)
    plain, target = ComfyTarget(case.model, case.clip), ComfyTarget(case.model, clip)
    wanted, whole = skipped(case.pipe, TEXTS), case.diffusers_context()
    found: dict[str, Any] = {"difference": far(wanted, whole)}
    found["rows"], found["plain rows"] = (
        far(target.encode(TEXTS).embeds, wanted),
        far(plain.encode(TEXTS).embeds, whole),
    )
    with host.computing(gradients=True):
        for name, side, goal in (
            ("live", target, wanted),
            ("plain live", plain, whole),
            ("live again", target, wanted),
        ):
            found[name] = far(side.encode_live(side.tokens(TEXTS)).embeds.detach(), goal)
    found["rows after"] = far(ComfyTarget(case.model, clip).encode(TEXTS).embeds, wanted)
    names = [identity(side) for side in (plain, target, ComfyTarget(case.model, clip))]
    found["own name"] = [names[0] != names[1], names[1] == names[2]]
    found["told to the stack"] = [text_changed(clip), text_changed(case.clip)]
    with torch.inference_mode():
        results = [
            nodes["EraseMethodUce"]().execute(model=case.model, clip=part, **SETTINGS)["result"]
            for part in (case.clip, clip)
        ]
    found["reports"] = [result[3] for result in results]
    encode = case.pipe.encode_prompt
    case.pipe.encode_prompt = lambda prompt, **_: (skipped(case.pipe, prompt), None)
    options = {"vocabulary_tail": 0, "vocabulary": 100}
    try:
        theirs, ours = (
            ep.erase(side, ep.Concept("pizza", anchor="hamburger"), "uce", keep=["a cat"], options=options)
            for side in (target_of(case.pipe, "pocket"), target)
        )
    finally:
        case.pipe.encode_prompt = encode

    def change(artifact: Any) -> Any:
        delta = artifact.edit.deltas["unet"]["context"]
        return delta.B.double() @ delta.A.double()

    found["map"] = far(change(ours), change(theirs))
    found["map of the whole encoder"] = far(change(results[0][2]), change(results[1][2]))
    NUMBERS["clip skip"] = found


def strengths(case: Case, nodes: dict[str, Any], work: Path) -> None:
    """An artifact that changes denoiser and text encoder, beside `ep.apply` with its halves."""
    import folder_paths

    import erase_plugins as ep

    folder_paths.models_dir = str(work / "models")
    base, rows = case.comfy(), case.context()
    NUMBERS["strengths"] = {}
    for unet, text in ((0.6, 0.2), (0.2, 0.6), (0.6, 0.0), (0.0, 0.6)):
        model, clip, _, _ = nodes["EraseLoadArtifact"]().execute(
            artifact="both", model=case.model, clip=case.clip, strength=unet, strength_clip=text, any_base=False
        )["result"]
        with (
            ep.apply(case.pipe, work / "halves" / "unet", strength=unet),
            ep.apply(case.pipe, work / "halves" / "text", strength=text),
        ):
            wanted_rows = case.diffusers_context()
            wanted = case.diffusers(wanted_rows)
        context = case.context(clip)
        NUMBERS["strengths"][f"{unet} {text}"] = {
            "output": far(case.comfy(model, context), wanted), "rows": far(context, wanted_rows),
            "model moved": far(case.comfy(model, rows), base), "clip moved": far(context, rows),
        }  # fmt: skip


def guards(case: Case, nodes: dict[str, Any]) -> None:
    """Guards from the load node in front of stock nodes, and a node of ours behind them."""
    from nodes import CLIPSetLastLayer, CLIPTextEncode

    NUMBERS["guards"] = {}
    for name in ("keyword", "embedding"):
        model, clip, _, report = nodes["EraseLoadArtifact"]().execute(
            artifact=f"{name}-guard", model=case.model, clip=case.clip, strength=1.0, strength_clip=1.0, any_base=False
        )["result"]
        (behind,) = CLIPSetLastLayer().set_last_layer(clip, -1)
        said = []
        for part in (clip, behind):
            try:
                CLIPTextEncode().encode(part, "a photo of a pizza")
            except Exception as error:
                said.append(f"{type(error).__name__}: {error}")
        rows = [part.encode_from_tokens(part.tokenize("a photo of a dog")) for part in (clip, case.clip)]
        erased = nodes["EraseMethodUce"]().execute(model=model, clip=clip, **{**SETTINGS, "erase": "pizza"})
        NUMBERS["guards"][name] = {
            "said": said, "same rows": bool((rows[0] == rows[1]).all()), "same model": model is case.model,
            "report": report, "erased": erased["result"][3],
        }  # fmt: skip


def sizes(model: Any, clip: Any) -> None:
    """What SDXL is told about latents of 4 x 12: the first cosine of each of its six numbers."""
    import torch

    from comfy_nodes.target import ComfyTarget

    target, told = ComfyTarget(model, clip), []

    class Live:
        def predict(self, latents: Any, _timestep: Any, _context: Any, vector: Any) -> Any:
            told.append(vector)
            return latents

    target._live = Live()  # type: ignore[assignment]
    target.predict(torch.zeros(1, 4, 4, 12), 500, target.encode(["pizza"]))
    NUMBERS["sizes"] = [float(told[0][0, -(6 - place) * 256]) for place in range(6)]


def main(comfy_dir: str, work: Path) -> None:
    sys.path.insert(0, comfy_dir)
    sys.argv = ["x", "--cpu"]
    logging.disable(logging.INFO)
    import comfy.options

    comfy.options.enable_args_parsing()
    import torch

    import erase_plugins as ep
    from comfy_nodes import NODE_CLASS_MAPPINGS as nodes

    with torch.inference_mode():  # as ComfyUI runs nodes
        model, clip, *_ = nodes["ErasePocketLoader"]().execute()
        pipe = ep.load("pocket")
    with torch.no_grad():
        case = Case(pipe, model, clip)
        clip_skip(case, nodes)
        with torch.inference_mode():
            strengths(case, nodes, work)
            guards(case, nodes)
        from small_sdxl import SmallSDXL

        sizes(*SmallSDXL().make()[:2])
    print("RESULT " + json.dumps(NUMBERS))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
