"""bfloat16 is computed in where a device has instructions for it; what imitates it keeps the model's own type."""

from __future__ import annotations

import pytest
import torch

import erase_plugins as ep
from erase_plugins.engine.precision import autocast, computes_half, settled
from erase_plugins.evaluation.draw import draw


@pytest.fixture(autouse=True)
def _asked_anew():
    computes_half.cache_clear()
    yield
    computes_half.cache_clear()


@pytest.fixture
def processor(monkeypatch):
    def told(**facts):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: facts, raising=False)

    return told


@pytest.mark.parametrize(
    ("facts", "half"),
    [
        ({"architecture": "x86_64", "avx512_f": True, "avx512_bf16": False, "amx_bf16": False}, False),  # Ice Lake
        ({"architecture": "x86_64", "avx2": True}, False),  # Zen 2
        ({"architecture": "x86_64", "avx512_bf16": True}, True),  # Zen 4
        ({"architecture": "x86_64", "avx512_bf16": False, "amx_bf16": True}, True),
        ({"architecture": "aarch64"}, True),  # nobody can tell
        ({}, True),
    ],
)
def test_processors(facts, half, processor) -> None:
    processor(**facts)
    assert computes_half("cpu") is half
    assert settled("auto", "cpu") == ("bfloat16" if half else "float32")
    with autocast("cpu"):
        made = torch.ones(2, 2) @ torch.ones(2, 2)
    assert made.dtype == (torch.bfloat16 if half else torch.float32)


@pytest.mark.parametrize(("capability", "half"), [((7, 5), False), ((8, 0), True), ((9, 0), True)])
def test_accelerators(capability, half, monkeypatch) -> None:
    monkeypatch.setattr(torch.version, "hip", None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert computes_half("cuda:1") is half  # a T4 imitates it


def test_what_is_asked_for_is_done(processor) -> None:
    processor(architecture="x86_64")
    assert settled("bfloat16", "cpu") == "bfloat16"
    with autocast("cpu", "bfloat16"):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.bfloat16


@pytest.mark.parametrize("half", [True, False])
def test_a_plan_says_which_it_is(half, processor, tiny_sd1) -> None:
    processor(architecture="x86_64", avx512_bf16=half)
    options = {"iterations": 2, "trajectories": 2, "harvest": 2, "steps": 3, "keep_words": 0}
    assert ep.plan(tiny_sd1(), "pizza", "esd", options=options).options["precision"] == (
        "bfloat16" if half else "float32"
    )
    asked = ep.plan(tiny_sd1(), "pizza", "esd", options={**options, "precision": "bfloat16"})
    assert asked.options["precision"] == "bfloat16"


def test_pictures_are_drawn_in_the_models_own_type_where_nothing_else_is_faster(tiny_sd1, processor) -> None:
    pipe, kinds = tiny_sd1(), []
    hook = pipe.unet.conv_in.register_forward_hook(lambda *parts: kinds.append(parts[-1].dtype))
    try:
        for half in (False, True):
            computes_half.cache_clear()
            processor(architecture="x86_64", avx512_bf16=half)
            draw(pipe, ["a cat"], [1], steps=1)
    finally:
        hook.remove()
    assert kinds == [torch.float32, torch.bfloat16]
