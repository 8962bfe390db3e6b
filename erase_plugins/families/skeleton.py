"""Modules of diffusers pipelines and their shapes, from configuration alone: the classes are built without weights."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cached_property, lru_cache
from typing import Any, overload

from erase_plugins.artifacts.names import canonical
from erase_plugins.errors import Unsupported
from erase_plugins.families.importing import without_collections
from erase_plugins.families.model import ModuleRef
from erase_plugins.families.naming import MOTION
from erase_plugins.families.notices import without_notices


class ModuleRefs(Sequence[ModuleRef]):
    """All linear, convolution and embedding modules of components, from their configuration.

    Listed when somebody looks: diffusers, whose classes are built for it, takes seconds to import, and what a model can
    do is mostly known without.

    Args:
        configs: component -> configuration.
        components: which of them.
    """

    def __init__(self, configs: Mapping[str, Mapping[str, Any]], components: tuple[str, ...]) -> None:
        self._configs = {name: json.dumps(configs[name], sort_keys=True) for name in components if name in configs}

    @cached_property
    def _refs(self) -> tuple[ModuleRef, ...]:
        return tuple(ref for name, config in self._configs.items() for ref in _refs_cached(name, config))

    @overload
    def __getitem__(self, place: int) -> ModuleRef: ...

    @overload
    def __getitem__(self, place: slice) -> tuple[ModuleRef, ...]: ...

    def __getitem__(self, place: int | slice) -> ModuleRef | tuple[ModuleRef, ...]:
        return self._refs[place]

    def __len__(self) -> int:
        return len(self._refs)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and self._refs == tuple(other)

    __hash__ = None  # type: ignore[assignment]


@lru_cache(maxsize=32)
@without_collections()
def _refs_cached(component: str, config: str) -> tuple[ModuleRef, ...]:
    import torch
    from torch import nn

    with without_notices(), torch.device("meta"):  # of quantizers, which diffusers imports with its first class
        module = skeleton(component, json.loads(config))
    kinds = {nn.Linear: "linear", nn.Conv2d: "conv", nn.Embedding: "embedding"}
    found = []
    for name, child in module.named_modules():
        kind = next((label for cls, label in kinds.items() if isinstance(child, cls)), None)
        if kind is not None:
            bias = getattr(child, "bias", None) is not None
            found.append(ModuleRef(component, canonical(component, name), kind, tuple(child.weight.shape), bias))
    return tuple(found)


def skeleton(component: str, config: Mapping[str, Any]) -> Any:
    """A part of a pipeline with the weights that its class draws; on the meta device it has none.

    Raises:
        Unsupported: this diffusers does not know the class.
    """
    if component == "unet":
        from diffusers import UNet2DConditionModel

        return UNet2DConditionModel.from_config(_plain_unet(dict(config)))
    if component == "transformer":
        import diffusers

        name = str(config.get("_class_name"))
        if getattr(diffusers, name, None) is None:
            raise Unsupported(f"this diffusers has no transformer '{name}'; update diffusers")
        return getattr(diffusers, name).from_config(
            {key: value for key, value in config.items() if key not in ("quantization_config", "_class_name")}
        )
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    wanted = (config.get("architectures") or ["CLIPTextModel"])[0]
    cls = CLIPTextModelWithProjection if wanted == "CLIPTextModelWithProjection" else CLIPTextModel
    return cls(CLIPTextConfig(**config))


def _plain_unet(config: dict[str, Any]) -> dict[str, Any]:
    """The UNet below what an IP-Adapter or AnimateDiff has put into its configuration."""
    plain = {name: value for name, value in config.items() if name not in ("quantization_config", "_class_name")}
    if plain.get("encoder_hid_dim_type") == "ip_image_proj":
        plain |= {"encoder_hid_dim_type": None, "encoder_hid_dim": None}
    if config.get("_class_name") == MOTION:
        plain.pop("num_attention_heads", None)
        for side in ("down_block_types", "up_block_types"):
            plain[side] = [name.replace("Motion", "2D") for name in plain[side]]
    return plain
