"""Layers of text encoders get PyTorch's attention, and only while asked; the real ones are in test_parity.py."""

from __future__ import annotations

import sys
from types import ModuleType

import pytest
import torch
from torch import nn

from comfy_nodes.even import attention, first_rows, pytorch_attention


class Layer(nn.Module):
    """Called as ComfyUI calls its layers; tells which attention it got."""

    def forward(self, x, mask=None, optimized_attention=None):
        self.got = (mask, optimized_attention)
        return x


@pytest.fixture
def layer(monkeypatch):
    stand_in = ModuleType("comfy.clip_model")
    stand_in.CLIPLayer = stand_in.CLIPEncoder = Layer
    monkeypatch.setitem(sys.modules, "comfy.clip_model", stand_in)
    return Layer()


@pytest.mark.parametrize("by_name", [False, True])
def test_the_attention_is_replaced_only_inside(layer, by_name):
    encoders, rows = nn.Sequential(nn.Linear(2, 2), layer), torch.zeros(1, 2)

    def call():
        return layer(rows, "mask", optimized_attention="own") if by_name else layer(rows, "mask", "own")

    with pytorch_attention(encoders):
        call()
        assert layer.got == ("mask", attention)
    call()
    assert layer.got == ("mask", "own")


def test_the_layers_own_attention_comes_back_after_an_error(layer):
    with pytest.raises(ValueError, match="stop"), pytorch_attention(layer):
        raise ValueError("stop")
    layer(torch.zeros(1), None, "own")
    assert layer.got == (None, "own")


@pytest.mark.parametrize("mask", [torch.zeros(7, 7), torch.zeros(2, 1, 7, 7)])
def test_an_encoder_gets_the_first_rows_only_inside(layer, mask):
    rows = torch.arange(28.0).reshape(2, 7, 2)
    with first_rows(nn.Sequential(layer), 3):
        assert torch.equal(layer(rows, mask=mask), rows[:, :3])
        assert layer.got[0].shape[-2:] == (3, 3)
    assert torch.equal(layer(rows, mask=mask), rows)
    assert layer.got[0] is mask
