"""Device and dtype of a pipeline are those that diffusers tells, also where its hooks come later, and cost little."""

from __future__ import annotations

import pytest
import torch

from erase_plugins.workflow.models import target_of


def offloaded(unet):
    """As on a machine with an accelerator, here "meta": what is stored lies on the processor."""
    unet.enable_group_offload(torch.device("cpu"), torch.device("cpu"), offload_type="leaf_level")
    for item in unet.modules():
        if registry := getattr(item, "_diffusers_hook", None):
            registry.get_hook("group_offloading").config.onload_device = torch.device("meta")


def cast_by_layers(unet):
    unet.enable_layerwise_casting(torch.float8_e4m3fn, torch.bfloat16)


def with_normal_parts(unet):
    unet._keep_in_fp32_modules = ["conv_in"]
    unet.half()
    unet.conv_in.float()


@pytest.mark.parametrize(
    ("change", "device", "dtype"),
    [
        (lambda unet: None, "cpu", torch.float32),
        (lambda unet: unet.to(torch.float64), "cpu", torch.float64),
        (lambda unet: unet.to("meta"), "meta", torch.float32),
        (offloaded, "meta", torch.float32),
        (cast_by_layers, "cpu", torch.bfloat16),
        (with_normal_parts, "cpu", torch.float16),
    ],
    ids=["plain", "cast", "moved", "offloaded", "cast by layers", "parts kept"],
)
def test_they_are_those_of_diffusers_also_after_a_change(tiny_sd1, change, device, dtype):
    target = target_of(tiny_sd1(), "tiny")
    assert (target.device.type, target.dtype) == ("cpu", torch.float32)
    change(target.pipe.unet)
    assert (target.device.type, target.dtype) == (device, dtype)
    assert (target.pipe.unet.device.type, target.pipe.unet.dtype) == (device, dtype)


def test_another_denoiser_in_its_place_is_asked_itself(tiny_sd1):
    target = target_of(tiny_sd1(), "tiny")
    assert target.device.type == "cpu"
    target.pipe.unet = tiny_sd1().unet
    offloaded(target.pipe.unet)
    assert target.device.type == "meta"


def test_the_modules_are_looked_through_once(tiny_sd1, monkeypatch):
    target, walks = target_of(tiny_sd1(), "tiny"), []
    walk = torch.nn.Module.modules
    monkeypatch.setattr(torch.nn.Module, "modules", lambda self: walks.append(self) or walk(self))
    for _ in range(5):
        assert (target.device.type, target.dtype) == ("cpu", torch.float32)
    assert walks == [target.pipe.unet]
