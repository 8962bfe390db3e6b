"""Runs inside the ComfyUI interpreter: methods that train, on a connected model and on a checkpoint; prints numbers.

Usage: python training.py COMFY_DIR WORK, with this repository on PYTHONPATH. The test of the same name asserts.
"""

from __future__ import annotations

import json
import logging
import sys
import threading
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
from parity import Case, far
from tiny_model import tiny

NUMBERS: dict[str, Any] = {}
TINY = {"iterations": "4", "trajectories": "2", "harvest": "2", "steps": "3", "keep_words": "2", "keep_batch": "1"}
COMMON = {
    "erase": "pizza", "kind": "object", "strength": 1.0, "keep": "", "seed": 3, "checkpoint": "", "any_base": False,
    "preview_every": 0,
}  # fmt: skip


def target_parity(case: Case) -> None:
    """Predictions, gradients and a whole training run on both hosts."""
    import torch

    import erase_plugins as ep
    from comfy_nodes import host
    from comfy_nodes.target import ComfyTarget
    from erase_plugins.workflow.models import target_of

    with host.computing(gradients=True):
        ours, theirs = ComfyTarget(case.model, case.clip), target_of(case.pipe, "pocket")
        NUMBERS["latents"] = [list(item.info.latent_shape) for item in (ours, theirs)]
        prompts = ["a pizza", "a dog"]
        found = ours.predict(case.x, case.t, ours.encode(prompts))
        wanted = theirs.predict(case.x, case.t, theirs.encode(prompts))
        NUMBERS["predict"] = far(found.detach(), wanted.detach())
        refs = {ref.path: ref for ref in ours.modules("denoiser")}
        grads: list[dict[str, Any]] = []
        for target, out in ((ours, found), (theirs, wanted)):
            chosen = [ref for ref in target.modules("denoiser") if ref.path in refs]
            for ref in chosen:
                target.module(ref).weight.requires_grad_(True)
            out = target.predict(case.x, case.t, target.encode(prompts))
            parts = torch.autograd.grad(out.square().mean(), [target.module(ref).weight for ref in chosen])
            grads.append({ref.path: part for ref, part in zip(chosen, parts, strict=True)})
            for ref in chosen:
                target.module(ref).weight.requires_grad_(False)
        NUMBERS["modules"] = [len(grads[0]), len(grads[1])]
        NUMBERS["gradient"] = max(far(grads[0][path], grads[1][path]) for path in grads[1])
        text_encoder(ours, theirs, prompts)
        x = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(1))
        for kind in ("ddim", "euler"):
            steps = [target.scheduler(5, kind) for target in (ours, theirs)]
            NUMBERS[f"times_{kind}"] = [[float(time) for time in item.timesteps] for item in steps]
            moved = [item.step(0.3 * x, item.timesteps[0], x).prev_sample for item in steps]
            NUMBERS[f"step_{kind}"] = far(*moved)
        settings = {**TINY, "parameters": "full", "optimizer": "sgd", "precision": "float32", "lr": "0.5"}
        edits = [ep.erase(target, "pizza", "esd", options=settings, seed=1).edit for target in (ours, theirs)]
        ours_flat, theirs_flat = (
            torch.cat([next(iter(delta.tensors().values())).flatten() for _, _, delta in edit.items()])
            for edit in edits
        )
        NUMBERS["trained"] = far(ours_flat, theirs_flat)
        NUMBERS["trained_size"] = float(theirs_flat.norm())


