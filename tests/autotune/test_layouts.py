"""Where a file layout is wanted, edits are measured as its files hold them."""

from __future__ import annotations

import pytest

import erase_plugins as ep
from erase_plugins.artifacts.difference import difference
from erase_plugins.artifacts.gated import plain_lora
from erase_plugins.autotune import job as jobs
from erase_plugins.autotune import run
from erase_plugins.autotune.space import Settings
from erase_plugins.errors import RequestError, Unsupported
from erase_plugins.types import Concept, EraseRequest
from erase_plugins.workflow.models import target_of

GATED = Settings("null-space", {"vocabulary": 20, "gated": True, "gate_words": 20})


@pytest.fixture(scope="module")
def target():
    from erase_plugins.testing.tiny import tiny_sd1

    return target_of(tiny_sd1(), "tiny")


def job(target, *layouts):
    base = EraseRequest(model="tiny", forget=(Concept("pizza"),), method="auto")
    return jobs.Job(base, target, (), ("a dog",), 2, "size", layouts)


@pytest.mark.parametrize("layouts", [("kohya",), ("patch", "diffusers")])
def test_a_gate_that_a_file_cannot_hold_counts_as_open(target, layouts):
    whole, there = job(target), job(target, *layouts)
    gated = whole.artifact(GATED)
    written = there._as_files(gated)
    assert not difference(written.edit, plain_lora(gated.edit))
    assert not difference(whole._as_files(gated).edit, gated.edit)
    assert not difference(job(target, "patch")._as_files(gated).edit, gated.edit)
    with_gate, without = whole.try_out(GATED), there.try_out(GATED)
    assert without.change > 1.5 * with_gate.change, "the other prompts open no gate"
    assert not difference(there.artifact(GATED).edit, gated.edit), "what is written decides the layout"


def test_what_a_file_cannot_hold_at_all_is_refused(target):
    with pytest.raises(Unsupported, match="no kohya file: a LoRA file cannot carry added modules"):
        job(target, "patch", "kohya").try_out(Settings("semantic-surgery"))


def test_a_method_whose_edit_a_wanted_file_cannot_hold_takes_no_part():
    asked = {"methods": ["uce", "gloce", "sae"], "keep": ("a dog",)}
    starts, reasons = run.preview("pocket", "pizza", **asked, layouts=("patch", "kohya"))
    assert {start.method for start in starts} == {"uce"}
    assert all("added modules, which no kohya file can hold" in reasons[name] for name in ("gloce", "sae"))
    assert {start.method for start in run.preview("pocket", "pizza", **asked)[0]} == {"uce", "gloce", "sae"}


def test_a_map_of_prompts_becomes_a_lora(target):
    settings = Settings("uce", {"vocabulary": 20})
    numbers = [job(target, *layouts).try_out(settings) for layouts in ((), ("kohya",))]
    assert numbers[0] == numbers[1]


def test_a_search_for_a_layout_is_another_search(target, tmp_path):
    pytest.importorskip("optuna")
    asked = {"methods": ["uce"], "trials": 2, "images": 2, "keep": ["a dog"], "out": tmp_path / "out"}
    found = ep.auto(target, "pizza", **asked, layouts=("kohya",))
    assert [item.layout for item in found.artifact.manifest.files if item.layout != "sidecar"] == ["kohya"]
    with pytest.raises(RequestError, match=r"asked something else \(layouts\)"):
        ep.auto(target, "pizza", **asked, force=True)
    other = ep.auto(target, "pizza", **asked, pick=1, force=True)
    assert other.taken.number == 1


def test_estimates_stay_those_of_when_the_search_began(target, tmp_path):
    pytest.importorskip("optuna")
    from erase_plugins.autotune.space import find_starts
    from erase_plugins.autotune.trials import open_study

    base = EraseRequest(model="tiny", forget=(Concept("pizza"),), method="auto")
    starts, _ = find_starts(base, target.info, ["uce", "rece", "esd"], (), ())
    study = open_study(tmp_path / "journal", {})
    begun = run._as_begun(study, starts)
    from dataclasses import replace

    later = [replace(start, seconds=100.0 - place) for place, start in enumerate(starts)]
    assert run._as_begun(open_study(tmp_path / "journal", {}), later) == begun
