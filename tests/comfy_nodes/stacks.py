"""Runs inside the ComfyUI interpreter: stacks, libraries, curves, probes and reports on the real MODEL; prints numbers.

Usage: python stacks.py COMFY_DIR WORK, with this repository on PYTHONPATH. The test of the same name asserts.
"""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path
from typing import Any

from parity import Case, far

NUMBERS: dict[str, Any] = {}
WORK: list[Path] = []
STYLE = "style.safetensors"
#: a pocket that never saw a pizza
REFERENCE = Path(__file__).parent.parent / "pocket" / "reference"


def run(nodes: dict[str, Any], node: str, /, **values: Any) -> tuple[Any, ...]:
    """Values of a node."""
    found = nodes[node]().execute(**values)
    return found["result"] if isinstance(found, dict) else found


def stack(nodes: dict[str, Any], model: Any, rows: str, clip: Any = None, **more: Any) -> tuple[Any, ...]:
    return run(nodes, "EraseStack", model=model, rows=rows, any_base=False, effective=True, clip=clip, **more)


def residual(nodes: dict[str, Any], model: Any, clip: Any, base: Any, **more: Any) -> dict[str, float]:
    """Residual of pizza and drift of a cat, as the probe node reports them."""
    report = run(
        nodes,
        "EraseProbe",
        model=model,
        clip=clip,
        erase="pizza -> hamburger",
        kind="object",
        keep="a cat",
        base=base,
        **more,
    )[2]
    return {f"{row.metric} {row.subject}": row.value for row in report.rows}


def stacking(case: Case, nodes: dict[str, Any]) -> None:
    """Joint solutions beside diffusers, taking out, strength 0."""
    import erase_plugins as ep
    from erase_plugins.stack import Entry, Stack

    base = case.comfy()
    folder = WORK[0] / "models" / "erase_plugins"
    rows = "erase_pizza : 0.8\nerase_dog\nlora : 0.5"
    model, _, edit, loras, report = stack(nodes, case.model, rows, case.clip)
    NUMBERS["stack_report"], NUMBERS["lora_stack"] = report, loras
    parts = {name: ep.load_artifact(folder / name) for name in ("erase_pizza", "erase_dog", "lora")}
    layers = Stack(tuple(Entry(parts[name], s) for name, s in (("erase_pizza", 0.8), ("erase_dog", 1.0)))).layers()
    with ep.apply(case.pipe, layers[0].artifact, mode="context"), ep.apply(case.pipe, parts["lora"], strength=0.5):
        wanted = case.diffusers()
    NUMBERS["stack_output"] = far(case.comfy(model), wanted)
    NUMBERS["stack_effect"] = far(wanted, base)
    with ep.apply(case.pipe, edit):
        NUMBERS["stack_edit"] = far(case.diffusers(), wanted)
    less = run(nodes, "EraseRevoke", edit=edit, model=case.model, names="pizza", protect=False, any_base=False,
               effective=True, clip=case.clip)  # fmt: skip
    never = stack(nodes, case.model, "erase_dog\nlora : 0.5", case.clip)
    NUMBERS["revoked_is_never"] = bool((case.comfy(less[0]) == case.comfy(never[0])).all())
    NUMBERS["revoke_report"] = less[-1]
    none = run(nodes, "EraseRevoke", edit=less[2], model=case.model, names="dog\nlora", protect=False, any_base=False,
               effective=True, clip=case.clip)  # fmt: skip
    off = stack(nodes, case.model, "erase_pizza : 0\nlora : 0", case.clip)
    NUMBERS["all_revoked_is_base"] = none[0] is case.model
    NUMBERS["off_is_base"] = off[0] is case.model and off[1] is case.clip
    NUMBERS["base_after"] = bool((case.comfy() == base).all())


