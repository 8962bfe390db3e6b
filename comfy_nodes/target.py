"""A loaded ComfyUI MODEL and CLIP behind the `Target` contract, so that methods run unchanged.

Weights are read through the patches that hang on the model, so LoRAs in front of an erase node take part. Embeddings
are those that the connected CLIP hands to samplers, clip skip and CLIP LoRAs included; only its attention is PyTorch's
(`even`). Modules and predictions come from a copy of the denoiser (`live`), made when a method first asks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from erase_plugins.artifacts.fingerprint import Fingerprint, fingerprint_of
from erase_plugins.errors import RequestError, Unsupported
from erase_plugins.families.base import Conditioning, ModuleRef, Target, TargetInfo, Tokens
from erase_plugins.families.naming import sgm_path
from erase_plugins.families.source import Source
from erase_plugins.workflow.models import find_family

from . import host, row_maps
from .even import first_rows, pytorch_attention
from .live import LiveDenoiser, LiveEncoder, schedule_of
from .naming import DENOISER, ENCODERS, denoiser_names, encoder_layers, encoder_names, unet_config
from .text_rows import rows_of
from .weights import PatchedWeights

#: attachments that carry the name of a model for manifests, and the height of its latents
NAME = "erase_plugins_name"
SIZE = "erase_plugins_size"
_CHUNK = 32  # larger ones leave the processor cache


class ComfyTarget(Target):
    """Reads MODEL and CLIP; changes nothing in them.

    Attributes:
        guidance: with which a picture is drawn to look at.

    Args:
        model: ModelPatcher of a diffusion model.
        clip: its CLIP; without it nothing can be encoded.

    Raises:
        Unsupported: not a UNet of a registered family.
        RequestError: the CLIP belongs to another model.
    """

    guidance = 5.0

    def __init__(self, model: Any, clip: Any = None) -> None:
        self.model, self.clip = model, clip
        inner = model.model
        kind = type(inner.model_config).__name__
        attached = getattr(model, "get_attachment", lambda _key: None)
        name = attached(NAME) or f"{kind} in ComfyUI"
        unet = unet_config(inner.model_config.unet_config, kind)
        configs: dict[str, dict[str, Any]] = {"unet": unet, "text_encoder": {}}
        if unet["addition_embed_type"] is not None:
            configs["text_encoder_2"] = {}
        kind_of_prediction = str(getattr(getattr(inner, "model_type", None), "name", "EPS"))
        prediction = "v_prediction" if kind_of_prediction.startswith("V_PREDICTION") else "epsilon"
        family = find_family(Source(name, None, None, configs))
        side = int(attached(SIZE) or _side(unet, prediction))
        self.unet = PatchedWeights(model, DENOISER)
        stems = (key.removeprefix(DENOISER) for key in self.unet)
        #: (component, our parameter name) -> key in the ModelPatcher of the component
        self.keys = {
            ("unet", ours): DENOISER + theirs
            for ours, theirs in denoiser_names(stems, unet["layers_per_block"]).items()
        }
        self.encoder = None if clip is None else PatchedWeights(clip.patcher)
        if self.encoder is not None:
            self.keys.update(encoder_names(self.encoder))
            for component, layers in encoder_layers(self.keys).items():
                configs[component] = {"num_hidden_layers": layers}
        self._tokenizer: Any = None if clip is None else main_tokenizer(clip)
        self.info = TargetInfo(
            family=family, model=name, configs=configs, refs=self._refs(), profiles=family.profiles(configs),
            width=int(unet["cross_attention_dim"]),
            tokens=int(getattr(self._tokenizer, "max_length", 77)),
            latent_shape=(int(unet["in_channels"]), side, side),
            prediction=prediction,
        )  # fmt: skip
        self._live: LiveDenoiser | None = None
        self._encoder: LiveEncoder | None = None
        self._pooled: dict[str, Tensor] = {}
        self._cache: dict[str, tuple[Tensor, int]] = {} if clip is None else rows_of(clip)
        if clip is not None:
            self._check_width()

    def _refs(self) -> tuple[ModuleRef, ...]:
        found = []
        for (component, name), key in sorted(self.keys.items()):
            weight = self.part(component).stored(key)
            if name.endswith(".weight") and weight.ndim in (2, 4):
                path = name.removesuffix(".weight")
                kind = "embedding" if path.endswith("embedding") else {2: "linear", 4: "conv"}[weight.ndim]
                has_bias = (component, f"{path}.bias") in self.keys
                found.append(ModuleRef(component, path, kind, tuple(weight.shape), has_bias))
        return tuple(found)

    def _check_width(self) -> None:
        found = self.encode([""]).embeds.shape[-1]
        if found != self.info.width:
            raise RequestError(
                f"this CLIP belongs to another model: it gives rows of {found}, {self.info.model} takes "
                f"{self.info.width}; connect the CLIP that came with the model"
            )

    def part(self, component: str) -> PatchedWeights:
        """Weights of a component.

        Raises:
            Unsupported: the text encoder is asked for and no CLIP is connected.
        """
        weights = self.unet if component == "unet" else self.encoder
        if weights is None:
            raise Unsupported(f"{component} is needed; connect the CLIP of this model")
        return weights

    def key(self, component: str, name: str) -> str | None:
        """Key of one of our parameter names in its ModelPatcher; None if the model has none."""
        return self.keys.get((component, name))

    @property
    def drawn(self) -> tuple[int, int, int]:
        """Shape of the latents of a picture. A denoiser that paints into a picture takes that as further channels."""
        return int(self.model.model.latent_format.latent_channels), *self.info.latent_shape[1:]

    @property
    def device(self) -> torch.device:
        return torch.device(getattr(self.model, "load_device", "cpu"))

    @property
    def dtype(self) -> torch.dtype:
        return torch.float32

    def check_trainable(self) -> None:
        """Refuses a model that methods which train cannot work on, before any work.

        Raises:
            Unsupported: says what to do instead.
        """

    @property
    def live(self) -> LiveDenoiser:
        """The copy of the denoiser that can be trained, made at first use."""
        if self._live is None:
            self._live = LiveDenoiser(self.model, self.unet, self.device)
        return self._live

    @property
    def live_encoder(self) -> LiveEncoder:
        """The copy of the text encoders that can be trained, made at first use."""
        weights = self.part("text_encoder")  # says that CLIP is missing
        if self._encoder is None:
            self._encoder = LiveEncoder(self.clip, weights, self.device)
        return self._encoder

    def module(self, ref: ModuleRef) -> nn.Module:
        if ref.component != "unet":
            return self.live_encoder.module(self.keys[(ref.component, ref.weight)])
        # attention layers as a whole have no weight of their own
        path = f"{DENOISER}{sgm_path(ref.path, self.info.configs['unet'])}.weight"
        return self.live.module(self.keys.get((ref.component, ref.weight), path))

    def weight(self, ref: ModuleRef) -> Tensor:
        return self.part(ref.component).effective(self.keys[(ref.component, ref.weight)]).to(self.device)

    def base_weight(self, ref: ModuleRef) -> Tensor:
        return self.part(ref.component).base(self.keys[(ref.component, ref.weight)])

    def seen(self, rows: Tensor) -> Tensor:
        return row_maps.seen(self.model, rows)

    def encode(self, prompts: Sequence[str]) -> Conditioning:
        missing = [prompt for prompt in dict.fromkeys(prompts) if prompt not in self._cache]
        for start in range(0, len(missing), _CHUNK):
            host.stop_if_asked()
            self._encode_chunk(missing[start : start + _CHUNK])
        rows = [self._cache[prompt] for prompt in prompts]
        return Conditioning(
            embeds=torch.stack([row[0] for row in rows]).to(self.device),
            last=tuple(row[1] for row in rows),
            prompts=tuple(prompts),
        )

    def encode_start(self, prompts: Sequence[str], behind: int) -> Conditioning:
        tokens = [self._tokenize(prompt) for prompt in prompts]
        last = tuple(self._last(part) for part in tokens)
        rows = max(last) + 1 + behind
        found = []
        with first_rows(self.clip.cond_stage_model, rows):
            for start in range(0, len(tokens), _CHUNK):
                host.stop_if_asked()
                found.append(self._encoded(tokens[start : start + _CHUNK]))
        return Conditioning(torch.cat(found).to(self.device), last, None, tuple(prompts))

    def _encode_chunk(self, prompts: list[str]) -> None:
        tokens = [self._tokenize(prompt) for prompt in prompts]
        for prompt, part, embeds in zip(prompts, tokens, self._encoded(tokens), strict=True):
            self._cache[prompt] = (embeds.clone(), self._last(part))

    @torch.no_grad()
    def _encoded(self, tokens: Sequence[Mapping[str, Any]]) -> Tensor:
        """Rows (prompts, rows, width): sections of one long prompt, which are not mixed by any text encoder."""
        sections = {name: [part[name] for part in tokens] for name in tokens[0]}
        with pytorch_attention(self.clip.cond_stage_model):
            rows = self.clip.encode_from_tokens(sections).detach().float().cpu()
        return rows.reshape(len(tokens), -1, rows.shape[-1])

    def _tokenize(self, prompt: str) -> dict[str, list[tuple[Any, float]]]:
        """(token, weight) of a prompt by ComfyUI's name of the text encoder ("l", "g", "h")."""
        if self.clip is None:
            raise Unsupported("phrases are needed; connect the CLIP of this model")
        # brackets are taken literally: (x:1.2) would scale the rows
        found = self.clip.tokenize(prompt, disable_weights=True)
        if any(len(parts) > 1 for parts in found.values()):
            raise RequestError(f"'{prompt[:60]}' is longer than {self.info.tokens - 2} tokens; shorten it")
        return {name: parts[0] for name, parts in found.items()}

    def _last(self, tokens: Mapping[str, Sequence[tuple[Any, float]]]) -> int:
        main = tokens["l"] if "l" in tokens else next(iter(tokens.values()))  # the other pads differently
        special = {self._tokenizer.start_token, self._tokenizer.end_token, self._tokenizer.pad_token}
        content = [place for place, (token, _) in enumerate(main) if torch.is_tensor(token) or token not in special]
        return max(content, default=0)

    def tokens(self, prompts: Sequence[str]) -> Tokens:
        parts = [self._tokenize(prompt) for prompt in prompts]
        ids = {
            ENCODERS[f"clip_{name}"]: torch.tensor([[token for token, _ in part[name]] for part in parts])
            for name in parts[0]
        }
        moved = {name: value.to(self.device) for name, value in ids.items()}
        return Tokens(moved, tuple(self._last(part) for part in parts), tuple(prompts))

    def encode_live(self, tokens: Tokens, rows: Mapping[str, Tensor] | None = None) -> Conditioning:
        names = {ENCODERS[f"clip_{name}"]: name for name in self._tokenize("")}
        found = []
        for place in range(len(tokens.last)):
            ids = {names[component]: value[place] for component, value in tokens.ids.items()}
            given = {self._table(name): value[place : place + 1] for name, value in (rows or {}).items()}
            found.append(self.live_encoder.encode(ids, given))
        pooled = [row for _, row in found if row is not None]
        needed = self.info.configs["unet"]["addition_embed_type"] is not None
        return Conditioning(
            torch.cat([context for context, _ in found]).to(self.device), tokens.last,
            torch.cat(pooled).to(self.device) if needed else None, tokens.prompts,
        )  # fmt: skip

    def token_table(self, component: str) -> Tensor:
        return self.part(component).effective(self._table(component)).to(self.device)

    def token_rows(self, component: str, ids: Tensor) -> Tensor:
        return self.part(component).effective_rows(self._table(component), ids).to(self.device)

    def _table(self, component: str) -> str:
        ref = next(ref for ref in self.modules("token_embedding") if ref.component == component)
        return self.keys[(component, ref.weight)]

    def predict(self, latents: Tensor, timestep: Tensor | float, cond: Conditioning) -> Tensor:
        beside = self.beside(latents, cond)
        vector = self.model.model.encode_adm(**beside).to(self.device) if beside else None
        return self.live.predict(latents, timestep, cond.embeds, vector)

    def beside(self, latents: Tensor, cond: Conditioning) -> dict[str, Any]:
        """What the denoiser reads besides text rows, by ComfyUI's names: pooled rows and the size of the picture."""
        if self.info.configs["unet"]["addition_embed_type"] is None:
            return {}
        height, width = (8 * side for side in latents.shape[-2:])
        pooled = self.pooled(cond.prompts) if cond.pooled is None else cond.pooled
        return {"pooled_output": pooled, "width": width, "height": height}

    @torch.no_grad()
    def pooled(self, prompts: Sequence[str]) -> Tensor:
        """Pooled rows (prompts, width), for families whose denoiser reads them; cached."""
        for prompt in prompts:
            if prompt not in self._pooled:
                tokens = {name: [part] for name, part in self._tokenize(prompt).items()}
                with pytorch_attention(self.clip.cond_stage_model):
                    found = self.clip.encode_from_tokens(tokens, return_pooled=True)[1]
                self._pooled[prompt] = found.detach().float().clone()
        return torch.cat([self._pooled[prompt] for prompt in prompts]).to(self.device)

    def scheduler(self, steps: int, kind: str = "ddim") -> Any:
        from erase_plugins.families.samplers import make_sampler

        return make_sampler(schedule_of(self.model, self.info.prediction), kind, steps, self.device)

    def vocabulary(self) -> tuple[str, ...]:
        if self._tokenizer is None:
            raise Unsupported("a vocabulary is needed; connect the CLIP of this model")
        entries = self._tokenizer.tokenizer.get_vocab()
        words = [(index, token[:-4]) for token, index in entries.items() if token.endswith("</w>")]
        return tuple(word for _, word in sorted(words) if len(word) > 2 and word.isalpha())

    def fingerprint(self) -> Mapping[str, Fingerprint]:
        groups: dict[str, dict[str, tuple[tuple[int, ...], Tensor]]] = {}
        for (component, name), key in self.keys.items():
            groups.setdefault(component, {})[name] = self.part(component).sample(key)
        return {component: fingerprint_of(group) for component, group in groups.items()}


def _side(unet: Mapping[str, Any], prediction: str) -> int:
    """Height of the latents that a published model of this kind was trained on."""
    if unet["addition_embed_type"] is not None:
        return 128
    return 96 if prediction == "v_prediction" else 64


def main_tokenizer(clip: Any) -> Any:
    """The tokenizer that decides word boundaries: CLIP-L, or whichever single CLIP there is.

    Raises:
        Unsupported: no CLIP tokenizer in it.
    """
    for name in ("clip_l", "clip_h", "clip_g"):
        found = getattr(clip.tokenizer, name, None)
        if found is not None and hasattr(found, "tokenizer"):
            return found
    kind = type(clip.tokenizer).__name__
    raise Unsupported(f"text encoder {kind} is no CLIP; connect that of a Stable Diffusion 1.x, 2.x or XL model")
