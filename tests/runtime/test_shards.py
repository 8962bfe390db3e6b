"""Weight files in parts: nothing lost, readable by the libraries' own rules."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from erase_plugins.errors import RequestError
from erase_plugins.runtime.shards import shard


@pytest.fixture
def weights():
    return {f"block.{number}.weight": torch.randn(10, 25) for number in range(7)} | {"half": torch.ones(3).half()}


@pytest.mark.parametrize(
    ("name", "index"),
    [
        ("model.safetensors", "model.safetensors.index.json"),
        ("diffusion_pytorch_model.fp16.safetensors", "diffusion_pytorch_model.safetensors.index.fp16.json"),
    ],
)
def test_all_tensors_are_in_the_parts(weights, tmp_path, name, index):
    save_file(weights, tmp_path / name, {"format": "pt"})
    made = shard(tmp_path / name, 2500)
    stem = name.removesuffix(".safetensors")
    assert [item.name for item in made[:-1]] == [f"{stem}-{number:05}-of-00004.safetensors" for number in range(1, 5)]
    assert made[-1].name == index
    assert sorted(item.name for item in tmp_path.iterdir()) == sorted(item.name for item in made)
    table = json.loads(made[-1].read_text())
    assert table["metadata"]["total_size"] == 7 * 1000 + 6
    for key, value in weights.items():
        assert torch.equal(load_file(tmp_path / table["weight_map"][key])[key], value)
    assert sum(len(load_file(item)) for item in made[:-1]) == len(weights)


def test_small_files_and_single_tensors_stay(weights, tmp_path):
    save_file(weights, tmp_path / "model.safetensors")
    assert shard(tmp_path / "model.safetensors", 10_000) == [tmp_path / "model.safetensors"]
    save_file({"a": torch.ones(1000)}, tmp_path / "one.safetensors")
    assert shard(tmp_path / "one.safetensors", 10) == [tmp_path / "one.safetensors"]
    with pytest.raises(RequestError, match="positive"):
        shard(tmp_path / "one.safetensors", 0)
