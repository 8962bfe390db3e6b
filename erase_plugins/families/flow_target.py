"""A pipeline with a flow transformer behind the `Target` contract."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from erase_plugins.errors import RequestError, Unsupported
from erase_plugins.families.capabilities import DENOISER
from erase_plugins.families.conditioning import Part
from erase_plugins.families.diffusers_target import DiffusersTarget
from erase_plugins.families.flow_rows import flow_rows
from erase_plugins.families.hosts import check_parts
from erase_plugins.families.mapped import ONLY_READ
from erase_plugins.families.target import Conditioning, Tokens
from erase_plugins.hints import Hint

#: prompts that are encoded at once; T5-XXL is large
_CHUNK = 8


class FlowTarget(DiffusersTarget):
    """Reads a pipeline; changes nothing in it.

    Attributes:
        guidance: what a guidance-distilled denoiser is given by `predict`; 1 is the plain conditional prediction.
    """

    guidance = 1.0

    @property
    def device(self) -> torch.device:
        """Where prompts are encoded, if the denoiser stays in its files (`families.mapped`)."""
        if getattr(self.network(DENOISER), ONLY_READ, False):
            for name in self._traits.encoders:
                if (part := getattr(self.pipe, name, None)) is not None:
                    found: torch.device = part.device
                    return found
        return super().device

    def rows(self, prompts: Sequence[str]) -> Conditioning:
        """The pooled row, then the token rows of every length of padding; columns as in `families.flow`."""
        self._check_reads()
        clip = self.info.tokens if self._traits.clip_rows else 0
        encoded = [self._encoded(prompts, length) for length in self._lengths()]
        last = self.tokens(prompts).last if clip else ()
        return flow_rows(prompts, encoded, self.info.width, self._ends(prompts), clip, last)

    def encode(self, prompts: Sequence[str]) -> Conditioning:
        found, ends = super().encode(prompts), self._ends(prompts)
        if ends is None or self._traits.clip_rows:
            return found
        # T5 has no start token: without this a prompt of one token could not be told from an empty one
        last = tuple(min(end, found.embeds.shape[1] - 1) for end in ends)
        return replace(found, parts=(Part(0, found.embeds.shape[1], last),))

    @property
    def _traits(self) -> Any:
        return self.info.family

    def _lengths(self) -> tuple[int, ...]:
        found: tuple[int, ...] = self._traits.padding(self.info)
        return found or (self._traits.zeros(self.info),)

    @torch.no_grad()
    def _encoded(self, prompts: Sequence[str], length: int) -> tuple[Tensor, Tensor]:
        found = [
            self._traits.encode_texts(self.pipe, list(prompts[start : start + _CHUNK]), length, self.device)
            for start in range(0, len(prompts), _CHUNK)
        ]
        # of an encoder that is offloaded, SD3's pooled rows stay where it ran
        rows, pooled = (torch.cat([item[place] for item in found]).to(self.device).float() for place in (0, 1))
        return rows, pooled

    def _ends(self, prompts: Sequence[str]) -> tuple[int, ...] | None:
        """Row of the last content token of each prompt among T5's own rows, -1 for an empty one; None without T5."""
        t5 = self._traits.encoders[-1]
        if getattr(self.pipe, t5, None) is None:
            return None
        tokenizer = self._tokenizer(t5)
        special = set(tokenizer.all_special_ids) - {tokenizer.unk_token_id}
        rows = tokenizer(list(prompts))["input_ids"]
        return tuple(max((n for n, token in enumerate(row) if token not in special), default=-1) for row in rows)

    def _encode_chunk(self, prompts: list[str]) -> None:
        embeds, pooled = self._encoded(prompts, self._lengths()[0])
        embeds, pooled = embeds.to(self.dtype), pooled.to(self.dtype)
        ends = None if self._traits.clip_rows else self._ends(prompts)
        last = self.tokens(prompts).last if ends is None else tuple(max(end, 0) for end in ends)
        self._keep(prompts, embeds, last, pooled)

    def tokens(self, prompts: Sequence[str]) -> Tokens:
        self._check_reads()
        found = {}
        for component in self._encoders():
            tokenizer, t5 = self._tokenizer(component), component == self._traits.encoders[-1]
            length = self._lengths()[0] if t5 else self.info.tokens
            cut = tokenizer(list(prompts), padding="max_length", max_length=length, truncation=True)
            found[component] = torch.tensor(cut["input_ids"], dtype=torch.long, device=self.device)
        first = self._encoders()[0]
        special = set(self._tokenizer(first).all_special_ids)
        rows = found[first].tolist()
        last = tuple(max((n for n, token in enumerate(row) if token not in special), default=0) for row in rows)
        return Tokens(found, last, tuple(prompts))

    def token_table(self, component: str) -> Tensor:
        weight: Tensor = getattr(self.pipe, component).get_input_embeddings().weight
        return weight.detach()

    def encode_live(self, tokens: Tokens, rows: Any = None) -> Conditioning:
        if getattr(self.pipe, self._traits.encoders[-1], None) is None:
            return super().encode_live(tokens, rows)
        raise Unsupported(
            f"the text encoders of {self.info.model} are not trained: T5 brings the content, see the docs"
        )

    def check_readable(self) -> None:
        super().check_readable()
        fused = [
            name for name, _ in self.network(DENOISER).named_modules() if name.endswith(("to_qkv", "to_added_qkv"))
        ]
        if fused:
            raise Unsupported(
                f"the projections of {self.info.model} are fused ({fused[0]}); call pipe.transformer."
                "unfuse_qkv_projections() and try again"
            )
        if not getattr(self.network(DENOISER), ONLY_READ, False):
            check_dtype(str(self.dtype).removeprefix("torch."), self.info.family.title)

    def predict(self, latents: Tensor, timestep: Tensor | float, cond: Conditioning) -> Tensor:
        self._check_drawable()
        time, network = torch.as_tensor(timestep, dtype=torch.float32, device=latents.device), self.network(DENOISER)
        rows = replace(cond, embeds=cond.embeds.to(network.dtype), pooled=_as(cond.pooled, network.dtype))
        sigma = time.expand(len(latents)) / 1000
        found: Tensor = self._traits.velocity(network, latents.to(network.dtype), sigma, rows, self.guidance)
        return found.to(latents.dtype)

    def scheduler(self, steps: int, kind: str = "ddim") -> Any:
        from erase_plugins.families.flow_schedule import make_flow_sampler

        check_parts(self.pipe, self.info.model, ("scheduler",))
        _, height, width = self.info.latent_shape
        size = (height // 2) * (width // 2)
        return make_flow_sampler(self.pipe.scheduler.config, kind, steps, self.device, self._traits.even_sigmas, size)


def _as(rows: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    return None if rows is None else rows.to(dtype)


def check_dtype(dtype: str, title: str) -> None:
    """Refuses half precision, in which T5 and some blocks overflow.

    Raises:
        RequestError: says what to use.
    """
    if dtype == "float16":
        raise RequestError(f"{title} overflows in float16; use ", Hint("dtype", "bfloat16"), " or float32")