def user_loras(case: Case, nodes: dict[str, Any]) -> None:
    """A LoRA of the user before and after: what comes back, and what solving again does."""
    import comfy.sd
    import comfy.utils
    import folder_paths

    def load(name: str, model: Any, clip: Any = None, strength: float = 1.0) -> tuple[Any, Any]:
        file = comfy.utils.load_torch_file(folder_paths.get_full_path("loras", name))
        return comfy.sd.load_lora_for_models(model, clip, file, strength, strength)

    base = case.model
    style, _ = load(STYLE, base, case.clip)
    clean = stack(nodes, base, "pizza_hamburger", case.clip)
    NUMBERS["no_lora"] = residual(nodes, clean[0], case.clip, base)
    file, _ = load("erase_pizza_hamburger_sd1_kohya.safetensors", base)
    NUMBERS["no_lora_file"] = residual(nodes, file, case.clip, base)
    file_then_lora, _ = load(STYLE, file)
    NUMBERS["lora_after_file"] = residual(nodes, file_then_lora, case.clip, style)
    again = stack(nodes, style, "pizza_hamburger", case.clip)
    NUMBERS["solved_again"] = residual(nodes, again[0], case.clip, style)
    through = stack(nodes, base, "pizza_hamburger", case.clip, lora_stack=[(STYLE, 1.0, 0.0)])
    NUMBERS["through_lora_stack"] = residual(nodes, through[0], case.clip, style)
    NUMBERS["through_report"], NUMBERS["through_emitted"] = through[4], through[3]
    later, _ = load(STYLE, clean[0])
    NUMBERS["lora_after_map"] = residual(nodes, later, case.clip, style)
    two = stack(nodes, stack(nodes, style, "erase_dog", case.clip)[0], "pizza_hamburger", case.clip)
    import erase_plugins as ep

    folder = WORK[0] / "models" / "erase_plugins"
    with (
        ep.apply(case.pipe, WORK[0] / "loras" / STYLE),
        ep.apply(case.pipe, folder / "erase_dog", mode="context"),
        ep.apply(case.pipe, folder / "pizza_hamburger", mode="context"),
    ):
        NUMBERS["two_nodes_and_a_lora"] = far(case.comfy(two[0]), case.diffusers())
    # a LoRA on the text encoder moves the rows themselves
    text_model, text_clip = load("text.safetensors", base, case.clip)
    stored = run(
        nodes, "EraseStack", model=text_model, rows="pizza_hamburger", any_base=True, effective=False, clip=text_clip
    )
    anew = run(
        nodes, "EraseStack", model=text_model, rows="pizza_hamburger", any_base=True, effective=True, clip=text_clip
    )
    NUMBERS["text_lora_stored"] = residual(nodes, stored[0], text_clip, text_model)
    NUMBERS["text_lora_anew"] = residual(nodes, anew[0], text_clip, text_model)
    chart, text, _ = run(
        nodes,
        "EraseProbe",
        model=file_then_lora,
        clip=case.clip,
        erase="",
        kind="object",
        keep="a cat",
        base=base,
        edit=clean[2],
    )
    NUMBERS["probe_chart"], NUMBERS["probe_text"] = list(chart.shape), text


def shaping(case: Case, nodes: dict[str, Any]) -> None:
    """Curves over time and by layer, sampled."""
    import torch

    import erase_plugins as ep
    from comfy_nodes.measuring import _sample

    folder = WORK[0] / "models" / "erase_plugins"

    def sampled(model: Any) -> Any:
        noise = torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(9))
        rows = case.context()
        blank = case.clip.encode_from_tokens(case.clip.tokenize("")).expand_as(rows)
        return _sample(model, noise, rows, blank, 3, 4.0)

    def shaped(edit: Any, over_time: str = "", layers: str = "", strength: float = 1.0) -> Any:
        return run(nodes, "EraseStrength", edit=edit, model=case.model, strength=strength, over_time=over_time,
                   layers=layers, clip=case.clip)  # fmt: skip

    base = sampled(case.model)
    for name in ("erase_pizza", "lora"):
        edit = ep.load_artifact(folder / name)
        full = sampled(shaped(edit)[0])
        constant = shaped(edit, "0 : 1")
        NUMBERS[f"{name}_constant"] = far(sampled(constant[0]), full)
        NUMBERS[f"{name}_effect"] = far(full, base)
        NUMBERS[f"{name}_never"] = shaped(edit, "0 : 0\n1 : 0")[0] is case.model
        early, late = (
            sampled(shaped(edit, rows)[0]) for rows in ("0 : 1\n0.5 : 1\n0.51 : 0", "0 : 0\n0.5 : 0\n0.51 : 1")
        )
        NUMBERS[f"{name}_early"], NUMBERS[f"{name}_late"] = far(early, full), far(late, full)
        NUMBERS[f"{name}_early_effect"], NUMBERS[f"{name}_late_effect"] = far(early, base), far(late, base)
        again = run(nodes, "EraseStack", model=case.model, rows="", any_base=False, effective=True, clip=case.clip,
                    edit_1=constant[2])  # fmt: skip
        NUMBERS[f"{name}_curve_in_a_stack"] = far(sampled(again[0]), full)
        try:
            run(nodes, "EraseSaveArtifact", edit=constant[2], name="curve", overwrite=False, kohya_copy=False)
        except Exception as error:
            NUMBERS[f"{name}_save"] = str(error)
    edit = ep.load_artifact(folder / "erase_pizza")
    model, _, layered, _ = shaped(edit, "", "mid_block : 0\nup_blocks : 0.5", 0.7)
    found = case.comfy(model)
    with ep.apply(case.pipe, layered):
        NUMBERS["layers_output"] = far(found, case.diffusers())
    NUMBERS["base_after_sampling"] = bool((sampled(case.model) == base).all())


