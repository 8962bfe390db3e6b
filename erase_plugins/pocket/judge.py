"""The pocket judge: a small classifier that names concept, style and background of a picture."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

from erase_plugins.hookspecs import hookimpl
from erase_plugins.pocket.world import FOLDER, World, pocket_world

if TYPE_CHECKING:
    from torch import Tensor, nn

    from erase_plugins.families.base import TargetInfo

NOTHING = "nothing"
#: channels and strides of the convolutions
LAYERS = ((32, 2), (64, 2), (64, 1), (128, 2), (128, 1), (256, 2), (256, 1))


def build_network(concepts: int, styles: int, backgrounds: int) -> nn.Module:
    """The classifier, untrained: pictures (n, 3, 64, 64) in -1..1 to logits (c, s, k)."""
    import torch
    from torch import nn

    class Judge(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            blocks, width = [], 3
            for channels, stride in LAYERS:
                conv = nn.Conv2d(width, channels, 3, stride=stride, padding=1, bias=False)
                blocks.append(nn.Sequential(conv, nn.BatchNorm2d(channels), nn.ReLU(inplace=True)))
                width = channels
            self.f = nn.Sequential(*blocks)
            self.c = nn.Linear(width, concepts + 1)
            self.s = nn.Linear(width, styles)
            self.k = nn.Linear(width, backgrounds)

        def features(self, x: torch.Tensor) -> torch.Tensor:
            return self.f(x).mean((2, 3))

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
            features = self.features(x)
            return self.c(features), self.s(features), self.k(features)

    return Judge()


class PocketJudge:
    """Judge plugin for models that draw the pocket world."""

    id = "pocket"
    title = "Pocket classifier (concept, style, background)"
    needs: frozenset[str] = frozenset()
    #: its world is all that the model draws
    complete = True
    #: height and width of the pictures it was trained on
    size = (64, 64)

    @property
    def axes(self) -> Mapping[str, tuple[str, ...]]:
        world = pocket_world()
        names = (*(item.name for item in world.concepts), NOTHING)
        return {"concept": names, "style": world.styles, "background": world.backgrounds}

    @property
    def fingerprint(self) -> str:
        return hashlib.sha256((FOLDER / "judge.safetensors").read_bytes()).hexdigest()[:16]

    def accepts(self, info: TargetInfo) -> bool:
        return "pocket" in info.profiles and info.latent_shape == (4, 16, 16)

    def world(self) -> World:
        return pocket_world()

    @cached_property
    def _network(self) -> Any:
        from safetensors.torch import load_file

        axes = self.axes
        network = build_network(len(axes["concept"]) - 1, len(axes["style"]), len(axes["background"]))
        state = load_file(FOLDER / "judge.safetensors")
        missing = network.load_state_dict({name: value.float() for name, value in state.items()}, strict=False)
        assert all(name.endswith("num_batches_tracked") for name in missing.missing_keys)
        return network.train(False)

    def score(self, images: Tensor) -> Mapping[str, Tensor]:
        import torch

        with torch.no_grad():
            logits = self._network(images.float().cpu() * 2 - 1)
        return {axis: part.softmax(-1) for axis, part in zip(("concept", "style", "background"), logits, strict=True)}

    def features(self, images: Tensor) -> Tensor:
        """What its last layers look at: (n, 256)."""
        import torch

        with torch.no_grad():
            return self._network.features(images.float().cpu() * 2 - 1)


@hookimpl
def erase_judges() -> list[PocketJudge]:
    return [PocketJudge()]
