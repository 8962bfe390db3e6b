"""Artifacts that earlier versions wrote are read, applied and taken apart for good.

They were made once on `frozen_pipe`, with the numbers that the model gave with them; neither is ever made again:
closed-form and low-rank by the first commit that wrote format 1 with them, gated and closed-form-now by release 0.1,
bias by the last commit that had a kind of change of its own for biases.
"""

from __future__ import annotations

import json
import math
import zlib
from pathlib import Path

import pytest
import torch

import erase_plugins as ep
from erase_plugins.artifacts.manifest import Manifest
from erase_plugins.testing.tiny import tiny_sd1
from erase_plugins.workflow.models import as_target

FROZEN = Path(__file__).parent / "frozen"
NAMES = sorted(path.name for path in FROZEN.iterdir() if path.is_dir())
KINDS = {
    "closed-form": {"contextmap"},
    "closed-form-now": {"contextmap"},
    "low-rank": {"lowrank"},
    "gated": {"addon"},
    "bias": {"dense"},
}


@pytest.fixture(scope="module")
def frozen_pipe():
    """A tiny model whose weights follow from their names, whatever library built it."""
    pipe = tiny_sd1()
    for component in ("unet", "text_encoder", "vae"):
        for key, tensor in getattr(pipe, component).named_parameters():
            n = torch.arange(tensor.numel(), dtype=torch.float64)
            values = torch.sin(n * 0.7 + n * n * 1e-3 + zlib.crc32(f"{component}.{key}".encode()) % 1000)
            flat, gain = tensor.dim() == 1, tensor.dim() == 1 and "norm" in key and key.endswith("weight")
            scale = 0.5 if gain else 0.05 if flat else 1.5 / math.sqrt(tensor[0].numel())
            tensor.data.copy_((values * scale + gain).reshape(tensor.shape))
    return pipe


def numbers(pipe) -> list[float]:
    """Some values that the denoiser predicts for two prompts."""
    ids = pipe.tokenizer(["a pizza", "a dog"], padding="max_length", max_length=32, return_tensors="pt").input_ids
    latents = torch.sin(torch.arange(512, dtype=torch.float64) * 0.37).reshape(2, 4, 8, 8).float()
    with torch.no_grad():
        states = pipe.text_encoder(ids)[0]
        found = pipe.unet(latents, torch.tensor([400, 400]), encoder_hidden_states=states).sample
    return found.flatten()[::43].tolist()


@pytest.mark.parametrize("name", NAMES)
def test_it_does_what_it_did(name, frozen_pipe):
    expected = json.loads((FROZEN / f"{name}.numbers.json").read_text())
    artifact = ep.load_artifact(FROZEN / name)
    assert artifact.edit.kinds == KINDS[name]
    assert artifact.manifest.erased == ("pizza",)
    assert artifact.manifest.preserve == ("dog",)
    for key, strength in (("edited", 1.0), ("half", 0.5)):
        handle = ep.apply(frozen_pipe, artifact, strength=strength)
        assert not handle.warnings
        assert numbers(frozen_pipe) == pytest.approx(expected[key], abs=2e-5)
        handle.remove()
    assert numbers(frozen_pipe) == pytest.approx(expected["base"], abs=2e-5)
    moved = max(abs(new - old) for new, old in zip(expected["edited"], expected["base"], strict=True))
    assert moved > 0.1, "the numbers could not tell"


@pytest.mark.parametrize("name", [name for name in NAMES if name.startswith("closed-form")])
def test_its_statistics_can_be_added_to_and_taken_apart(name, frozen_pipe):
    before = ep.load_artifact(FROZEN / name)
    more = ep.add(before, "cat", as_target(frozen_pipe))
    again = ep.revoke(more, ["cat"], forget=True)
    for component, key, delta in before.edit.items():
        for part, tensor in delta.tensors().items():
            found = again.edit.deltas[component][key].tensors()[part]
            # float32 factors of a solution that another processor had: a few units in the last place
            assert (found - tensor).abs().max() < 2**-19 * max(1.0, float(tensor.abs().max()))


@pytest.mark.parametrize("name", NAMES)
def test_its_manifest_is_written_back_as_it_was(name):
    text = (FROZEN / name / "erase.json").read_text(encoding="utf-8")
    assert Manifest.from_json(text).to_json() == text