def gating(case: Case, nodes: dict[str, Any]) -> None:
    """A prompt opens an erasure as far as it means the concept."""
    import torch

    import erase_plugins as ep

    folder = WORK[0] / "models" / "erase_plugins"
    settings = {
        "model": case.model,
        "clip": case.clip,
        "phrases": "",
        "measure": "probe",
        "low": 0.3,
        "high": 0.6,
        "words": 300,
    }
    base = case.comfy()
    for name in ("erase_pizza", "lora"):
        edit = ep.load_artifact(folder / name)
        phrases = "" if name == "erase_pizza" else "pizza"
        common = {**settings, "edit": edit, "phrases": phrases}
        model, gated, report = run(
            nodes, "ErasePromptGate", strength=1.0, prompts="a pizza\na photo of a dog", **common
        )
        NUMBERS[f"{name}_gate_report"] = report
        found = case.comfy(model)  # first sample: a pizza; second: a dog
        full = case.comfy(stack(nodes, case.model, name, case.clip)[0])
        with ep.apply(case.pipe, gated):
            NUMBERS[f"{name}_gate_diffusers"] = far(found, case.diffusers())
        NUMBERS[f"{name}_gate_open"] = far(found[:1], full[:1])
        NUMBERS[f"{name}_gate_closed"] = bool(torch.equal(found[1:], base[1:]))
        NUMBERS[f"{name}_gate_effect"] = far(full, base)
        off = run(nodes, "ErasePromptGate", strength=0.0, prompts="", **common)
        NUMBERS[f"{name}_gate_off"] = off[0] is case.model
    try:
        run(nodes, "ErasePromptGate", strength=1.0, prompts="", **{**settings, "edit": edit, "low": 0.7})
    except Exception as error:
        NUMBERS["gate_thresholds"] = str(error)
    NUMBERS["gate_base_after"] = bool((case.comfy() == base).all())


def picking(case: Case, nodes: dict[str, Any]) -> None:
    """A library of many concepts."""
    import erase_plugins as ep

    names = json.loads((WORK[0] / "names.json").read_text())
    common = {"model": case.model, "any_base": False, "effective": True, "clip": case.clip}
    NUMBERS["collections"] = nodes["EraseLibrary"].INPUT_TYPES()["required"]["collection"][0]
    NUMBERS["listed"] = nodes["EraseLoadArtifact"].INPUT_TYPES()["required"]["artifact"][0]
    picked = run(nodes, "EraseLibrary", collection="shelf", names="\n".join(names), strength=1.0, **common)
    NUMBERS["library_report"] = picked[-1]
    shelf = WORK[0] / "models" / "erase_plugins" / "shelf"
    with ep.apply(case.pipe, ep.merge([shelf / name for name in names])):
        NUMBERS["library_output"] = far(case.comfy(picked[0]), case.diffusers())
    off = run(nodes, "EraseLibrary", collection="shelf", names=names[0], strength=0.0, **common)
    NUMBERS["library_off"] = off[0] is case.model
    try:
        run(nodes, "EraseLibrary", collection="shelf", names="erase_pizz", strength=1.0, **common)
    except Exception as error:
        NUMBERS["library_unknown"] = str(error)


