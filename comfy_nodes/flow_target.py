"""FLUX and Stable Diffusion 3 in ComfyUI behind the `Target` contract, as far as closed forms go.

Text reaches these denoisers through two linear layers, the doors of `families.flow`; nothing else of them is read. T5
and CLIP are those of the connected CLIP, padded as both ComfyUI and diffusers pad.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from erase_plugins.errors import RequestError, Unsupported
from erase_plugins.families.base import Conditioning, ModuleRef, TargetInfo, Tokens
from erase_plugins.families.flow import POOLED, TOKENS, TOY, TOY_LATENTS
from erase_plugins.families.flow_rows import flow_rows
from erase_plugins.families.source import Source
from erase_plugins.manager import get_manager
from erase_plugins.workflow.models import find_family

from . import host
from .even import pytorch_attention
from .naming import DENOISER
from .target import NAME, SIZE, ComfyTarget, main_tokenizer
from .text_rows import rows_of
from .weights import PatchedWeights

_T5 = "t5xxl"
#: height of the latents of a picture of 1024 x 1024
_SIDE = 128


def flow_family(model: Any) -> Any:
    """The family whose two doors a MODEL has; None if there is none."""
    for entry in get_manager().families():
        names = getattr(entry.item, "originals", None)
        if names is None:
            continue
        paths = [f"{DENOISER}{names.top[door]}.weight" for door in (TOKENS, POOLED)]
        if all(_has(model, path) for path in paths):
            return entry.item
    return None


def _has(model: Any, key: str) -> bool:
    """Whether a weight is there, without a list of thousands."""
    part: Any = model.model
    for name in key.split("."):
        part = getattr(part, name, None)
    return isinstance(part, torch.Tensor)


class ComfyFlowTarget(ComfyTarget):
    """Reads MODEL and CLIP; changes nothing in them.

    Args:
        model: ModelPatcher of a flow transformer.
        clip: its CLIP; without it nothing can be encoded.

    Raises:
        Unsupported: not one of the families, or a text encoder without CLIP-L.
        RequestError: the CLIP belongs to another model.
    """

    def __init__(self, model: Any, clip: Any = None) -> None:
        self.model, self.clip = model, clip
        original, family = model.model.model_config.unet_config, flow_family(model)
        if family is None:
            raise Unsupported(f"{type(model.model.model_config).__name__} has no doors for text that are known here")
        attached = getattr(model, "get_attachment", lambda _key: None)
        side = int(attached(SIZE) or _SIDE)
        shape = (int(original["in_channels"]), side, side)
        component = family.denoiser
        top = {door: f"{DENOISER}{family.originals.top[door]}" for door in (TOKENS, POOLED)}
        self.keys = {
            (component, f"{door}.{leaf}"): f"{top[door]}.{leaf}" for door in top for leaf in ("weight", "bias")
        }
        self.unet = PatchedWeights(model, DENOISER)
        self.encoder = None if clip is None else PatchedWeights(clip.patcher)
        refs = tuple(
            ModuleRef(component, door, "linear", tuple(self.unet.stored(f"{top[door]}.weight").shape), True)
            for door in (TOKENS, POOLED)
        )
        tokens, pooled = (ref.shape[1] for ref in refs)
        self._tokenizer: Any = None if clip is None else main_tokenizer(clip)
        length = int(getattr(self._tokenizer, "max_length", 77))
        configs: dict[str, dict[str, Any]] = {
            component: {"_class_name": family.transformer, "joint_attention_dim": tokens,
                        "pooled_projection_dim": pooled, "in_channels": shape[0]},
            "text_encoder": {"max_position_embeddings": length},
        }  # fmt: skip
        self._has_t5 = getattr(getattr(clip, "cond_stage_model", None), _T5, None) is not None
        if self._has_t5:
            configs[family.encoders[-1]] = _t5_config(getattr(clip.cond_stage_model, _T5).transformer)
        name = attached(NAME) or f"{family.title} in ComfyUI"
        find_family(Source(name, None, None, configs))
        self.info = TargetInfo(
            family=family, model=name, configs=configs, refs=refs, width=tokens + pooled, tokens=length,
            latent_shape=shape, prediction="flow",
            profiles=(TOY, "flow", "pocket", family.id) if shape == TOY_LATENTS else ("flow", family.id),
        )  # fmt: skip
        #: FLUX was distilled: it reads its guidance itself
        self.guidance = 1.0 if not family.clip_rows else self.guidance
        self._cache = {} if clip is None else rows_of(clip)
        self._names = dict(
            zip(("l", "g", _T5) if len(family.encoders) > 2 else ("l", _T5), family.encoders, strict=True)
        )
        if clip is not None:
            self._check_width()

    def _check_width(self) -> None:
        lacking = [name for name in self._names if name not in self._parts("")]
        if lacking:
            raise RequestError(
                f"this CLIP belongs to another model: it has no {lacking[0]} text encoder, which {self.info.model} "
                "takes; connect the CLIP that came with the model"
            )
        embeds, pooled = self._rows_of("", self._lengths()[0])
        wanted = (self.info.configs[self.family.denoiser]["joint_attention_dim"], self.info.width)
        if (embeds.shape[-1], embeds.shape[-1] + pooled.shape[-1]) != wanted:
            raise RequestError(
                f"this CLIP belongs to another model: it gives rows of {embeds.shape[-1]}, {self.info.model} takes "
                f"{wanted[0]}; connect the CLIP that came with the model"
            )

    def part(self, component: str) -> PatchedWeights:
        if component != self.family.denoiser:
            raise Unsupported(f"{component} of {self.info.model} is not changed in ComfyUI")
        return self.unet

    def key(self, component: str, name: str) -> str | None:
        found = self.keys.get((component, name))
        if found is None:
            raise Unsupported(
                f"{component} {name} of {self.info.model} is not changed by erase nodes, which reach the layers where "
                "text enters; load the artifact's diffusers LoRA with the stock LoRA loader"
            )
        return found

    def check_trainable(self) -> None:
        raise Unsupported(
            f"methods that train do not run on {self.family.title} in ComfyUI; take a method that works in seconds, or "
            "train on the command line and load the LoRA that it writes with the stock LoRA loader"
        )

    @property
    def live(self) -> Any:
        return self.check_trainable()

    @property
    def live_encoder(self) -> Any:
        return self.check_trainable()

    def _lengths(self) -> tuple[int, ...]:
        found: tuple[int, ...] = self.family.padding(self.info)
        return found or (0,)

    def _parts(self, prompt: str, length: int = 0) -> dict[str, list[Any]]:
        """ComfyUI's name of a text encoder -> its (token, weight) pairs, T5's padded to ``length``.

        Raises:
            RequestError: longer than a text encoder reads.
        """
        options = {f"{_T5}_min_length": length} if length else {}
        found = self.clip.tokenize(prompt, disable_weights=True, tokenizer_options=options)
        long = [name for name, parts in found.items() if len(parts) > 1 or (name == _T5 and 0 < length < len(parts[0]))]
        if long:
            raise RequestError(f"'{prompt[:60]}' is longer than {self.info.tokens - 2} tokens; shorten it")
        return dict(found)

    @torch.no_grad()
    def _rows_of(self, prompt: str, length: int) -> tuple[Tensor, Tensor]:
        """Token rows (1, rows, width) and pooled row (1, width) of a prompt, kept with the CLIP."""
        key = f"{length} {prompt}"
        if key not in self._cache:
            host.stop_if_asked()
            with pytorch_attention(self.clip.cond_stage_model):
                embeds, pooled = self.clip.encode_from_tokens(self._parts(prompt, length), return_pooled=True)
            rows = embeds.detach().float().cpu().reshape(1, -1, embeds.shape[-1])
            flat = torch.cat([rows.flatten(), pooled.detach().float().cpu().flatten()]).clone()
            self._cache[key] = (flat, rows.shape[1])
        flat, count = self._cache[key]
        width = self.info.configs[self.family.denoiser]["joint_attention_dim"]
        return flat[: count * width].reshape(1, count, width), flat[count * width :][None]

    def _all(self, prompts: Sequence[str], length: int) -> tuple[Tensor, Tensor]:
        found = [self._rows_of(prompt, length) for prompt in prompts]
        return torch.cat([embeds for embeds, _ in found]), torch.cat([pooled for _, pooled in found])

    def rows(self, prompts: Sequence[str]) -> Conditioning:
        clip = self.info.tokens if self.family.clip_rows else 0
        encoded = [self._all(prompts, length) for length in self._lengths()]
        last = self.tokens(prompts).last if clip else ()
        return flow_rows(prompts, encoded, self.info.width, self._ends(prompts), clip, last)

    def encode(self, prompts: Sequence[str]) -> Conditioning:
        embeds, pooled = self._all(prompts, self._lengths()[0])
        return Conditioning(embeds, self.tokens(prompts).last, pooled, tuple(prompts))

    def encode_start(self, prompts: Sequence[str], behind: int) -> Conditioning:
        return self.rows(prompts)

    def _ends(self, prompts: Sequence[str]) -> tuple[int, ...] | None:
        """Row of T5's last content token, -1 for an empty prompt; None without T5."""
        if not self._has_t5:
            return None
        special = _special(getattr(self.clip.tokenizer, _T5))
        rows = [self._parts(prompt)[_T5][0] for prompt in prompts]
        return tuple(max((n for n, (token, _) in enumerate(row) if token not in special), default=-1) for row in rows)

    def tokens(self, prompts: Sequence[str]) -> Tokens:
        parts = [self._parts(prompt, self._lengths()[0]) for prompt in prompts]
        ids = {
            component: torch.tensor([[token for token, _ in part[name][0]] for part in parts])
            for name, component in self._names.items()
            if name != _T5 or self._has_t5
        }
        special = _special(self._tokenizer)
        rows = ids[self.family.encoders[0]].tolist()  # type: ignore[attr-defined]
        last = tuple(max((n for n, token in enumerate(row) if token not in special), default=0) for row in rows)
        return Tokens(ids, last, tuple(prompts))

    def token_table(self, component: str) -> Tensor:
        raise Unsupported(f"the token table of {component} is not read in ComfyUI")

    def encode_live(self, tokens: Tokens, rows: Mapping[str, Tensor] | None = None) -> Conditioning:
        raise Unsupported(f"the text encoders of {self.info.model} are not trained")

    def predict(self, latents: Tensor, timestep: Tensor | float, cond: Conditioning) -> Tensor:
        raise Unsupported(f"{self.info.model} draws through ComfyUI's own samplers alone")


def _t5_config(encoder: Any) -> dict[str, Any]:
    """Sizes of a T5 that estimates of memory and time ask for."""
    words, width = encoder.shared.weight.shape
    attention, dense = encoder.encoder.block[0].layer
    inner = int(attention.SelfAttention.q.weight.shape[0])
    wide = next(part for name, part in dense.DenseReluDense.named_parameters() if name.startswith("wi"))
    return {"d_model": int(width), "num_heads": 1, "d_kv": inner, "d_ff": int(wide.shape[0]),
            "num_layers": len(encoder.encoder.block), "vocab_size": int(words)}  # fmt: skip


def _special(tokenizer: Any) -> set[Any]:
    """Tokens without content."""
    return {tokenizer.start_token, tokenizer.end_token, tokenizer.pad_token}
