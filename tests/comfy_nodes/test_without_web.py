"""Everything works with the web folder deleted: the pack loads without a complaint and the first example draws."""

from __future__ import annotations

import re
import shutil

import numpy as np
import pytest
from PIL import Image

from tests.comfy_nodes.comfy_server import FOLDERS
from tests.comfy_nodes.conftest import ROOT
from tools.docs.comfy import own_specs

pytestmark = [pytest.mark.comfy, pytest.mark.slow]

COMPLAINT = re.compile(r"error|traceback|failed|exception|no such file", re.IGNORECASE)
NAME = "erase_nodes"


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """Base folder of a server with a copy of the pack, all but its web folder."""
    base = tmp_path_factory.mktemp("bare")
    for folder in FOLDERS:
        (base / folder).mkdir(parents=True)
    pack = base / "custom_nodes" / NAME
    shutil.copytree(ROOT / "comfy_nodes", pack, ignore=shutil.ignore_patterns("web", "__pycache__"))
    assert not (pack / "web").exists()
    return base


@pytest.fixture(scope="module")
def served(in_comfy, base):
    """What without_web.py saw."""
    return in_comfy("without_web.py", str(base), str(ROOT))


def complaints(log: str) -> list[str]:
    """Passages of a log that complain about our pack while the server starts, or about anything afterwards.

    ComfyUI complains about optional packages of its own before it listens.
    """
    loading, _, running = log.partition("Starting server")
    found = [text for text in loading.split("\n\n") if NAME in text and COMPLAINT.search(text)]
    return found + [line for line in running.splitlines() if COMPLAINT.search(line)]


def test_the_pack_loads_and_draws_without_a_line_of_complaint(served):
    _, _, times = served["log"].partition("Import times for custom nodes:")
    assert any(line.endswith(NAME) for line in times.splitlines())
    assert "Starting server" in times
    assert complaints(served["log"]) == []


@pytest.mark.parametrize(
    "log",
    [
        f"Traceback (most recent call last):\n  File custom_nodes/{NAME}/__init__.py\nImportError\n\nStarting server",
        f"Import times:\n   0.1 seconds (IMPORT FAILED): custom_nodes/{NAME}\n\nStarting server",
        "Starting server\ngot prompt\n!!! Exception during processing !!!",
    ],
)
def test_a_complaint_is_seen(log):
    assert complaints(log)
    assert complaints(log.replace(NAME, "other_nodes").replace("!!! Exception during processing !!!", "done")) == []


def test_every_node_is_there_and_no_script(served):
    assert {spec.id for spec in own_specs()} <= set(served["nodes"])
    assert [script for script in served["scripts"] if NAME in script] == []


def test_the_first_example_draws(served, base):
    first = served["first"]
    assert (first["status"], first["node_errors"], first["end"]) == (200, {}, "execution_success")
    assert len(first["executed"]) == 11
    sheet = np.asarray(Image.open(base / "first.png").convert("RGB")).astype(float)
    assert abs(sheet[:, :128] - sheet[:, 128:256]).mean() > 5
    assert sheet[:, :128].std() > 20


def test_doctor_finds_only_what_this_installation_lacks(served):
    lines = served["doctor"]["output"]["1"]["text"][0].splitlines()
    (problem,) = [line for line in lines if line.startswith("problem: ")]
    assert problem.startswith("problem: diffusers is not installed; ")
