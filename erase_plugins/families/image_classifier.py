"""Image classifiers of transformers: ViT, DeiT, BEiT, DINOv2, Swin, ConvNeXt, ResNet."""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from erase_plugins.families.model import ModuleRef
from erase_plugins.families.source import MODEL
from erase_plugins.families.transformers_family import TransformersFamily
from erase_plugins.hookspecs import hookimpl

#: the two linears behind the attention of a block, as transformers names them today and named them before
_FFN = re.compile(r"(.+\.\d+)\.(mlp\.fc[12]|mlp\.weights_(in|out)|(intermediate|output)\.dense|pwconv[12])")


def _linear(ref: ModuleRef) -> bool:
    return ref.kind == "linear"


class ImageClassifiers(TransformersFamily):
    """Models with a head of one score per label; LoRA where they have linear layers."""

    id = "image-classifier"
    title = "Image classifiers of transformers"
    architectures = (
        "ViTForImageClassification", "DeiTForImageClassification", "DeiTForImageClassificationWithTeacher",
        "BeitForImageClassification", "Dinov2ForImageClassification", "SwinForImageClassification",
        "Swinv2ForImageClassification", "ConvNextForImageClassification", "ConvNextV2ForImageClassification",
        "ResNetForImageClassification",
    )  # fmt: skip
    roles: Mapping[str, Any] = MappingProxyType({"classifier": MODEL})
    presets = ("pocket-classifier",)
    groups: Mapping[str, Any] = MappingProxyType({
        "ffn": lambda ref: _linear(ref) and _FFN.fullmatch(ref.path) is not None,
        "attention": lambda ref: _linear(ref) and ".attention." in ref.path,
        "head": lambda ref: _linear(ref) and "classifier" in ref.path.split(".", 1)[0],
        "linear": _linear,
    })  # fmt: skip

    def profiles(self, configs: Mapping[str, Mapping[str, Any]]) -> tuple[str, ...]:
        config = configs[MODEL]
        small = config.get("image_size", 224) == 32 and len(config.get("id2label") or ()) == 156
        return ("pocket-classifier",) if small else ()


@hookimpl
def erase_families() -> list[ImageClassifiers]:
    return [ImageClassifiers()]
