"""Guidance that steers a picture against stored replays: the safety term of SLD, attention that reads another picture.

Runs every case in --golden-dir whose JSON holds them; unseen cases follow the same format.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from diffusers.models.attention_processor import Attention
from safetensors.torch import load_file

from erase_plugins.evaluation.attacks.masactrl import reading_the_source
from erase_plugins.runtime.guardrails.steering import SafetySettings, safety, weights

RELATIVE = 1e-6  # as the case files state


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "case" in metafunc.fixturenames:
        files = [path for path in sorted(Path(metafunc.config.getoption("--golden-dir")).glob("*.json"))
                 if {"inference_time_defences", "masactrl"} <= json.loads(path.read_text()).keys()]  # fmt: skip
        metafunc.parametrize("case", files, ids=[path.stem for path in files], indirect=True, scope="module")


@pytest.fixture(scope="module")
def case(request):
    """(JSON, tensors in float64)."""
    tensors = load_file(request.param.with_suffix(".safetensors"))
    return json.loads(request.param.read_text()), {name: part.double() for name, part in tensors.items()}


def test_safety_terms_and_what_guidance_makes_of_them(case):
    data, tensors = case
    u, c, s, x = (tensors[f"def.{name}"] for name in "ucsx")
    stored, nothing = data["inference_time_defences"]["sld"], torch.zeros_like(u)
    for name, preset in stored["presets"].items():
        settings = SafetySettings(0, preset["s_S"], preset["lambda"], 0.0, 0.0)
        assert float(weights(x, s, settings).sum()) == pytest.approx(preset["mu_sum"], rel=RELATIVE, abs=1e-12), name
        gamma, _ = safety(u, x, s, nothing, settings)
        assert float(gamma.norm()) == pytest.approx(preset["gamma_norm"], rel=RELATIVE, abs=1e-12), name
        # the guard gives the pipeline x - gamma in the place of x
        steered, wanted = (u + stored["g"] * (part - u) for part in (x - gamma, c))
        assert float((steered - wanted).square().mean()) == pytest.approx(preset["loss"], rel=RELATIVE), name


def test_attention_reads_keys_and_values_of_the_source(case):
    """Queries, keys and values stand side by side in the rows, and the layer's maps take each its own."""
    data, tensors = case
    part = {name.removeprefix("masactrl."): rows for name, rows in tensors.items() if name.startswith("masactrl.")}
    width, heads = part["q_edit"].shape[-1], data["masactrl"]["heads"]
    layer = Attention(3 * width, heads=heads, dim_head=width // heads, out_dim=width).double()
    eye = torch.eye(3 * width, dtype=torch.float64)
    for number, name in enumerate(("to_q", "to_k", "to_v")):
        getattr(layer, name).weight.data = eye[number * width : (number + 1) * width].clone()
    layer.to_out[0].weight.data, layer.to_out[0].bias.data = eye[:width, :width].clone(), torch.zeros(width).double()
    source = torch.cat([torch.zeros_like(part["q_edit"]), part["k_source"], part["v_source"]], -1)
    edit = torch.cat([part["q_edit"], part["k_edit"], part["v_edit"]], -1)
    with torch.no_grad():
        plain = layer(torch.cat([source, edit]))[len(source) :]
        with reading_the_source([layer]):
            mutual = layer(torch.cat([source, edit]))[len(source) :]
    torch.testing.assert_close(plain, part["out_plain"], rtol=RELATIVE, atol=1e-9)
    torch.testing.assert_close(mutual, part["out_mutual"], rtol=RELATIVE, atol=1e-9)
