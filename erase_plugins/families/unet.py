"""Shared by the UNet families: module lists from configuration, module groups, name maps."""

from __future__ import annotations

import re
from collections.abc import Mapping
from math import prod
from typing import TYPE_CHECKING, Any

from erase_plugins.artifacts.names import canonical
from erase_plugins.errors import Unsupported
from erase_plugins.families.base import Family, ModelSpec, TargetInfo
from erase_plugins.families.skeleton import ModuleRefs

if TYPE_CHECKING:
    from torch import Tensor

_FROZEN_IN_U = re.compile(r"^(time_embedding|add_embedding|conv_in|conv_out)\b|^time_embed|^add_embed")


_BLOCK = re.compile(r"^(down_blocks|up_blocks)\.(\d+)\.")


def _unet(pattern: str) -> Any:
    regex = re.compile(pattern)
    return lambda ref: ref.component == "unet" and regex.search(ref.path) is not None


def _text(pattern: str) -> Any:
    regex = re.compile(pattern)
    return lambda ref: ref.component.startswith("text_encoder") and regex.search(ref.path) is not None


#: group name -> which modules. The names are the vocabulary that methods use.
UNET_GROUPS = {
    "cross_kv": _unet(r"\battn2\.to_[kv]$"),
    "cross_k": _unet(r"\battn2\.to_k$"),
    "cross_v": _unet(r"\battn2\.to_v$"),
    "cross_q": _unet(r"\battn2\.to_q$"),
    "cross_attn": _unet(r"\battn2\.(to_q|to_k|to_v|to_out\.0)$"),
    "self_attn": _unet(r"\battn1\.(to_q|to_k|to_v|to_out\.0)$"),
    "attn": _unet(r"\battn[12]\.(to_q|to_k|to_v|to_out\.0)$"),
    "visual": _unet(r"\b(attn1\.(to_q|to_k|to_v|to_out\.0)|attn2\.to_q)$"),
    "transformer": _unet(r"\battentions\.\d+\."),
    "non_cross": lambda ref: ref.component == "unet" and "attn2" not in ref.path and not _FROZEN_IN_U.match(ref.path),
    "denoiser": lambda ref: ref.component == "unet" and not _FROZEN_IN_U.match(ref.path),
    "text_attn": _text(r"\bself_attn\.(q|k|v|out)_proj$"),
    "text_mlp": _text(r"\bmlp\.fc[12]$"),
    "text": _text(r"\b(self_attn\.(q|k|v|out)_proj|mlp\.fc[12])$"),
    "token_embedding": _text(r"token_embedding$"),
}


