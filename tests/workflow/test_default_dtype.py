"""Which precision weights are loaded in where nobody says so."""

from __future__ import annotations

import pytest

import erase_plugins as ep
from erase_plugins.api import build_request


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
        ("npo", "cuda", {}, "float32"),
    ],
)
def test_loras_are_trained_on_half_weights_on_accelerators(method, device, options, wanted):
    assert build_request("pocket", method, "pizza", device=device, options=options).dtype == wanted


def test_what_is_said_counts():
    assert build_request("pocket", "esd", "pizza", device="cuda", dtype="float32").dtype == "float32"
    assert build_request("pocket", "uce", "pizza", device="cpu", dtype="bfloat16").dtype == "bfloat16"


def test_a_plan_on_an_accelerator_needs_less():
    here, there = (ep.plan("pocket", "pizza", "esd", device=device).memory_bytes for device in ("cpu", "cuda"))
    assert there < here
