"""Tiny encoders with random weights, which take the places of the real ones; nothing is fetched."""

from __future__ import annotations

import pytest
import torch


@pytest.fixture(scope="session")
def clip_folder(tmp_path_factory):
    """A tiny CLIP with the embedded model's tokenizer and an image processor."""
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPTokenizer

    from erase_plugins.pocket.world import FOLDER

    tokenizer = CLIPTokenizer.from_pretrained(FOLDER / "model" / "tokenizer")
    part = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = {**part, "vocab_size": len(tokenizer), "max_position_embeddings": 77, "eos_token_id": tokenizer.eos_token_id}
    torch.manual_seed(0)
    model = CLIPModel(
        CLIPConfig(text_config=text, vision_config={**part, "image_size": 32, "patch_size": 16}, projection_dim=8)
    )
    place = tmp_path_factory.mktemp("encoders") / "tiny-clip"
    model.save_pretrained(place)
    tokenizer.save_pretrained(place)
    CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}).save_pretrained(place)
    return place


@pytest.fixture(scope="session")
def network_home(tmp_path_factory):
    """A cache of PyTorch in which the smallest network of LPIPS lies, with random weights."""
    from torchvision.models import SqueezeNet1_1_Weights, squeezenet1_1

    torch.manual_seed(0)
    home = tmp_path_factory.mktemp("torch")
    place = home / "hub" / "checkpoints"
    place.mkdir(parents=True)
    torch.save(squeezenet1_1().state_dict(), place / SqueezeNet1_1_Weights.DEFAULT.url.rsplit("/", 1)[-1])
    return home


@pytest.fixture
def networks(network_home, monkeypatch):
    """What torchvision finds there; nothing else can be fetched."""
    monkeypatch.setenv("TORCH_HOME", str(network_home))
    return network_home


@pytest.fixture
def offline(tmp_path, monkeypatch):
    """An empty cache, and no network."""
    from urllib.error import URLError

    def refuse(*_, **__):
        raise URLError("no network")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "empty"))
    monkeypatch.setattr(torch.hub, "download_url_to_file", refuse)


def pictures(count, size=64, seed=0):
    """Random pictures in 0..1 that a byte holds exactly."""
    values = torch.randint(0, 256, (count, 3, size, size), generator=torch.Generator().manual_seed(seed))
    return values.float() / 255