def reporting(case: Case, nodes: dict[str, Any], vae: Any) -> None:
    """The quick suite drawn by ComfyUI, and pictures that are there."""
    import torch

    edit = run(nodes, "EraseUCE", model=case.model, clip=case.clip, erase="pizza", strength=1.0, kind="object")[1]
    settings = {"erase": "", "images": 3, "steps": 6, "guidance": 4.0, "seed": 1, "strength": 1.0, "judge": "none"}
    chart, sheet, text, report = run(
        nodes, "EraseReport", edit=edit, model=case.model, clip=case.clip, vae=vae, **settings
    )
    NUMBERS["report_text"] = text
    NUMBERS["report_shapes"] = [list(chart.shape), list(sheet.shape)]
    NUMBERS["report"] = {f"{row.metric} {row.subject}": row.value for row in report.rows}
    NUMBERS["report_warnings"] = list(report.warnings)
    pictures = torch.rand(3, 64, 64, 3, generator=torch.Generator().manual_seed(2))
    given = run(nodes, "EraseReport", base_pictures=pictures, erased_pictures=pictures * 0.5,
                **{**settings, "erase": "pizza", "judge": "pocket"})  # fmt: skip
    NUMBERS["given"] = {f"{row.metric} {row.subject}": row.value for row in given[3].rows}
    NUMBERS["given_wanted"] = float((pictures * 0.5).mean())
    for name, values in {
        "nothing": {}, "half": {"base_pictures": pictures},
        "size": {"base_pictures": pictures[:, :32], "erased_pictures": pictures[:, :32], "judge": "pocket"},
    }.items():  # fmt: skip
        try:
            run(nodes, "EraseReport", **{**settings, **values})
        except Exception as error:
            NUMBERS[f"report_{name}"] = str(error)


class Bare:
    """An attack that only asks and has no options."""

    id, title, needs, budgets, only_asks = "bare", "Bare", frozenset(), {"quick": 5, "standard": 6, "long": 7}, True

    def run(self, subject: Any, budget: Any) -> Any:
        raise AssertionError("it was refused before")


def attacking(case: Case, nodes: dict[str, Any], vae: Any) -> None:
    """An attack by prompts on what ComfyUI draws; two pictures per set."""
    edit = run(nodes, "EraseUCE", model=case.model, clip=case.clip, erase="pizza", strength=1.0, kind="object")[1]
    settings = {"model": case.model, "clip": case.clip, "vae": vae, "edit": edit, "erase": "", "steps": 6}
    settings |= {"attack": "described", "guidance": 4.0, "seed": 1}
    for strength in (1.0, 0.0):
        pictures, prompt, text = run(nodes, "EraseAttack", budget="38", strength=strength, **settings)
        NUMBERS[f"attack_{strength:g}"] = {"shape": list(pictures.shape), "prompt": prompt, "text": text}
    try:
        run(nodes, "EraseAttack", budget="38", strength=1.0, **{**settings, "erase": "zeppelin"})
    except Exception as error:
        NUMBERS["attack_unknown"] = str(error)
    from erase_plugins import hookimpl
    from erase_plugins.manager import get_manager

    settings |= {"budget": "38", "strength": 1.0}
    NUMBERS["attack_reference"] = run(nodes, "EraseAttack", **settings, reference=f" {REFERENCE} ")[2]
    bare = type("Planted", (), {"erase_attacks": hookimpl(lambda self: [Bare()], specname="erase_attacks")})()
    for name, values in {
        "nowhere": {"reference": "some/folder"}, "empty": {"reference": str(WORK[0])},
        "not_taken": {"reference": str(REFERENCE), "attack": "bare"},
    }.items():  # fmt: skip
        try:
            with get_manager().temporary(bare, "bare"):
                run(nodes, "EraseAttack", **{**settings, **values})
        except Exception as error:
            NUMBERS[f"attack_{name}"] = str(error)


def main(comfy_dir: str, work: Path) -> None:
    WORK.append(work)
    sys.path.insert(0, comfy_dir)
    sys.argv = ["x", "--cpu"]
    logging.disable(logging.INFO)
    import comfy.options

    comfy.options.enable_args_parsing()
    import folder_paths
    import torch

    import erase_plugins as ep
    from comfy_nodes import NODE_CLASS_MAPPINGS as nodes

    folder_paths.models_dir = str(work / "models")
    folder_paths.folder_names_and_paths["loras"] = ([str(work / "loras")], {".safetensors"})
    with torch.inference_mode():  # as ComfyUI runs nodes
        model, clip, vae, *_ = nodes["ErasePocketLoader"]().execute()
        pipe = ep.load("pocket")
    with torch.no_grad():
        case = Case(pipe, model, clip)
        with torch.inference_mode():
            stacking(case, nodes)
            user_loras(case, nodes)
            shaping(case, nodes)
            gating(case, nodes)
            picking(case, nodes)
            reporting(case, nodes, vae)
            attacking(case, nodes, vae)
    print("RESULT " + json.dumps(NUMBERS))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
