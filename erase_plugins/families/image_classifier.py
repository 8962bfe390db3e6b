"""Image classifiers of transformers (ViT, DeiT, BEiT, DINOv2, Swin, ConvNeXt, ResNet), and all of timm."""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from erase_plugins.families import timm_model
from erase_plugins.families.model import ModelSpec, ModuleRef
from erase_plugins.families.source import MODEL, Source
from erase_plugins.families.transformers_family import TransformersFamily
from erase_plugins.hookspecs import hookimpl

if TYPE_CHECKING:
    from erase_plugins.families.model import Model

#: the linears behind the attention of a block, as transformers names them today and named them before, and as timm does
_FFN = re.compile(
    r".+\.\d+\.(mlp\.fc[12]|mlp\.weights_(in|out)|(intermediate|output)\.dense|pwconv[12]"
    r"|(attn_\w+\.)?(mlp|mlp_tokens|mlp_channels)\.(fc[12](_[gx])?|w[123]))"
)
_ATTENTION = re.compile(r".+\.(attention|attn|token_mixer)\..+")
_HEAD = re.compile(r"\w*classifier(\..+)?|fc|head(_dist)?(\.(fc|l))?")


def _linear(ref: ModuleRef) -> bool:
    return ref.kind == "linear"


class ImageClassifiers(TransformersFamily):
    """Models with a head of one score per label; LoRA where they have linear layers."""

    id = "image-classifier"
    title = "Image classifiers of transformers and timm"
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
        "attention": lambda ref: _linear(ref) and _ATTENTION.fullmatch(ref.path) is not None,
        "head": lambda ref: _linear(ref) and _HEAD.fullmatch(ref.path) is not None,
        "linear": _linear,
    })  # fmt: skip

    def detect(self, configs: Mapping[str, Mapping[str, Any]]) -> bool:
        return timm_model.is_timm(configs.get(MODEL, {})) or super().detect(configs)

    def info(self, model: str, configs: Mapping[str, Mapping[str, Any]]) -> ModelSpec:
        config = configs[MODEL]
        if not timm_model.is_timm(config):
            return super().info(model, configs)
        return ModelSpec(self, model, {MODEL: timm_model.labelled(config)}, timm_model.planned(config), (self.id,))

    def open(self, source: Source, dtype: str = "float32", device: str = "cpu") -> Any:
        if timm_model.is_timm(source.configs[MODEL]):
            return timm_model.opened(source, dtype, device)
        return super().open(source, dtype, device)

    def wrap(self, host: Any, name: str | None = None) -> Model:
        from erase_plugins.families.hosts import host_configs

        if timm_model.is_timm(host_configs(host)[MODEL]):
            from erase_plugins.families.timm_classifier import TimmClassifier

            return TimmClassifier(host, name, self)
        return super().wrap(host, name)

    def profiles(self, configs: Mapping[str, Mapping[str, Any]]) -> tuple[str, ...]:
        config = configs[MODEL]
        small = config.get("image_size", 224) == 32 and len(config.get("id2label") or ()) == 156
        return ("pocket-classifier",) if small else ()


@hookimpl
def erase_families() -> list[ImageClassifiers]:
    return [ImageClassifiers()]
