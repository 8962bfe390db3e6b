"""Saved and loaded in every layout that accepts it, the edit predicts the same; the manifest tells all and no more."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from erase_plugins.errors import Unsupported
from erase_plugins.testing.case import Case, scratch
from erase_plugins.testing.checks import STOCK_READER, check, layout_check, refused, stock_reader
from erase_plugins.testing.checks.applying import TOLERANCE, closeness
from erase_plugins.testing.observe import applied_predictions, files_below, predictions

#: on logits in float64, where it makes no difference whether weights and LoRA are multiplied together or one by one
STOCK = 1e-6


@layout_check()
def layout_round_trip(case: Case, layout: str) -> None:
    """Folder and single files load into the same prediction; a layout that cannot carry the edit gives a reason."""
    from erase_plugins.workflow.artifacts import load_artifact

    with scratch() as folder:
        saved = saved_as(case, folder / "out", layout)
        if saved is None:
            return
        expected, exact = case.edited, not lossy(case, layout)
        for place in (folder / "out", *own_files(folder / "out", saved)):
            loaded = load_artifact(place, case.info.family.id)
            assert loaded.manifest.erased == (case.concept.name,), f"{place.name} forgot what it erases"
            distance = closeness(expected, applied_predictions(case.pipe, loaded))
            assert distance <= TOLERANCE or not exact, f"{layout}, {place.name}: predictions differ by {distance:.2e}"


@layout_check(reader=STOCK_READER)
def stock_loader_agrees(case: Case, layout: str) -> None:
    """What claims to be read by a stock loader predicts the same through it.

    ``load_lora_weights`` of diffusers for a pipeline, ``PeftModel.from_pretrained`` for a model that is one module.
    """
    if stock_reader(case) == "peft":
        _peft_agrees(case, layout)
        return
    with scratch() as folder:
        saved = saved_as(case, folder / "out", layout)
        if saved is None:
            return
        expected, pipe = case.edited, case.fresh()
        pipe.load_lora_weights(str(folder / "out"), weight_name=own_files(folder / "out", saved)[0].name)
        distance = closeness(expected, predictions(pipe))
    assert distance <= TOLERANCE or lossy(case, layout), (
        f"{layout} read by diffusers: predictions differ by {distance:.2e}"
    )


def _peft_agrees(case: Case, layout: str) -> None:
    from peft import PeftModel

    with scratch() as folder:
        if saved_as(case, folder / "out", layout) is None or lossy(case, layout):
            return
        # in float32 logits of size 10 are apart by more than STOCK from rounding alone
        expected, host = applied_predictions(case.fresh().double(), case.artifact), case.fresh()
        (component,) = case.artifact.edit.deltas
        PeftModel.from_pretrained(host, folder / "out" / f"peft_{component}")  # puts its layers into the module itself
        host.double()
        distance = float((expected - predictions(host)).abs().max())
    assert distance <= STOCK, f"{layout} read by peft: logits differ by {distance:.2e}"


def saved_as(case: Case, out: Path, layout: str) -> Any:
    """The artifact saved in one layout, or None if the layout says that it cannot carry it."""
    from erase_plugins.artifacts.store import lower_for
    from erase_plugins.manager import get_manager

    edit, family = case.artifact.edit, case.info.family
    lowered = lower_for(edit, case.target())
    if get_manager().layout(layout).accepts(edit, family) or get_manager().layout(layout).accepts(lowered, family):
        return case.artifact.save(out, (layout,), case.target())
    reason = get_manager().layout(layout).accepts(lowered, family).reason
    assert reason, f"layout {layout} refuses without a reason"
    refused(Unsupported, lambda: case.artifact.save(out, (layout,), case.target()), f"saving as {layout}")
    assert not out.exists(), f"the refused save as {layout} left a folder"
    return None


def lossy(case: Case, layout: str) -> bool:
    """Whether the layout says that it loses something."""
    from erase_plugins.artifacts.store import lower_for
    from erase_plugins.manager import get_manager

    lowered = lower_for(case.artifact.edit, case.target())
    return get_manager().layout(layout).accepts(lowered, case.info.family).answer == "lossy"


def own_files(folder: Path, saved: Any) -> list[Path]:
    """Weight files that stand for themselves (peft folders hold one component each)."""
    names = (item.name for item in saved.manifest.files)
    return [folder / name for name in names if "/" not in name and name.endswith(".safetensors")]


@check
def saved_files_are_declared(case: Case) -> None:
    """The folder holds what the manifest lists, the manifest itself, and nothing else."""
    from erase_plugins.artifacts.manifest import FILENAME

    with scratch() as folder:
        saved = case.artifact.save(folder / "out", target=case.target())
        found = files_below(folder / "out")
        stray = sorted(item.name for item in folder.iterdir() if item.name != "out")
    declared = {item.name for item in saved.manifest.files} | {FILENAME}
    assert found == declared, f"undeclared or missing files: {', '.join(sorted(found ^ declared))}"
    assert not stray, f"saving left {', '.join(stray)} beside the folder"


@check
def manifest_round_trip(case: Case) -> None:
    """The manifest survives JSON, names method, concepts, options and base, and holds no path of this machine."""
    from erase_plugins.artifacts.manifest import Manifest
    from erase_plugins.workflow.artifacts import load_artifact

    with scratch() as folder:
        saved = case.artifact.save(folder / "out", target=case.target())
        manifest = load_artifact(folder / "out").manifest
        text = manifest.to_json()
        private = [str(part) for part in (folder, Path.home(), Path.cwd()) if len(part.parts) > 1 and str(part) in text]
    assert manifest.to_json() == saved.manifest.to_json(), "the loaded manifest differs from the saved one"
    assert Manifest.from_json(text).to_json() == text, "the manifest changes on its way through JSON"
    assert not private, "the manifest holds a path of this machine"
    assert manifest.method["id"] == case.method.id
    assert manifest.erased == (case.concept.name,)
    assert tuple(manifest.preserve) == case.keep
    assert set(manifest.options) == set(case.plan().options)
    assert set(manifest.base["fingerprint"]) == set(case.target().fingerprint())
    assert set(manifest.kinds) == set(case.artifact.edit.kinds)
