"""A loaded image classifier of timm behind the capability ``classifier``."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from erase_plugins.artifacts.names import canonical
from erase_plugins.errors import Unsupported
from erase_plugins.families import timm_model
from erase_plugins.families.capabilities import CLASSIFIER
from erase_plugins.families.model import ModelSpec
from erase_plugins.families.source import MODEL
from erase_plugins.families.transformers_family import refs_of
from erase_plugins.families.transformers_model import HostedClassifier

#: of timm's models that say nothing about it
_PICTURES: Mapping[str, Any] = {
    "input_size": (3, 224, 224), "interpolation": "bicubic", "crop_pct": 0.875, "mean": (0.485, 0.456, 0.406),
    "std": (0.229, 0.224, 0.225),
}  # fmt: skip


class TimmClassifier(HostedClassifier):
    """An image classifier of timm: takes pictures, gives scores."""

    def _spec(self, family: Any, name: str, configs: Mapping[str, Mapping[str, Any]]) -> ModelSpec:
        config = timm_model.labelled(configs[MODEL])
        return ModelSpec(family, name, {MODEL: config}, refs_of(self.host), (family.id,))

    @property
    def input_shape(self) -> tuple[int, ...]:
        first = next(module for module in self.host.modules() if isinstance(module, nn.Conv2d))
        sizes = (getattr(module, "img_size", None) for module in self.host.modules())  # of what cuts into patches
        size = next((found for found in sizes if found), self._told["input_size"][1:])
        size = (size, size) if isinstance(size, int) else size
        return int(first.in_channels), int(size[0]), int(size[1])

    @property
    def _told(self) -> Mapping[str, Any]:
        return {**_PICTURES, **self.host.pretrained_cfg}

    def logits(self, batch: Tensor) -> Tensor:
        found = self.network(CLASSIFIER)(batch.to(self.device, self.dtype))
        return found if isinstance(found, Tensor) else torch.stack(list(found)).mean(0)  # distilled, in training

    def prepare(self, images: Sequence[Any]) -> Tensor:
        """Resized, cut to the middle and normalised as timm evaluates; those of the network's size are not resized."""
        from PIL import Image

        channels, *size = self.input_shape
        way = getattr(Image.Resampling, str(self._told["interpolation"]).upper(), Image.Resampling.BICUBIC)
        shown = [torch.from_numpy(fitted(item, size, float(self._told["crop_pct"] or 1.0), way)) for item in images]
        mean, spread = (torch.tensor(self._told[name][:channels])[:, None, None] for name in ("mean", "std"))
        return (torch.stack(shown).permute(0, 3, 1, 2).float() / 255 - mean) / spread

    def fresh(self, seed: int) -> Mapping[str, Tensor]:
        config, own = self.info.configs[MODEL], {name: part.shape for name, part in self.host.named_parameters()}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            made = timm_model.build({**config, "model_args": timm_model.arguments(self.host)})
        if {name: part.shape for name, part in made.named_parameters()} != own:
            raise Unsupported(
                f"{config['architecture']} was made with arguments that this timm does not keep, so it cannot be made "
                "anew; save it with timm.models.save_for_hf(model, folder, model_args=...) and give the folder"
            )
        return {canonical(MODEL, name): part.detach() for name, part in made.named_parameters()}


def fitted(picture: Any, size: Sequence[int], share: float, way: Any) -> Any:
    """Bytes (height, width, channels): the shorter side resized to size / share, then the middle."""
    import numpy as np
    from PIL import Image

    height, width = size
    if picture.shape[:2] == (height, width):
        return np.ascontiguousarray(picture)
    image = Image.fromarray(picture.squeeze())
    tall, wide = math.floor(height / share), math.floor(width / share)
    if tall * image.width < wide * image.height:  # the width decides
        sized = wide, int(wide * image.height / image.width)
    else:
        sized = int(tall * image.width / image.height), tall
    image = image.resize((max(width, sized[0]), max(height, sized[1])), way)
    left, top = round((image.width - width) / 2), round((image.height - height) / 2)
    found = np.asarray(image.crop((left, top, left + width, top + height)))
    return found.reshape(height, width, -1).copy()
