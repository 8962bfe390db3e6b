"""Single-file checkpoints: what a file lacks is told, as diffusers itself loads it without a word."""

from __future__ import annotations

import pytest
import torch

from erase_plugins.errors import Unsupported
from erase_plugins.families.loading import open_diffusers
from erase_plugins.families.source import Source


class Pipe:
    """A pipeline of one full part, one with a gap, and one without weights."""

    def __init__(self, gaps: int) -> None:
        self.components = {"unet": torch.nn.Linear(2, 2), "text_encoder": torch.nn.Linear(2, 2), "tokenizer": object()}
        if gaps:
            self.components["text_encoder"] = torch.nn.Linear(2, 2, device="meta")
        self.device = ""

    def set_progress_bar_config(self, **_options: object) -> None:
        pass

    def to(self, device: str) -> Pipe:
        self.device = device
        return self


@pytest.fixture
def opened(monkeypatch, tmp_path):
    """Opens a file for which diffusers' loader does what is given."""
    import diffusers

    def open_it(load):
        kind = type("HousePipeline", (), {"from_single_file": staticmethod(load)})
        monkeypatch.setattr(diffusers, "HousePipeline", kind, raising=False)
        return open_diffusers(
            "HousePipeline", Source("house", None, tmp_path / "house.safetensors", {}), "float32", "cpu"
        )

    return open_it


def test_a_file_with_gaps_names_the_parts(opened):
    with pytest.raises(
        Unsupported, match=r"^checkpoint 'house' .*missing: text_encoder \(2 of 2 weights\)\. Give a file"
    ):
        opened(lambda _file, **_options: Pipe(gaps=1))
    assert opened(lambda _file, **_options: Pipe(gaps=0)).device == "cpu"


def test_without_the_hub_it_is_said_what_else_there_is(opened):
    def load(_file, **_options):
        raise OSError("no snapshot.\nmore")

    with pytest.raises(
        Unsupported, match=r"from the Hub cache: no snapshot\. Load it once .*or give a diffusers folder"
    ):
        opened(load)
