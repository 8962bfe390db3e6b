"""Which precision weights are loaded in where nobody says so."""

from __future__ import annotations

import json
import shutil

import pytest
import torch

import erase_plugins as ep
from erase_plugins.api import build_request
from erase_plugins.data import DataRef
from erase_plugins.engine.loop import Scale
from erase_plugins.errors import RequestError
from erase_plugins.families import causal_lm, loading
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
def large(monkeypatch):
    """pocket-lm counts as too large for float32."""
    monkeypatch.setattr(causal_lm, "SMALL", 0)


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
    large, tmp_path, facts, config, method, device, options, wanted
):
    model, (forget, retain) = language_model(tmp_path / "model", **config), facts
    plan = ep.plan(model, forget, method, keep=retain, device=device, options=options)
    assert plan.request.dtype == wanted


def test_measuring_loads_it_so_too_and_pipelines_as_ever(large, tmp_path, monkeypatch):
    model = language_model(tmp_path / "model", dtype="bfloat16")
    assert find_model(model).precision(device="cuda") == "bfloat16"
    assert find_model(model).precision("float16", "cuda") == "float16"
    assert find_model(model).precision() == "float32"
    assert find_model("pocket").precision(device="cuda") == "float32"
    assert as_target(model).dtype == torch.float32
    monkeypatch.setattr(loading, "ACCELERATORS", {"cpu"})
    assert as_target(model).dtype == ep.load(model).dtype == torch.bfloat16


def test_a_run_loads_what_was_planned(large, tmp_path, facts, monkeypatch):
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


#: TinyLlama 1.1B, and SmolLM2 135M, as their configurations say it
SIZES = {
    "float16": {
        "vocab_size": 32000, "hidden_size": 2048, "intermediate_size": 5632, "num_hidden_layers": 22,
        "num_attention_heads": 32, "num_key_value_heads": 4,
    },
    "float32": {
        "vocab_size": 49152, "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30,
        "num_attention_heads": 9, "num_key_value_heads": 3,
    },
}  # fmt: skip


@pytest.mark.parametrize("wanted", SIZES)
def test_only_large_language_models_are_loaded_in_half_precision(tmp_path, wanted):
    model = language_model(tmp_path / "model", dtype="float16", head_dim=64, **SIZES[wanted])
    assert find_model(model).precision(device="cuda") == wanted


def test_pocket_lm_is_stored_in_float16_and_trained_in_float32(facts, monkeypatch):
    forget, retain = facts
    assert json.loads((pocket_folder("pocket-lm") / "config.json").read_text())["dtype"] == "float16"
    assert ep.plan("pocket-lm", forget, "npo", keep=retain, device="cuda").request.dtype == "float32"
    monkeypatch.setattr(loading, "ACCELERATORS", {"cpu"})
    target = as_target("pocket-lm")
    assert {weight.dtype for weight in target.host.parameters()} == {torch.float32}
    assert Scale.of(target) is None, "no gradient has to be made larger"


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
