"""Editing with a stock pipeline (LEDITS++): inversion and edit both see the erasure, at strength 0 neither does."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from erase_plugins.testing.tiny import tiny_editing
from erase_plugins.workflow.applying import apply
from erase_plugins.workflow.models import target_of
from tests.layouts.making import artifact_of, bottleneck_edit, random_edit


@pytest.fixture(scope="module")
def pipe():
    return tiny_editing()


@pytest.fixture(scope="module")
def base(pipe):
    return edited(pipe)


def edited(pipe) -> np.ndarray:
    """A picture of noise, inverted and edited with a prompt that names something else."""
    noise = np.random.RandomState(0).randint(0, 255, (32, 32, 3), dtype=np.uint8)
    pipe.invert(image=Image.fromarray(noise), source_prompt="a dog", source_guidance_scale=1.5, num_inversion_steps=5,
                skip=0.1, generator=torch.Generator().manual_seed(0))  # fmt: skip
    found = pipe(editing_prompt=["a red hat"], edit_guidance_scale=10.0, edit_threshold=0.9, use_cross_attn_mask=True,
                 use_intersect_mask=True, output_type="np", generator=torch.Generator().manual_seed(1))  # fmt: skip
    return found.images[0]


def test_a_lora_file_acts_in_both_phases(pipe, base, tmp_path):
    target = target_of(pipe, "tiny")
    saved = artifact_of(target, random_edit(target, ("transformer",))).save(tmp_path / "out", ("diffusers",))
    file = saved.manifest.files[0].name
    pipe.load_lora_weights(str(tmp_path / "out"), weight_name=file, adapter_name="erase_test")
    try:
        assert float(np.abs(edited(pipe) - base).max()) > 1e-3
        pipe.set_adapters(["erase_test"], [0.0])
        assert np.array_equal(edited(pipe), base)
    finally:
        pipe.unload_lora_weights()
    assert np.array_equal(edited(pipe), base)


def test_added_modules_outlive_the_pipelines_own_attention_processors(pipe, base):
    target = target_of(pipe, "tiny")
    artifact = artifact_of(target, bottleneck_edit(target))
    with apply(pipe, artifact) as handle:
        assert float(np.abs(edited(pipe) - base).max()) > 1e-3
        handle.set_strength(0.0)
        assert np.array_equal(edited(pipe), base)
    assert np.array_equal(edited(pipe), base)
