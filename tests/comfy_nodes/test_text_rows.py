"""Rows are shared by targets of the same CLIP in the same state, and forgotten otherwise."""

from __future__ import annotations

import gc
import weakref
from types import SimpleNamespace

import torch

from comfy_nodes import text_rows
from comfy_nodes.target import ComfyTarget
from tests.comfy_nodes.test_target import FakeClip


def test_a_second_target_encodes_only_what_is_new(fake_model):
    model, _ = fake_model
    clip = FakeClip(int(model.model.model_config.unet_config["context_dim"]))
    ComfyTarget(model, clip).encode(["cat"])
    clip.calls.clear()
    ComfyTarget(model, clip).encode(["cat", "a pizza"])
    assert clip.calls == [1]
    clip.patcher.patches_uuid = "another LoRA"
    ComfyTarget(model, clip).encode(["cat", "a pizza"])
    assert clip.calls == [1, 1, 2]  # the width check, and both


def test_rows_go_with_their_encoder_and_do_not_pile_up(monkeypatch):
    clip = SimpleNamespace(
        cond_stage_model=torch.nn.Identity(), layer_idx=None, patcher=SimpleNamespace(patches_uuid="first")
    )
    kept = text_rows.rows_of(clip)
    kept["cat"] = (torch.zeros(10), 1)
    assert text_rows.rows_of(clip) is kept
    monkeypatch.setattr(text_rows, "MOST_BYTES", 39)
    assert text_rows.rows_of(clip) == {}
    assert clip.cond_stage_model in text_rows._KEPT
    encoder = weakref.ref(clip.cond_stage_model)
    del clip
    gc.collect()
    assert encoder() is None  # nothing here holds it, and the weak table forgets with it


def test_a_stop_is_heard_between_chunks(fake_model, monkeypatch):
    import sys

    import pytest

    model, _ = fake_model
    clip = FakeClip(int(model.model.model_config.unet_config["context_dim"]))
    target = ComfyTarget(model, clip)

    class Stop(Exception):
        pass

    def stop():
        if len(clip.calls) > 2:
            raise Stop

    monkeypatch.setitem(
        sys.modules, "comfy.model_management", SimpleNamespace(throw_exception_if_processing_interrupted=stop)
    )
    with pytest.raises(Stop):
        target.encode([f"a{'x' * number}" for number in range(200)])
    assert len(clip.calls) == 3
