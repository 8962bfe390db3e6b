"""Shared by the flow transformers (SD3, FLUX): the two doors of text, module groups, names, what is known beforehand.

Text reaches these denoisers through two linear layers only: one reads token rows, one the pooled row. A linear map of
both kinds of rows is therefore the same as a change of these two weights. The map is one matrix: columns of token rows
first, those of the pooled row behind them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from math import prod
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from erase_plugins.artifacts.names import canonical
from erase_plugins.errors import Unsupported
from erase_plugins.families.base import Family, Model, ModelSpec, ModuleRef, TargetInfo
from erase_plugins.families.flow_names import Names, Place, original_places
from erase_plugins.families.model import EMBEDDING_MAP

if TYPE_CHECKING:
    from torch import Tensor

    from erase_plugins.families.conditioning import Conditioning
    from erase_plugins.types import EraseRequest

#: name that picks option defaults for the embedded flow transformer and others of its size, and their latents
TOY, TOY_LATENTS = "pocket-flow", (4, 16, 16)
#: rows of zeros that stand for a missing T5 in such a model: stock pipelines add 256, which it bears but need not have
TOY_ROWS = 16

#: what reads token rows, and what reads the pooled row
TOKENS, POOLED = "context_embedder", "time_text_embed.text_embedder.linear_1"


def _blocks(pattern: str) -> Any:
    regex = re.compile(pattern)
    return lambda ref: ref.component == "transformer" and regex.search(ref.path) is not None


def _text(pattern: str) -> Any:
    regex = re.compile(pattern)
    return lambda ref: ref.component.startswith("text_encoder") and regex.search(ref.path) is not None


_DUAL = r"^transformer_blocks\.\d+\."
_PART = r"(to_[qkv]|to_out\.0|add_[qkv]_proj|to_add_out)$"
_ATTN = rf"({_DUAL}attn2?\.{_PART}|^single_transformer_blocks\.\d+\.attn\.to_[qkv]$)"
#: every linear layer of the blocks but those that modulate by time, guidance and pooled row
_INNER = r"^(single_)?transformer_blocks\.\d+\.(attn2?\.|ff(_context)?\.|proj_(mlp|out)$)"
#: group name -> which modules; regular expressions are anchored, since "attn.to_k" also ends names of other blocks
FLOW_GROUPS = {
    "text_in": _blocks(rf"^({re.escape(TOKENS)}|{re.escape(POOLED)})$"),
    "cross_kv": _blocks(rf"{_DUAL}attn\.add_[kv]_proj$"),
    "cross_k": _blocks(rf"{_DUAL}attn\.add_k_proj$"),
    "cross_v": _blocks(rf"{_DUAL}attn\.add_v_proj$"),
    "cross_q": _blocks(rf"{_DUAL}attn\.add_q_proj$"),
    "cross_attn": _blocks(rf"{_DUAL}attn\.(add_[qkv]_proj|to_add_out)$"),
    "text_side": _blocks(rf"^({re.escape(TOKENS)}|{re.escape(POOLED)})$|{_DUAL}attn\.add_[kv]_proj$"),
    "self_attn": _blocks(rf"({_DUAL}attn2?\.(to_[qkv]|to_out\.0)$|^single_transformer_blocks\.\d+\.attn\.to_[qkv]$)"),
    "dual_attn": _blocks(_DUAL + rf"attn2?\.{_PART}"),
    "single_attn": _blocks(r"^single_transformer_blocks\.\d+\.attn\.to_[qkv]$"),
    "attn": _blocks(_ATTN),
    "text_mlp_side": _blocks(rf"{_DUAL}ff_context\.net\.(0\.proj|2)$"),
    "non_cross": lambda ref: _blocks(_INNER)(ref) and "add_" not in ref.path,
    "denoiser": _blocks(_INNER),
    "transformer": _blocks(_INNER),
    "text_attn": _text(r"\bself_attn\.(q|k|v|out)_proj$"),
    "text_mlp": _text(r"\bmlp\.fc[12]$"),
    "text": _text(r"\b(self_attn\.(q|k|v|out)_proj|mlp\.fc[12])$"),
    "token_embedding": _text(r"token_embedding$"),
}


#: layers that compute once for a sample, and those that see text rows only
_ONCE = re.compile(r"^time_text_embed\.|\bnorm\w*\.linear")
_TEXT_SIDE = re.compile(rf"^{re.escape(TOKENS)}$|attn\.(add_|to_add_)|\bff_context\.")


def call_options(pipe: Any) -> dict[str, int]:
    """What a pipeline is called with besides prompts: few rows of zeros where a toy-sized model has no T5."""
    config = getattr(getattr(pipe, "transformer", None), "config", None)
    if config is None or getattr(pipe, "text_encoder_3", pipe) is not None:
        return {}
    size = config.get("sample_size")
    return {"max_sequence_length": TOY_ROWS} if (config.get("in_channels"), size, size) == TOY_LATENTS else {}


def is_packed(denoiser: Any) -> bool:
    """Whether a stock pipeline is given latents packed two by two (FLUX), and the denoiser knows no size of its own."""
    return "sample_size" not in denoiser.config


def packed(latents: Tensor) -> Tensor:
    """Latents (n, channels, height, width) as rows of two by two places, (n, places / 4, 4 channels)."""
    count, channels, height, width = latents.shape
    patches = latents.reshape(count, channels, height // 2, 2, width // 2, 2).permute(0, 2, 4, 1, 3, 5)
    return patches.reshape(count, -1, 4 * channels)


def start_shape(pipe: Any, denoiser: Any) -> tuple[int, int, int]:
    """(channels, height, width) of the latents of a picture of the model's own size."""
    if is_packed(denoiser):
        side = int(pipe.vae.config.sample_size) // int(pipe.vae_scale_factor)
        return int(pipe.vae.config.latent_channels), side, side
    size = denoiser.config.sample_size
    height, width = (size, size) if isinstance(size, int) else size
    return int(denoiser.config.in_channels), int(height), int(width)