def text_encoder(ours: Any, theirs: Any, prompts: list[str]) -> None:
    """Tokens, passes with gradients, and passes from given rows, on both hosts."""
    import torch

    sides = []
    for target in (ours, theirs):
        tokens = target.tokens(prompts)
        (component,) = tokens.ids
        refs = {ref.path: ref for ref in target.modules("text")}
        for ref in refs.values():
            target.module(ref).weight.requires_grad_(True)
        rows = target.encode_live(tokens)
        weights = [target.module(refs[path]).weight for path in sorted(refs)]
        parts = torch.autograd.grad(rows.embeds.square().mean(), weights)
        for ref in refs.values():
            target.module(ref).weight.requires_grad_(False)
        given = target.token_table(component)[tokens.ids[component]].clone().requires_grad_(True)
        moved = target.encode_live(tokens, {component: 0.9 * given})
        (pull,) = torch.autograd.grad(moved.embeds.square().mean(), [given])
        sides.append((tokens, rows, parts, moved, pull))
    (mine, rows, parts, moved, pull), (other, their_rows, their_parts, their_moved, their_pull) = sides
    NUMBERS["tokens"] = bool((mine.ids["text_encoder"] == other.ids["text_encoder"]).all()) and mine.last == other.last
    NUMBERS["encoder"] = [
        far(rows.embeds.detach(), ours.encode(prompts).embeds), far(rows.embeds.detach(), their_rows.embeds.detach()),
        max(far(a, b) for a, b in zip(parts, their_parts, strict=True)), float(len(parts)),
        far(moved.embeds.detach(), their_moved.embeds.detach()), far(pull, their_pull),
        far(moved.embeds.detach(), rows.embeds.detach()),
    ]  # fmt: skip


def node_runs(case: Case, node: Any, vae: Any) -> None:
    """The node on the connected model, pictures, the memory, and the run kept on disk."""
    from comfy_nodes import solved

    base, context = case.comfy(), case.context()
    shown: list[Any] = []
    hook(lambda value, total, preview: shown.append((value, total, preview)))
    values = {**COMMON, **TINY, "model": case.model, "clip": case.clip}
    result = node().execute(**{**values, "preview_every": 2}, vae=vae)["result"]
    NUMBERS["effect"] = far(case.comfy(result[0], context), base)
    NUMBERS["base_after"] = bool((case.comfy() == base).all())
    NUMBERS["clip_same"] = result[1] is case.clip
    NUMBERS["report"] = result[3]
    NUMBERS["pictures"] = [[value, *preview[1].size] for value, _, preview in shown if preview]
    NUMBERS["last_step"] = list(shown[-1][:2])
    shown.clear()
    half = node().execute(**{**values, "strength": 0.5})["result"]
    NUMBERS["not_again"] = [len(shown), half[2] is result[2]]
    off = node().execute(**{**values, "strength": 0.0})["result"]
    NUMBERS["off"] = bool((case.comfy(off[0], context) == base).all())
    solved._ENTRIES.clear()
    again = node().execute(**values)["result"]
    NUMBERS["from_disk"] = again[3].splitlines()[-1]
    NUMBERS["from_disk_same"] = bool((case.comfy(again[0], context) == case.comfy(result[0], context)).all())
    erased = node().execute(**values)["result"][0]
    chained = node().execute(**{**values, "model": erased, "erase": "dog", "preview_every": 2})["result"]
    NUMBERS["rough"] = chained[3]
    NUMBERS["chained"] = far(case.comfy(chained[0], context), case.comfy(erased, context))


def every_method(nodes: dict[str, Any]) -> None:
    """Every registered method on a connected model, as short as its contract allows."""
    from comfy_nodes.nodes.methods import drawing_methods, node_id

    hook(lambda *_: None)
    model, clip = tiny()
    NUMBERS["methods"] = {}
    for entry in drawing_methods():
        method = entry.item
        short = {
            name: ", ".join(map(str, value))
            if isinstance(value, tuple)
            else value
            if isinstance(value, bool)
            else str(value)
            for name, value in getattr(method, "contract_options", {}).items()
        }
        kind = "object" if "object" in method.kinds else sorted(method.kinds)[0]
        try:
            values = {**COMMON, "kind": kind, "model": model, "clip": clip, **short}
            NUMBERS["methods"][method.id] = nodes[node_id(method.id)]().execute(**values)["result"][3]
        except Exception as error:
            NUMBERS["methods"][method.id] = f"{type(error).__name__}: {error}"


