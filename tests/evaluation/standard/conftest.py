"""The network of LPIPS with random weights, which takes the place of the real one; nothing is fetched."""

from __future__ import annotations

import pytest
import torch


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