def start_options(pipe: Any, denoiser: Any, noise: Tensor) -> dict[str, Any]:
    """What a stock pipeline is called with to begin from ``noise`` (n, channels, height, width)."""
    if not is_packed(denoiser):
        return {"latents": noise}
    height, width = (side * pipe.vae_scale_factor for side in noise.shape[-2:])
    return {"latents": packed(noise), "height": height, "width": width}


class FlowFamily(Family):
    """Families whose denoiser is a transformer over text and picture tokens that predicts a velocity.

    T5 reads no mask: its padding rows carry content too and depend on how long the padding is. `lengths` are those
    with which prompts reach the model: the pipeline's own first, then what ComfyUI pads to at least.
    """

    groups = FLOW_GROUPS
    denoiser = "transformer"
    features = MappingProxyType({EMBEDDING_MAP: "text_in"})
    layouts = ("patch", "context", "diffusers", "peft")
    #: every text encoder; T5 last, of which no loader takes a LoRA
    encoders: tuple[str, ...]
    lengths: tuple[int, int]
    #: names in the original files
    originals: Names
    #: class of the denoiser in its configuration
    transformer: str
    #: whether the pipeline's sampler steps through 1 .. 1/n, and draws with a shift that grows with the picture
    even_sigmas: bool

    @property
    def roles(self) -> Mapping[str, str | tuple[str, ...]]:
        return {**super().roles, "text": self.encoders, "codec": "vae"}

    def detect(self, configs: Mapping[str, Mapping[str, Any]]) -> bool:
        return configs.get("transformer", {}).get("_class_name") == self.transformer and "text_encoder" in configs

    def info(self, model: str, configs: Mapping[str, Mapping[str, Any]]) -> TargetInfo:
        from erase_plugins.families.skeleton import ModuleRefs

        config = configs["transformer"]
        return TargetInfo(
            family=self,
            model=model,
            configs=configs,
            refs=ModuleRefs(configs, self.components),
            profiles=(TOY, "flow", "pocket", self.id)
            if self.latent_shape(configs) == TOY_LATENTS
            else ("flow", self.id),
            width=int(config["joint_attention_dim"]) + int(config["pooled_projection_dim"]),
            tokens=int(configs.get("text_encoder", {}).get("max_position_embeddings", 77)),
            latent_shape=self.latent_shape(configs),
            prediction="flow",
        )

    def latent_shape(self, configs: Mapping[str, Mapping[str, Any]]) -> tuple[int, int, int]:
        """(channels, height, width) of the latents of one picture."""
        raise NotImplementedError

    def encode_texts(self, pipe: Any, prompts: list[str], length: int, device: Any) -> tuple[Tensor, Tensor]:
        """Token rows (prompts, rows, width) and pooled rows (prompts, width) with T5 padded to ``length``."""
        raise NotImplementedError

    def velocity(self, network: Any, latents: Tensor, sigma: Tensor, cond: Conditioning, guidance: float) -> Tensor:
        """Velocity (n, channels, height, width) of latents at noise levels ``sigma`` (n,) in 0..1."""
        raise NotImplementedError

    def original_places(self, info: ModelSpec) -> dict[str, Place]:
        """Path of a module of the transformer -> where ComfyUI and the original files have it."""
        return original_places(self.originals, info.refs)

    def padding(self, info: ModelSpec) -> tuple[int, ...]:
        """Lengths to which prompts for T5 are padded; none where the model has no T5."""
        config = info.configs.get(self.encoders[-1])
        if config is None:
            return ()
        first = min(self.lengths[0], int(config.get("n_positions") or self.lengths[0]))
        return first, min(self.lengths[1], first // 2)

    def zeros(self, info: TargetInfo) -> int:
        """Rows of zeros that stand for a missing T5."""
        return TOY_ROWS if TOY in info.profiles else self.lengths[0]

    def columns(self, info: ModelSpec, ref: ModuleRef) -> slice:
        tokens = int(info.configs["transformer"]["joint_attention_dim"])
        if ref.path not in (TOKENS, POOLED):
            raise Unsupported(f"{ref.path} reads no text rows")
        return slice(0, tokens) if ref.path == TOKENS else slice(tokens, None)

    def wrap(self, host: Any, name: str | None = None) -> Model:
        from erase_plugins.families.flow_target import FlowTarget

        return FlowTarget(host, name, self)

    def load(self, request: EraseRequest) -> Model:
        from erase_plugins.families.flow_target import check_dtype

        check_dtype(request.dtype, self.title)
        source = getattr(request, "source", None)
        if source is None or not getattr(request, "light", False):
            return super().load(request)
        from erase_plugins.families.mapped import open_mapped

        return self.wrap(open_mapped(self, source, request.dtype, request.device), request.model)

    def places(self, info: ModelSpec) -> dict[str, int]:
        assert isinstance(info, TargetInfo)
        picture = prod(info.latent_shape[1:]) // 4  # both families put two by two places of a latent together
        text = (*self.padding(info), self.zeros(info))[0] + info.tokens * self.clip_rows
        return {
            ref.path: 1 if _ONCE.search(ref.path) else text if _TEXT_SIDE.search(ref.path)
            else picture + text * ref.path.startswith("single_")
            for ref in info.refs if ref.component == self.denoiser
        }  # fmt: skip

    def other_values(self, info: ModelSpec) -> int:
        """T5's: it is no component, since no program takes a LoRA of it."""
        config = info.configs.get(self.encoders[-1])
        if config is None:
            return 0
        width, inner = int(config["d_model"]), int(config["num_heads"]) * int(config["d_kv"])
        layer = 4 * width * inner + 3 * width * int(config["d_ff"])
        return int(config["num_layers"]) * layer + int(config["vocab_size"]) * width

    def text_layers(self, info: ModelSpec, component: str) -> int:
        raise Unsupported(
            f"a text encoder of {info.model} is not trained: T5 brings the content and no program takes a LoRA of it"
        )

    def stem(self, layout: str, component: str, path: str, config: Mapping[str, Any] | None = None) -> str:
        if layout != "diffusers":
            raise Unsupported(
                f"family {self.id} has no names for layout {layout}; its diffusers file loads in ComfyUI as it is"
            )
        named = path if component == "transformer" or path == "text_projection" else f"text_model.{path}"
        return f"{component}.{named}"

    def locate(self, layout: str, stem: str, config: Mapping[str, Any] | None = None) -> tuple[str, str] | None:
        if layout != "diffusers":
            raise Unsupported(f"family {self.id} has no names for layout {layout}")
        for component in self.components:
            if stem.startswith(f"{component}."):
                return component, canonical(component, stem.removeprefix(f"{component}."))
        return None
