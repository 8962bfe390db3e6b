"""The real server with our pack: it starts, runs the example workflow, and shows our sentences where something is wrong."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
from PIL import Image

from tests.comfy_nodes.conftest import ROOT

pytestmark = [pytest.mark.comfy, pytest.mark.slow]


@pytest.fixture(scope="module")
def base(answered):
    """Base folder of the server."""
    return answered[0]


@pytest.fixture(scope="module")
def served(answered):
    """What serving.py saw."""
    return answered[1]["serving"]


def test_the_pack_is_imported_without_failure(served):
    times = served["log"].split("Import times for custom nodes:")[1]
    (line,) = (line for line in times.splitlines() if line.endswith("erase_nodes"))
    assert "IMPORT FAILED" not in line
    shipped = sorted(path.stem for path in (ROOT / "example_workflows").glob("*.json"))
    assert sorted(served["templates"]["erase_nodes"]) == shipped


def test_the_workflow_runs_and_its_picture_is_saved(served, base):
    first = served["first"]
    assert (first["status"], first["node_errors"], first["end"]) == (200, {}, "execution_success")
    assert len(first["executed"]) == 11
    sheet = np.asarray(Image.open(io.BytesIO((base / "first.png").read_bytes())).convert("RGB")).astype(float)
    assert sheet.shape == (128, 384, 3)
    before, after, heat = sheet[:, :128], sheet[:, 128:256], sheet[:, 256:]
    assert abs(before - after).mean() > 5
    assert before.std() > 20
    assert heat.max() > 50
    assert "patched 14 of 14 modules" in first["output"]["11"]["text"][0]


def test_the_saved_picture_carries_its_graph(served, base):
    prompt = json.loads(Image.open(base / "first.png").text["prompt"])
    assert prompt["2"]["inputs"]["erase"].startswith("pizza -> hamburger\n# ")


def test_a_second_run_executes_nothing(served):
    assert served["again"]["executed"] == []
    assert len(served["again"]["cached"]) == 11


def test_another_strength_executes_the_erased_branch_only_and_0_is_the_base(served):
    assert sorted(map(int, served["off"]["executed"])) == [2, 6, 8, 9, 10, 11]
    assert served["off"]["output"]["9"]["text"] == [
        "picture 1: mean change 0.0 %, 0 % of the pixels by more than a tenth"
    ]


@pytest.mark.parametrize(
    ("case", "text"),
    [
        ("bad concept", "'pizza' would become itself"),
        ("missing", "no artifact 'missing' in models/erase_plugins"),
    ],
)
def test_wrong_widgets_are_refused_before_anything_runs(served, case, text):
    answer = served[case]
    assert answer["status"] == 400
    said = {error["details"].partition(" - ")[2] for error in answer["node_errors"]["2"]["errors"]}
    assert len(said) == 1  # repeated for every input that is checked
    assert text in answer["node_errors"]["2"]["errors"][0]["details"]


def test_an_artifact_of_another_model_fails_with_our_sentence(served):
    answer = served["wrong_base"]
    assert answer["end"] == "execution_error"
    assert answer["error"].startswith("'wrong_base' was made for a larger one")
    assert "another architecture; nothing was changed" in answer["error"]


def test_doctor_finds_what_this_installation_lacks_and_nothing_else(served):
    text = served["doctor"]["output"]["1"]["text"][0]
    assert "methods: " in text
    (problem,) = [line for line in text.splitlines() if line.startswith("problem: ")]
    assert problem.startswith("problem: diffusers is not installed; every node with something in 'checkpoint' need")
    assert problem.endswith("python -m pip install diffusers")


@pytest.mark.parametrize("case", ["checkpoint"])
def test_a_missing_package_is_named_before_the_queue_takes_the_graph(served, case):
    answer = served[case]
    assert answer["status"] == 400
    details = [error["details"] for item in answer["node_errors"].values() for error in item["errors"]]
    assert any("needs diffusers, which ComfyUI does not bring; run: python -m pip install" in item for item in details)


def test_a_missing_package_is_named_at_once_where_the_checkpoint_comes_over_a_wire(served):
    answer = served["linked checkpoint"]
    assert answer["end"] == "execution_error"
    assert "a model named in 'checkpoint' needs diffusers" in answer["error"]
    assert "1" not in answer["executed"]  # not even the loader of the model ran


def test_closed_forms_need_nothing(served):
    assert served["closed form"]["end"] == "execution_success"


def test_object_info_has_tooltips(served):
    for node in served["nodes"].values():
        for group in (node["input"].get("required", {}), node["input"].get("optional", {})):
            assert all(item[1]["tooltip"] for item in group.values())
        assert len(node["output_tooltips"]) == len(node["output"])
