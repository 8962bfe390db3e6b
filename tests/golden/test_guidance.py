"""Guidance that steers a picture against stored replays: SLD, negative prompt, attention that reads another picture.

Runs every case in --golden-dir whose JSON holds them; unseen cases follow the same format.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from diffusers.models.attention_processor import Attention
from safetensors.torch import load_file

from erase_plugins.evaluation.attacks.defended import defended_loss
from erase_plugins.evaluation.attacks.masactrl import reading_the_source
from erase_plugins.runtime.guardrails.steering import (
    NegativePrompt,
    SafeLatentDiffusion,
    SafetySettings,
    safety,
    weights,
)

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


def attacked(tensors, stage, guidance, x):
    """The loss through a defence whose text is "n" or "s"."""
    u, c = tensors["def.u"], tensors["def.c"]
    said = {"": u, "n": tensors["def.n"], "s": tensors["def.s"]}
    return defended_loss([stage], said.__getitem__, x, c, guidance, torch.zeros(len(u), *[1] * (u.ndim - 1)))


def test_a_token_is_learned_against_a_negative_prompt_by_the_stored_loss(case):
    data, tensors = case
    stored, stage, c = data["inference_time_defences"]["np"], NegativePrompt("n", 1.0), tensors["def.c"]
    found = attacked(tensors, stage, stored["g"], tensors["def.x"])
    assert float(found) == pytest.approx(stored["loss"], rel=RELATIVE)
    # what it is 0 at: the defended picture is led where the name would lead it
    best = c + (1 - 1 / stored["g"]) * (tensors["def.n"] - tensors["def.u"])
    assert float(attacked(tensors, stage, stored["g"], best)) < 1e-28
    assert float(attacked(tensors, stage, 1.0, c)) == stored["g1_x_equals_c"] == 0.0


def test_a_token_is_learned_against_sld_by_the_stored_losses(case):
    data, tensors = case
    stored, x = data["inference_time_defences"]["sld"], tensors["def.x"]
    found = {}
    for name, preset in stored["presets"].items():
        stage = SafeLatentDiffusion(
            "s", SafetySettings(0, preset["s_S"], preset["lambda"], 0.5, 0.7), None, torch.nn.Identity(), 1.0
        )
        # stored in units of the guided prediction, ours in those of the token's own
        found[name] = float(attacked(tensors, stage, stored["g"], x)) * stored["g"] ** 2
        assert found[name] == pytest.approx(preset["loss"], rel=RELATIVE), name
    assert found["off"] == pytest.approx(stored["off_equals_plain_cfg_matching"], rel=RELATIVE)


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
