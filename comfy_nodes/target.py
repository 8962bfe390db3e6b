"""A loaded ComfyUI MODEL and CLIP behind the `Target` contract, so that closed-form methods run unchanged.

Weights are read through the patches that hang on the model, so LoRAs in front of an erase node take part. Embeddings
are those that the connected CLIP hands to samplers, clip skip and CLIP LoRAs included.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from erase_plugins.artifacts.fingerprint import Fingerprint, fingerprint
from erase_plugins.errors import RequestError, Unsupported
from erase_plugins.families.base import Conditioning, ModuleRef, Target, TargetInfo
from erase_plugins.families.source import Source, find_family

from .naming import DENOISER, denoiser_names, encoder_names, unet_config
from .weights import PatchedWeights

#: attachment that carries the name of a model for manifests
NAME = "erase_plugins_name"
#: attachment that carries the latent's height and width a model was trained for
SIZE = "erase_plugins_size"
_CHUNK = 64


class ComfyTarget(Target):
    """Reads MODEL and CLIP; changes nothing in them.

    Args:
        model: ModelPatcher of a diffusion model.
        clip: its CLIP; without it nothing can be encoded.

    Raises:
        Unsupported: not a UNet of a registered family.
        RequestError: the CLIP belongs to another model.
    """

    def __init__(self, model: Any, clip: Any = None) -> None:
        self.model, self.clip = model, clip
        inner = model.model
        kind = type(inner.model_config).__name__
        attached = getattr(model, "get_attachment", lambda _key: None)
        name, size = attached(NAME) or f"{kind} in ComfyUI", int(attached(SIZE) or 64)
        unet = unet_config(inner.model_config.unet_config, kind)
        configs: dict[str, dict[str, Any]] = {"unet": unet, "text_encoder": {}}
        if unet["addition_embed_type"] is not None:
            configs["text_encoder_2"] = {}
        kind_of_prediction = str(getattr(getattr(inner, "model_type", None), "name", "EPS"))
        prediction = "v_prediction" if kind_of_prediction.startswith("V_PREDICTION") else "epsilon"
        family = find_family(Source(name, None, None, configs))
        self.denoiser = PatchedWeights(model, DENOISER)
        stems = (key.removeprefix(DENOISER) for key in self.denoiser)
        #: (component, our parameter name) -> key in the ModelPatcher of the component
        self.keys = {
            ("unet", ours): DENOISER + theirs
            for ours, theirs in denoiser_names(stems, unet["layers_per_block"]).items()
        }
        self.encoder = None if clip is None else PatchedWeights(clip.patcher)
        if self.encoder is not None:
            self.keys.update(encoder_names(self.encoder))
        self._tokenizer: Any = None if clip is None else main_tokenizer(clip)
        self.info = TargetInfo(
            family=family, model=name, configs=configs, refs=self._refs(), profiles=family.profiles(configs),
            width=int(unet["cross_attention_dim"]),
            tokens=int(getattr(self._tokenizer, "max_length", 77)),
            latent_shape=(int(unet["in_channels"]), size, size), prediction=prediction,
        )  # fmt: skip
        self._cache: dict[str, tuple[Tensor, int]] = {}
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
        weights = self.denoiser if component == "unet" else self.encoder
        if weights is None:
            raise Unsupported(f"{component} is needed; connect the CLIP of this model")
        return weights

    def key(self, component: str, name: str) -> str | None:
        """Key of one of our parameter names in its ModelPatcher; None if the model has none."""
        return self.keys.get((component, name))

    @property
    def device(self) -> torch.device:
        return torch.device("cpu")

    @property
    def dtype(self) -> torch.dtype:
        return torch.float32

    def module(self, ref: ModuleRef) -> nn.Module:
        raise Unsupported("training inside the graph is not possible here; run the method on the command line")

    def weight(self, ref: ModuleRef) -> Tensor:
        return self.part(ref.component).effective(self.keys[(ref.component, ref.weight)])

    def base_weight(self, ref: ModuleRef) -> Tensor:
        return self.part(ref.component).base(self.keys[(ref.component, ref.weight)])

    def seen(self, rows: Tensor) -> Tensor:
        patches = self.model.model_options.get("transformer_options", {}).get("patches", {})
        for patch in patches.get("attn2_patch", ()):
            mapped = getattr(patch, "mapped", None)  # ours; what patches of others do depends on more than the rows
            rows = rows if mapped is None else mapped(rows)
        return rows

    def encode(self, prompts: Sequence[str]) -> Conditioning:
        missing = [prompt for prompt in dict.fromkeys(prompts) if prompt not in self._cache]
        for start in range(0, len(missing), _CHUNK):
            self._encode_chunk(missing[start : start + _CHUNK])
        rows = [self._cache[prompt] for prompt in prompts]
        return Conditioning(
            embeds=torch.stack([row[0] for row in rows]), last=tuple(row[1] for row in rows), prompts=tuple(prompts)
        )

    def _encode_chunk(self, prompts: list[str]) -> None:
        """Encodes several prompts as the sections of one long prompt, which are not mixed by any text encoder."""
        if self.clip is None:
            raise Unsupported("phrases are needed; connect the CLIP of this model")
        sections: dict[str, list[Any]] = {}
        lasts = []
        for prompt in prompts:
            # brackets are taken literally: (x:1.2) would scale the rows
            tokens = self.clip.tokenize(prompt, disable_weights=True)
            for name, parts in tokens.items():
                if len(parts) > 1:
                    raise RequestError(f"'{prompt[:60]}' is longer than {self.info.tokens - 2} tokens; shorten it")
                sections.setdefault(name, []).extend(parts)
            main = tokens["l"] if "l" in tokens else next(iter(tokens.values()))  # the other pads differently
            lasts.append(self._last(main[0]))
        rows = self.clip.encode_from_tokens(sections).detach().float().cpu()
        each = rows.reshape(len(prompts), -1, rows.shape[-1])
        for prompt, embeds, last in zip(prompts, each, lasts, strict=True):
            self._cache[prompt] = (embeds.clone(), last)

    def _last(self, tokens: Sequence[tuple[Any, float]]) -> int:
        special = {self._tokenizer.start_token, self._tokenizer.end_token, self._tokenizer.pad_token}
        content = [place for place, (token, _) in enumerate(tokens) if torch.is_tensor(token) or token not in special]
        return max(content, default=0)

    def predict(self, latents: Tensor, timestep: Tensor | float, cond: Conditioning) -> Tensor:
        raise Unsupported("methods that ask for predictions do not run inside the graph; use the command line")

    def scheduler(self, steps: int, kind: str = "ddim") -> Any:
        raise Unsupported("methods that sample do not run inside the graph; use the command line")

    def vocabulary(self) -> tuple[str, ...]:
        if self._tokenizer is None:
            raise Unsupported("a vocabulary is needed; connect the CLIP of this model")
        entries = self._tokenizer.tokenizer.get_vocab()
        words = [(index, token[:-4]) for token, index in entries.items() if token.endswith("</w>")]
        return tuple(word for _, word in sorted(words) if len(word) > 2 and word.isalpha())

    def fingerprint(self) -> Mapping[str, Fingerprint]:
        groups: dict[str, dict[str, Tensor]] = {}
        for (component, name), key in self.keys.items():
            groups.setdefault(component, {})[name] = self.part(component).base(key)
        return {component: fingerprint(group) for component, group in groups.items()}


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
