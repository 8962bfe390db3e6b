"""Which precision weights are loaded in where nobody says so."""

from __future__ import annotations

import json
import shutil

import pytest
import torch

import erase_plugins as ep
from erase_plugins.api import build_request
from erase_plugins.data import DataRef
from erase_plugins.errors import RequestError
from erase_plugins.families import loading
from erase_plugins.families.source import pocket_folder
from erase_plugins.types import ForgetItem
from erase_plugins.workflow.models import as_target, find_model
from erase_plugins.workflow.run import make_plan


def language_model(place, **config):
    """pocket-lm with other words in its configuration; None takes one out."""
    shutil.copytree(pocket_folder("pocket-lm"), place)
    found = json.loads((place / "config.json").read_text(encoding="utf-8")) | config
    (place / "config.json").write_text(json.dumps({key: value for key, value in found.items() if value is not None}))
    return str(place)


@pytest.fixture
def facts(tmp_path):
    """(what is forgotten, what stays)."""
    texts = {"forget": ("Ada", "tea"), "retain": ("Bob", "wine")}
    for name, (who, what) in texts.items():
        row = {"prompt": f"{who} drinks", "completion": what, "subject": who}
        (tmp_path / f"{name}.jsonl").write_text(json.dumps(row), encoding="utf-8")
    return [ForgetItem("Ada", "person", data=DataRef(str(tmp_path / "forget.jsonl")))], [
        DataRef(str(tmp_path / "retain.jsonl"))
    ]


@pytest.mark.parametrize(
    ("method", "device", "options", "wanted"),
    [
        ("esd", "cuda", {}, "bfloat16"),
        ("esd", "cuda:1", {}, "bfloat16"),
        ("hirm", "cuda", {}, "bfloat16"),
        ("esd", "cpu", {}, "float32"),
        ("esd", "mps", {}, "float32"),
        ("esd", "cuda", {"parameters": "full"}, "float32"),
        ("uce", "cuda", {}, "float32"),
    ],
)
def test_loras_are_trained_on_half_weights_on_accelerators(method, device, options, wanted):
    assert ep.plan("pocket", "pizza", method, device=device, options=options).request.dtype == wanted


@pytest.mark.parametrize(
    ("config", "method", "device", "options", "wanted"),
    [
        ({"dtype": "bfloat16"}, "npo", "cuda", {}, "bfloat16"),
        ({"dtype": None, "torch_dtype": "bfloat16"}, "npo", "cuda:1", {}, "bfloat16"),
        ({"dtype": "float16"}, "npo", "cuda", {}, "float16"),
        ({"dtype": "float32"}, "npo", "cuda", {}, "float32"),
        ({"dtype": None}, "npo", "cuda", {}, "float32"),
        ({"dtype": "float8_e4m3fn"}, "npo", "cuda", {}, "float32"),
        ({"dtype": "bfloat16"}, "memit", "cuda", {}, "bfloat16"),
        ({"dtype": "bfloat16"}, "npo", "cuda", {"parameters": "full"}, "float32"),
        ({"dtype": "bfloat16"}, "npo", "cpu", {}, "float32"),
    ],
)
def test_a_language_model_is_loaded_on_accelerators_as_its_configuration_says(
    tmp_path, facts, config, method, device, options, wanted
):
    model, (forget, retain) = language_model(tmp_path / "model", **config), facts
    plan = ep.plan(model, forget, method, keep=retain, device=device, options=options)
    assert plan.request.dtype == wanted


def test_measuring_loads_it_so_too_and_pipelines_as_ever(tmp_path, monkeypatch):
    model = language_model(tmp_path / "model", dtype="bfloat16")
    assert find_model(model).precision(device="cuda") == "bfloat16"
    assert find_model(model).precision("float16", "cuda") == "float16"
    assert find_model(model).precision() == "float32"
    assert find_model("pocket").precision(device="cuda") == "float32"
    assert as_target(model).dtype == torch.float32
    monkeypatch.setattr(loading, "ACCELERATORS", {"cpu"})
    assert as_target(model).dtype == ep.load(model).dtype == torch.bfloat16


def test_a_run_loads_what_was_planned(tmp_path, facts, monkeypatch):
    model, (forget, retain) = language_model(tmp_path / "model", dtype="bfloat16"), facts
    monkeypatch.setattr(loading, "ACCELERATORS", {"cpu"})
    seen = []
    opened = type(find_model(model).family).open
    monkeypatch.setattr(
        type(find_model(model).family), "open",
        lambda self, source, dtype, device: seen.append(dtype) or opened(self, source, dtype, device),
    )  # fmt: skip
    options = {"steps": 2, "until_unknown": False}
    found = ep.erase(model, forget, "npo", keep=retain, options=options)
    assert seen == ["bfloat16"]
    assert {part.dtype for _, _, delta in found.edit.items() for part in delta.tensors().values()} == {torch.float32}


def test_a_plan_counts_a_loaded_model_as_it_is(tmp_path, facts):
    forget, retain = facts
    for dtype in loading.DTYPES:
        loaded = ep.load("pocket-lm", dtype=dtype)
        assert ep.plan(loaded, forget, "npo", keep=retain).request.dtype == dtype


def test_what_is_said_counts():
    assert ep.plan("pocket", "pizza", "esd", device="cuda", dtype="float32").request.dtype == "float32"
    assert build_request("pocket", "uce", "pizza", device="cpu", dtype="bfloat16").dtype == "bfloat16"
    with pytest.raises(RequestError, match="choose one of auto, float32"):
        ep.load(dtype="float64")


def test_a_request_of_ones_own_is_settled_by_its_plan():
    request = build_request("pocket", "esd", "pizza", device="cuda")
    assert (request.dtype, make_plan(request).request.dtype) == ("auto", "bfloat16")


def test_a_plan_on_an_accelerator_needs_less():
    here, there = (ep.plan("pocket", "pizza", "esd", device=device).memory_bytes for device in ("cpu", "cuda"))
    assert there < here
