"""A small vision transformer that reads scikit-learn's digits, with its pictures beside it, for tests."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


def digits() -> dict[str, torch.Tensor]:
    """Bytes (n, 1, 8, 8) and classes of two fixed halves, 80 and 20 percent."""
    from sklearn.datasets import load_digits

    data = load_digits()
    order = np.random.default_rng(0).permutation(len(data.target))
    pictures = torch.from_numpy((data.images[order] * (255 / 16)).round().astype(np.uint8))[:, None]
    labels, cut = torch.from_numpy(data.target[order]), round(0.8 * len(order))
    return {
        "train.pictures": pictures[:cut].contiguous(), "train.labels": labels[:cut].contiguous(),
        "test.pictures": pictures[cut:].contiguous(), "test.labels": labels[cut:].contiguous(),
    }  # fmt: skip


def vit(names: tuple[str, ...] = NAMES, width: int = 64, layers: int = 4, seed: int = 0, channels: int = 1) -> Any:
    """An untrained vision transformer for pictures of 8 x 8."""
    from transformers import ViTConfig, ViTForImageClassification

    torch.manual_seed(seed)
    config = ViTConfig(
        image_size=8, patch_size=4, num_channels=channels, hidden_size=width, num_hidden_layers=layers,
        num_attention_heads=4, intermediate_size=2 * width, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
        id2label=dict(enumerate(names)), label2id={name: number for number, name in enumerate(names)},
    )  # fmt: skip
    return ViTForImageClassification(config).eval()


def save(model: Any, folder: Path, pictures: dict[str, torch.Tensor]) -> Path:
    """The folder of a model with its pictures."""
    model.save_pretrained(folder)
    shape = {"height": 8, "width": 8}
    facts = {"image_processor_type": "ViTImageProcessor", "size": shape, "image_mean": [0.5], "image_std": [0.5]}
    (folder / "preprocessor_config.json").write_text(json.dumps(facts))
    save_file(pictures, folder / "pictures.safetensors")
    return folder


def trained(folder: Path, epochs: int = 15) -> Path:
    """A folder with a classifier of digits, trained for some seconds."""
    pictures = digits()
    return save(_taught(vit(), pictures, epochs, 2e-3), folder, pictures)


def run_of(host: Any) -> Any:
    """Scores of a transformers classifier for a batch of pictures."""
    return lambda batch: host(pixel_values=batch).logits


def small(folder: Path, train: int = 400, test: int = 120) -> Path:
    """The same with one narrow block and few pictures, trained for about a second, once for all who ask for as many."""
    model, pictures = _small(train, test)
    return save(model, folder, pictures)


@cache
def _small(train: int, test: int) -> tuple[Any, dict[str, torch.Tensor]]:
    sizes = {"train": train, "test": test}
    pictures = {name: part[: sizes[name.partition(".")[0]]].contiguous() for name, part in digits().items()}
    return _taught(vit(width=16, layers=1), pictures, 12_000 // train, 1e-2), pictures


def loaded(folder: Path, seed: int) -> Any:
    """The model in a folder; with a seed another one of the same architecture, as the contract suite asks for it."""
    import erase_plugins as ep

    model = ep.load(str(folder))
    if seed:
        torch.manual_seed(seed)
        for part in model.parameters():
            part.data += 0.05 * torch.randn(part.shape)
    return model


def _taught(model: Any, pictures: dict[str, torch.Tensor], epochs: int, lr: float) -> Any:
    inputs, labels = pictures["train.pictures"].float() / 127.5 - 1, pictures["train.labels"]
    optimizer = torch.optim.AdamW(model.parameters(), lr)
    generator = torch.Generator().manual_seed(0)
    for _ in range(epochs):
        for rows in torch.randperm(len(labels), generator=generator).split(64):
            loss = torch.nn.functional.cross_entropy(model(inputs[rows]).logits, labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return model.eval()


def perceptron(seed: int = 0, epochs: int = 60) -> tuple[Any, tuple[torch.Tensor, ...]]:
    """A network 64-128-128-10 trained on digits, and pictures (n, 64) and classes to train on and held out."""
    found, pick = digits(), torch.Generator().manual_seed(seed)
    sets = []
    for part in ("train", "test"):
        sets += [found[f"{part}.pictures"].flatten(1).float() / 255, found[f"{part}.labels"]]
    torch.manual_seed(seed)
    net = torch.nn.Sequential(
        torch.nn.Linear(64, 128), torch.nn.ReLU(), torch.nn.Linear(128, 128), torch.nn.ReLU(), torch.nn.Linear(128, 10)
    )  # fmt: skip
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
    for _ in range(epochs):
        for rows in torch.randperm(len(sets[0]), generator=pick).split(64):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(net(sets[0][rows]), sets[1][rows]).backward()
            optimizer.step()
    return net, tuple(sets)
