"""PixArt (alpha and sigma) as a model family of one's own: closed forms through the one door that text comes in by.

The rows of T5 enter the transformer by `caption_projection.linear_1` alone, and all cross-attention reads what becomes
of them. One linear map of the rows is therefore the same as a change of that one weight, and `uce`, `rece` or
`null-space` with ``projections=both`` need nothing else. Rows behind a prompt are masked in this family and change
nothing; ``tokens=window`` counts them all the same.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from erase_plugins import hookimpl
from erase_plugins.errors import Unsupported
from erase_plugins.families.base import Family, ModuleRef, TargetInfo

#: the layer that reads text rows
DOOR = "caption_projection.linear_1"
#: rows of a prompt unless the pipeline is asked for others
ROWS = 120


def _path(pattern: str) -> Any:
    regex = re.compile(pattern)
    return lambda ref: regex.search(ref.path) is not None


class PixArt(Family):
    """T5 and a transformer with cross-attention; predicts noise, and a variance that is left out."""

    id, title, pipeline = "pixart", "PixArt", "PixArtAlphaPipeline"
    components, denoiser = ("transformer",), "transformer"
    roles: Mapping[str, Any] = {"text": ("text_encoder",), "denoiser": "transformer", "codec": "vae"}
    groups: Mapping[str, Any] = {
        "text_in": _path(rf"^{re.escape(DOOR)}$"),
        "cross_kv": _path(r"\battn2\.to_[kv]$"),
        "cross_v": _path(r"\battn2\.to_v$"),
        "cross_attn": _path(r"\battn2\.(to_[qkv]|to_out\.0)$"),
        "attn": _path(r"\battn[12]\.(to_[qkv]|to_out\.0)$"),
    }
    #: no "cross_attention": keys and values read what the door has made of the rows
    features = MappingProxyType({"embedding_map": "text_in"})
    layouts = ("patch", "context", "diffusers", "peft")
    clip_rows = False

    def detect(self, configs: Mapping[str, Mapping[str, Any]]) -> bool:
        return configs.get("transformer", {}).get("_class_name") == "PixArtTransformer2DModel"

    def info(self, model: str, configs: Mapping[str, Mapping[str, Any]]) -> TargetInfo:
        config = dict(configs["transformer"])
        size, rows = int(config["sample_size"]), int(configs.get("text_encoder", {}).get("n_positions", ROWS))
        return TargetInfo(
            family=self, model=model, configs=configs, refs=_modules(config), profiles=("pixart",),
            width=int(config["caption_channels"]), tokens=min(rows, ROWS),
            latent_shape=(int(config["in_channels"]), size, size),
        )  # fmt: skip

    def stem(self, layout: str, component: str, path: str, config: Mapping[str, Any] | None = None) -> str:
        if layout != "diffusers":
            raise Unsupported(f"PixArt has no names for layout {layout}; take diffusers")
        return f"{component}.{path}"

    def locate(self, layout: str, stem: str, config: Mapping[str, Any] | None = None) -> tuple[str, str] | None:
        component, _, path = stem.partition(".")
        return (component, path) if layout == "diffusers" and component in self.components else None


def _modules(config: dict[str, Any]) -> tuple[ModuleRef, ...]:
    """The linear layers of a transformer that has no weights."""
    import torch
    from diffusers import PixArtTransformer2DModel

    config = {name: value for name, value in config.items() if not name.startswith("_")}
    with torch.device("meta"):
        network = PixArtTransformer2DModel.from_config(config)
    return tuple(
        ModuleRef("transformer", name, "linear", tuple(part.weight.shape), part.bias is not None)
        for name, part in network.named_modules()
        if isinstance(part, torch.nn.Linear)
    )


@hookimpl
def erase_families() -> list[PixArt]:
    return [PixArt()]