class UNetFamily(Family):
    """Families whose denoiser is a `UNet2DConditionModel` and whose text encoders are CLIP."""

    groups = UNET_GROUPS
    causal = True
    presets: tuple[str, ...] = ("pocket",)
    text_prefix: Mapping[str, str]
    #: text encoder -> prefix of its ``text_model.`` in single-file checkpoints, where the names are CLIP's own
    checkpoint_prefix: Mapping[str, str] = {}
    #: UNet configuration of the published models, for names that depend on the block layout
    original_config: Mapping[str, Any] = {}

    @property
    def roles(self) -> Mapping[str, str | tuple[str, ...]]:
        return {**super().roles, "codec": "vae"}

    def info(self, model: str, configs: Mapping[str, Mapping[str, Any]]) -> TargetInfo:
        from erase_plugins.families.checkpoint import expand_checkpoint

        configs = expand_checkpoint(configs)
        unet = configs["unet"]
        size = unet.get("sample_size") or 64
        height, width = (size, size) if isinstance(size, int) else size
        tokens = configs.get("text_encoder", {}).get("max_position_embeddings", 77)
        context = unet["cross_attention_dim"]
        return TargetInfo(
            family=self,
            model=model,
            configs=configs,
            refs=ModuleRefs(configs, self.components),
            profiles=self.profiles(configs),
            width=context if isinstance(context, int) else context[0],
            tokens=tokens,
            latent_shape=(unet.get("in_channels", 4), height, width),
            prediction=configs.get("scheduler", {}).get("prediction_type", "epsilon"),
        )

    def profiles(self, configs: Mapping[str, Mapping[str, Any]]) -> tuple[str, ...]:
        """Names that pick option defaults: "pocket" for toy-sized denoisers, then the family."""
        small = max(configs["unet"].get("block_out_channels", (320,))) < 320
        return (("pocket",) if small else ()) + (self.id,)

    def places(self, info: ModelSpec) -> dict[str, int]:
        assert isinstance(info, TargetInfo)
        layers = [ref for ref in info.refs if ref.component == self.denoiser]
        blocks = {ref.path: match for ref in layers if (match := _BLOCK.match(ref.path))}
        deepest, side = max(int(match[2]) for match in blocks.values()), prod(info.latent_shape[1:])
        found = {}
        for ref in layers:
            block = blocks.get(ref.path)
            if block is None:
                depth = deepest if ref.path.startswith("mid_block") else 0
            else:
                depth = int(block[2]) if block[1] == "down_blocks" else deepest - int(block[2])
            found[ref.path] = side // 4**depth
            if ref.path.endswith(("to_k", "to_v")) and "attn2" in ref.path:
                found[ref.path] = info.tokens
            elif "time_emb" in ref.path or "add_embedding" in ref.path or "time_embedding" in ref.path:
                found[ref.path] = 1
        return found

    def encode_ids(self, pipe: Any, ids: Mapping[str, Tensor]) -> tuple[Tensor, Tensor | None]:
        return pipe.text_encoder(ids["text_encoder"])[0], None

    def text_layers(self, info: ModelSpec, component: str) -> int:
        if component not in info.configs:
            raise Unsupported(f"{info.model} has no {component}")
        return int(info.configs[component]["num_hidden_layers"])

    def stem(self, layout: str, component: str, path: str, config: Mapping[str, Any] | None = None) -> str:
        from erase_plugins.families.naming import kohya_stem, sgm_path

        if layout not in ("kohya", "diffusers", "checkpoint"):
            raise Unsupported(f"family {self.id} has no names for layout {layout}")
        if component == "unet":
            named = sgm_path(path, config or self.original_config) if self.sgm_in(layout) else path
            prefix = {"kohya": "lora_unet", "diffusers": "unet", "checkpoint": "model.diffusion_model"}[layout]
        else:
            named = path if path == "text_projection" else f"text_model.{path}"
            table = {"kohya": self.text_prefix, "checkpoint": self.checkpoint_prefix}.get(layout, {})
            prefix = table.get(component, component)
        return kohya_stem(prefix, named) if layout == "kohya" else f"{prefix}.{named}"

    def locate(self, layout: str, stem: str, config: Mapping[str, Any] | None = None) -> tuple[str, str] | None:
        from erase_plugins.families.naming import diffusers_path, is_sgm, layers_of, split_stem

        kohya = layout == "kohya"
        table = {"kohya": self.text_prefix, "checkpoint": self.checkpoint_prefix}.get(layout, {})
        denoiser = {"kohya": "lora_unet", "diffusers": "unet", "checkpoint": "model.diffusion_model"}[layout]
        prefixes = {"unet": denoiser, **{name: table.get(name, name) for name in self.components if name != "unet"}}
        for component, prefix in prefixes.items():
            rest = stem.removeprefix(prefix + ("_" if kohya else "."))
            if rest == stem:
                continue
            path = split_stem(rest) if kohya else rest
            if component != "unet":
                return component, canonical(component, path)
            try:
                return component, diffusers_path(path, layers_of(config or {})) if is_sgm(path) else path
            except KeyError:
                return None
        return None

    def sgm_in(self, layout: str) -> bool:
        """Whether this layout uses original (sgm/ldm) denoiser names for this family."""
        return layout == "checkpoint"