def stopping(case: Case, node: Any) -> None:
    """A stop in the middle, the other nodes after it, and the same request again."""
    import comfy.model_management as management
    import folder_paths

    from comfy_nodes import solved

    values = {**COMMON, **TINY, "iterations": "6", "model": case.model, "clip": case.clip}
    whole = node().execute(**values)["result"]
    wanted = [delta for _, _, delta in whole[2].edit.items()]
    folder = Path(folder_paths.get_output_directory()) / "erase_plugins"
    (made,) = [item for item in folder.iterdir() if f"{item.name}" in whole[3]]
    made.rename(folder / "aside")
    solved._ENTRIES.clear()

    def stop(value: int, _total: int, _preview: Any) -> None:
        management.throw_exception_if_processing_interrupted()
        if value == 3:  # comes from another thread, in the middle of the next step
            threading.Timer(0.01, management.interrupt_current_processing, (True,)).start()

    hook(stop)
    try:
        node().execute(**values)
        NUMBERS["stopped"] = "no"
    except management.InterruptProcessingException:
        NUMBERS["stopped"] = "yes"
    NUMBERS["flag_after"] = management.processing_interrupted()
    NUMBERS["left"] = sorted(item.name for item in folder.iterdir() if item.name.startswith("."))
    base = case.comfy()
    NUMBERS["base_after_stop"] = bool((case.comfy() == base).all())
    hook(lambda *_: None)
    resumed = node().execute(**values)["result"]
    NUMBERS["resumed"] = resumed[3]
    found = [delta for _, _, delta in resumed[2].edit.items()]
    NUMBERS["resumed_same"] = all(
        bool((a == b).all())
        for one, other in zip(wanted, found, strict=True)
        for a, b in zip(one.tensors().values(), other.tensors().values(), strict=True)
    )
    NUMBERS["left_after"] = [item.name for item in folder.iterdir() if item.name.startswith(".")]


def checkpoints(case: Case, nodes: dict[str, Any]) -> None:
    """The same code on a checkpoint, with and without a connected model; and refusals."""
    from comfy_execution.graph_utils import ExecutionBlocker

    esd, uce = nodes["EraseMethodEsd"], nodes["EraseMethodUce"]
    base = case.comfy()
    result = esd().execute(**{**COMMON, **TINY, "checkpoint": "pocket", "preview_every": 2})["result"]
    NUMBERS["alone"] = [isinstance(result[0], ExecutionBlocker), result[0].message, result[3]]
    put = esd().execute(**{**COMMON, **TINY, "checkpoint": "pocket"}, model=case.model, clip=case.clip)["result"]
    NUMBERS["put"] = far(case.comfy(put[0]), base)
    closed = uce().execute(**{**COMMON, "erase": "pizza -> hamburger"}, model=case.model, clip=case.clip)["result"]
    special = nodes["EraseUCE"]().execute(
        model=case.model, clip=case.clip, strength=1.0, erase="pizza -> hamburger", kind="object"
    )["result"]
    NUMBERS["closed_form"] = far(case.comfy(closed[0]), case.comfy(special[0]))
    NUMBERS["refusals"] = {}
    for name, values in {
        "nothing": {},
        "no clip": {"model": case.model},
        "missing": {"checkpoint": "nowhere.safetensors"},
        "outside": {"checkpoint": "/etc"},
        "option": {"iterations": "0", "model": case.model, "clip": case.clip},
        "word": {"iterations": "many", "model": case.model, "clip": case.clip},
        "arrow": {"erase": "pizza -> dog", "model": case.model, "clip": case.clip},
    }.items():
        try:
            esd().execute(**{**COMMON, **values})
        except Exception as error:
            NUMBERS["refusals"][name] = f"{type(error).__name__}: {error}"


def hook(function: Any) -> None:
    """Listens to progress bars in place of the server."""
    import comfy.utils

    comfy.utils.set_progress_bar_global_hook(
        lambda value, total, preview, node_id=None: function(value, total, preview)
    )


def main(comfy_dir: str, work: Path) -> None:
    sys.path.insert(0, comfy_dir)
    sys.argv = ["x", "--cpu"]
    logging.disable(logging.INFO)
    import comfy.options

    comfy.options.enable_args_parsing()
    import folder_paths
    import torch

    import erase_plugins as ep
    from comfy_nodes import NODE_CLASS_MAPPINGS as nodes

    folder_paths.set_output_directory(str(work / "output"))
    with torch.inference_mode():  # as ComfyUI runs nodes
        model, clip, vae, *_ = nodes["ErasePocketLoader"]().execute()
    case = Case(ep.load("pocket"), model, clip)
    target_parity(case)
    with torch.inference_mode():
        node_runs(case, nodes["EraseMethodEsd"], vae)
        stopping(case, nodes["EraseMethodEsd"])
        checkpoints(case, nodes)
        every_method(nodes)
    print("RESULT " + json.dumps(NUMBERS))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
