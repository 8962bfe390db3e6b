"""A text-to-image model: text encoders, a denoiser and, where the host has one, a codec for pictures.

`TargetInfo` and `Target` are what methods for such models are given. A diffusers pipeline is one host
(`families.diffusers_target`), a model loaded in ComfyUI another.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from erase_plugins.families.capabilities import Denoiser, ImageCodec, TextEncoder
from erase_plugins.families.conditioning import Conditioning, Tokens
from erase_plugins.families.model import FamilyTraits, Model, ModelSpec, ModuleRef, Picker

__all__ = [
    "Conditioning",
    "FamilyTraits",
    "Model",
    "ModelSpec",
    "ModuleRef",
    "Picker",
    "Target",
    "TargetInfo",
    "Tokens",
]


@dataclass(frozen=True)
class TargetInfo(ModelSpec):
    """A text-to-image model known by its configuration only.

    ``width`` is the size of one text embedding row, ``tokens`` the padded prompt length, ``latent_shape`` is
    (channels, height, width) of one picture, ``prediction`` is epsilon, v_prediction or flow.
    """

    width: int
    tokens: int
    latent_shape: tuple[int, int, int]
    prediction: str = "epsilon"

    def facts(self) -> dict[str, Any]:
        """Type of the predictions, width of a text row, length of a prompt."""
        return {"prediction": self.prediction, "width": self.width, "tokens": self.tokens}


class Target(Model, TextEncoder, Denoiser, ImageCodec):
    """A loaded text-to-image model; it is its own text encoder, denoiser and codec."""

    info: TargetInfo
