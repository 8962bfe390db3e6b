"""The portable context map."""

from __future__ import annotations

import pytest
import torch

import erase_plugins as ep
from erase_plugins.artifacts.edit import Edit, LowRank
from erase_plugins.artifacts.layouts.context import ContextLayout
from erase_plugins.artifacts.tensors import write_tensors
from erase_plugins.errors import CorruptArtifact
from erase_plugins.manager import get_manager


@pytest.fixture(scope="module")
def saved(pocket_target, tmp_path_factory):
    options = {"vocabulary": 40, "rank": 4}
    return ep.erase(pocket_target, "pizza", options=options, out=tmp_path_factory.mktemp("context") / "a")


def test_the_file_is_small_and_is_the_same_map(saved) -> None:
    path = saved.path / "context_map.safetensors"
    (size,) = [item.bytes for item in saved.manifest.files if item.layout == "context"]
    assert size < 16_000
    alone = ep.load_artifact(path)
    assert alone.manifest.erased == ("pizza",)
    for name, tensor in saved.edit.deltas["unet"]["context"].tensors().items():
        assert torch.equal(tensor, alone.edit.deltas["unet"]["context"].tensors()[name])


def test_applied_alone_it_changes_the_same_weights(saved, pocket_pipe) -> None:
    def weights() -> list[torch.Tensor]:
        return [value.clone() for name, value in pocket_pipe.unet.state_dict().items() if "attn2.to_v" in name]

    with saved.apply(pocket_pipe):
        expected = weights()
    with ep.load_artifact(saved.path / "context_map.safetensors").apply(pocket_pipe) as applied:
        assert "14 of 14" in applied.report()
        assert all(a.equal(b) for a, b in zip(weights(), expected, strict=True))


def test_other_changes_are_refused_and_damage_is_seen(tmp_path) -> None:
    family = get_manager().family("sd1")
    layout = ContextLayout()
    lora = Edit("sd1", {"unet": {"x.weight": LowRank(torch.zeros(1, 4), torch.zeros(4, 1))}})
    assert not layout.accepts(lora, family)
    good = {"context_map.unet.A": torch.zeros(1, 4), "context_map.unet.B": torch.zeros(4, 1)}
    for name, change in {
        "half": {"context_map.unet.B": None},
        "shape": {"context_map.unet.B": torch.zeros(3, 1)},
        "extra": {"context_map.unet.C": torch.zeros(1)},
    }.items():
        tensors = {key: value for key, value in {**good, **change}.items() if value is not None}
        write_tensors(tmp_path / name, tensors, {"format": "pt"})
        with pytest.raises(CorruptArtifact):
            layout.read(tmp_path / name, family)
