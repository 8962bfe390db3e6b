"""Closed-form edits of language models against the official code, and against solves of the size of the layer."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from erase_plugins.engine import key_edits


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "case" in metafunc.fixturenames:
        folder = Path(metafunc.config.getoption("--golden-dir"))
        files = sorted(folder.glob("lm_edit*.json"))
        metafunc.parametrize("case", files, ids=[path.stem for path in files], indirect=True, scope="module")


@pytest.fixture(scope="module")
def case(request):
    """(JSON, tensors in float64)."""
    tensors = load_file(request.param.with_suffix(".safetensors"))
    return json.loads(request.param.read_text()), {
        name: part.double() if part.is_floating_point() else part for name, part in tensors.items()
    }


def close(found, wanted, rel):
    return float((found - wanted).norm() / wanted.norm()) <= rel


def residual(tensors, batch, layer, layers):
    return (tensors[f"{batch}.z"] - tensors[f"{batch}.h.{layer}"]) / len(layers[layers.index(layer) :])


def test_memit(case):
    data, tensors = case
    layers, lam = data["settings"]["layers"], data["settings"]["lam"]
    for layer in layers:
        K, C = tensors[f"b0.K.{layer}"], tensors[f"C.{layer}"]
        A, R = key_edits.memit(C, K, lam), residual(tensors, "b0", layer, layers)
        assert close(A.T, tensors[f"memit.adj_k.{layer}"], 1e-6)
        assert close(R, tensors[f"memit.resid.{layer}"], 1e-6)
        assert close(R @ A, tensors[f"memit.dW.{layer}"], 1e-6)


def test_alphaedit_one_batch_after_the_other(case):
    data, tensors = case
    layers = data["settings"]["layers"]
    for layer in layers:
        N, kept = tensors[f"alphaedit.P.{layer}"], None
        for batch in ("b0", "b1"):
            K = tensors[f"{batch}.K.{layer}"]
            A = key_edits.alphaedit(N, K, data["settings"]["L2"], kept)
            found = residual(tensors, batch, layer, layers) @ A
            assert close(found, tensors[f"alphaedit.dW.{batch}.{layer}"], 1e-6), (batch, layer)
            kept = K
        assert close(key_edits.null_space(tensors[f"C.{layer}"], threshold=data["settings"]["thr"]), N, 1e-5)
