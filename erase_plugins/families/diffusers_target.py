"""A diffusers pipeline behind the `Target` contract."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from erase_plugins.artifacts.fingerprint import Fingerprint, fingerprint
from erase_plugins.artifacts.names import CONTEXT_HOOK, PROMPTS, base_parameters, whole_parameters
from erase_plugins.errors import Unsupported
from erase_plugins.families.capabilities import DENOISER, TEXT
from erase_plugins.families.hosted import HostedModel
from erase_plugins.families.hosts import check_parts, encoding_of, offload_groups
from erase_plugins.families.naming import MOTION, whole_words
from erase_plugins.families.target import Conditioning, Target, TargetInfo, Tokens

#: prompts that are encoded at once
_CHUNK = 64


class DiffusersTarget(HostedModel, Target):
    """Reads a pipeline; changes nothing in it.

    Args:
        pipe: a Stable Diffusion style pipeline.
        name: how messages and manifests call the model.
        family: the family that recognises it.
    """

    info: TargetInfo

    def __init__(self, pipe: Any, name: str | None, family: Any) -> None:
        super().__init__(pipe, name, family)
        #: rows of every prompt that was encoded, on the processor: methods encode thousands
        self._cache: dict[str, tuple[Tensor, int, Tensor | None]] = {}
        self._looked_through: set[str] = set()
        self._denoiser_modules: list[nn.Module] = []
        self._recalled: WeakKeyDictionary[Any, set[str]] = WeakKeyDictionary()

    @property
    def pipe(self) -> Any:
        """The pipeline."""
        return self.host

    @property
    def device(self) -> torch.device:
        weight = self._plain_weight()
        found: torch.device = (self.network(DENOISER) if weight is None else weight).device
        return found

    @property
    def dtype(self) -> torch.dtype:
        denoiser, weight = self.network(DENOISER), self._plain_weight()
        if weight is None or not weight.is_floating_point() or getattr(denoiser, "_keep_in_fp32_modules", None):
            weight = denoiser
        found: torch.dtype = weight.dtype
        return found

    def _plain_weight(self) -> Tensor | None:
        """A weight that lies where the denoiser computes; None where hooks of diffusers move or cast it for every pass.

        Diffusers looks through all modules for them whenever it is asked, which takes a tenth of a small pass. They are
        put on modules that were there from the beginning, so these alone are asked.
        """
        denoiser = self.network(DENOISER)
        if not self._denoiser_modules or self._denoiser_modules[0] is not denoiser:
            self._denoiser_modules = list(denoiser.modules())
        if any("_diffusers_hook" in vars(item) for item in self._denoiser_modules):
            return None
        return next(denoiser.parameters(), None)

    def seen(self, rows: Tensor) -> Tensor:
        hook = getattr(self.network(DENOISER), CONTEXT_HOOK, None)
        return rows if hook is None else hook.mapped(rows)

    def encode(self, prompts: Sequence[str]) -> Conditioning:
        self._check_reads()
        missing = [prompt for prompt in dict.fromkeys(prompts) if prompt not in self._cache]
        if any(prompt and not prompt.strip() for prompt in missing):
            missing = self._without_blanks(missing)
        for start in range(0, len(missing), _CHUNK):
            self._encode_chunk(missing[start : start + _CHUNK])
        rows = [self._cache[prompt] for prompt in prompts]
        self._recall(prompts)
        pooled = [row[2] for row in rows if row[2] is not None]
        return Conditioning(
            embeds=torch.stack([row[0] for row in rows]).to(self.device),
            last=tuple(row[1] for row in rows),
            pooled=torch.stack(pooled).to(self.device) if pooled else None,
            prompts=tuple(prompts),
            start=self._content_start(),
        )

    @contextmanager
    def passing(self) -> Iterator[None]:
        before = set(self._cache)
        try:
            yield
        finally:
            self._cache = {prompt: row for prompt, row in self._cache.items() if prompt in before}

    def _content_start(self) -> int:
        """1 behind a start token, 0 where the first text encoder's tokenizer has none."""
        encoders = self._encoders()
        return 0 if encoders and getattr(self._tokenizer(encoders[0]), "bos_token_id", None) is None else 1

    def _without_blanks(self, missing: list[str]) -> list[str]:
        """The prompts less those of blanks that are the empty prompt to the tokenizers; that one is encoded first."""
        blanks = [prompt for prompt in missing if not prompt.strip()]
        ids = self.tokens(["", *blanks]).ids.values()
        same = [
            prompt for place, prompt in enumerate(blanks, 1) if all(bool((one[place] == one[0]).all()) for one in ids)
        ]
        if "" not in self._cache:
            self._encode_chunk([""])
        self._cache |= dict.fromkeys(same, self._cache[""])
        return [prompt for prompt in missing if prompt not in self._cache]

    @torch.no_grad()
    def _encode_chunk(self, prompts: list[str]) -> None:
        out = encoding_of(self.pipe)(
            prompt=prompts, device=self.device, num_images_per_prompt=1, do_classifier_free_guidance=False
        )
        self._keep(prompts, out[0], self.tokens(prompts).last, out[2] if len(out) > 2 else None)

    def _keep(self, prompts: Sequence[str], embeds: Tensor, last: Sequence[int], pooled: Tensor | None) -> None:
        embeds, pooled = embeds.cpu(), None if pooled is None else pooled.cpu()
        for index, prompt in enumerate(prompts):
            self._cache[prompt] = (embeds[index], last[index], None if pooled is None else pooled[index])

    def blank(self, count: int) -> Conditioning:
        if not getattr(self.pipe, "config", {}).get("force_zeros_for_empty_prompt"):
            return super().blank(count)
        found = self.encode([""] * count)
        found.embeds[1::2] = 0.0
        if found.pooled is not None:
            found.pooled[1::2] = 0.0
        return found

    def _recall(self, prompts: Sequence[str]) -> None:
        """Tells those who watch the text encoder of prompts that were encoded before they came."""
        component = next(iter(self._encoders()), None)
        memory = None if component is None else getattr(getattr(self.pipe, component), PROMPTS, None)
        if component is None or memory is None:
            return
        new = [prompt for prompt in dict.fromkeys(prompts) if prompt not in self._recalled.setdefault(memory, set())]
        if new:
            encoder = getattr(self.pipe, component)
            width = encoder.config.hidden_size
            memory.remember(
                self.tokens(new).ids[component],
                torch.stack([self._cache[prompt][0][:, :width] for prompt in new]).to(self.device),
            )
            self._recalled[memory].update(new)

    @torch.no_grad()
    def encode_start(self, prompts: Sequence[str], behind: int) -> Conditioning:
        if not self.info.family.causal:
            return super().encode_start(prompts, behind)
        tokens = self.tokens(prompts)
        rows = max(tokens.last) + 1 + behind
        embeds = [
            self.info.family.encode_ids(
                self.pipe, {name: ids[start : start + _CHUNK, :rows] for name, ids in tokens.ids.items()}
            )[0]
            for start in range(0, len(prompts), _CHUNK)
        ]
        return Conditioning(torch.cat(embeds), tokens.last, None, tokens.prompts)

    def tokens(self, prompts: Sequence[str]) -> Tokens:
        self._check_reads()
        found = {}
        for component in self._encoders():
            tokenizer = self._tokenizer(component)
            cut = tokenizer(list(prompts), padding="max_length", max_length=self.info.tokens, truncation=True)
            found[component] = torch.tensor(cut["input_ids"], dtype=torch.long, device=self.device)
        first = self._encoders()[0]
        special = set(self._tokenizer(first).all_special_ids)
        rows = found[first].tolist()
        last = tuple(max((n for n, token in enumerate(row) if token not in special), default=0) for row in rows)
        return Tokens(found, last, tuple(prompts))

    def pieces(self, prompt: str) -> tuple[str | None, ...]:
        self._check_reads()
        encoders = self._encoders()
        if not encoders:
            return super().pieces(prompt)
        tokenizer = self._tokenizer(encoders[0])  # a refiner has only the second one
        ids = tokenizer(prompt, add_special_tokens=False, truncation=False, verbose=False)["input_ids"]
        texts = tokenizer.convert_ids_to_tokens(ids)
        return tuple(
            None if index == tokenizer.unk_token_id else str(text).removesuffix("</w>")
            for index, text in zip(ids, texts, strict=True)
        )

    def encode_live(self, tokens: Tokens, rows: Mapping[str, Tensor] | None = None) -> Conditioning:
        for component in self._encoders():
            self._check_stays(component)
        hooks = []
        for component, embedded in (rows or {}).items():
            table = self._table(component)
            hooks.append(table.register_forward_hook(lambda _m, _a, out, new=embedded: new.to(out.dtype)))
        try:
            embeds, pooled = self.info.family.encode_ids(self.pipe, tokens.ids)
        finally:
            for hook in hooks:
                hook.remove()
        return Conditioning(embeds, tokens.last, pooled, tokens.prompts)

    def token_table(self, component: str) -> Tensor:
        weight: Tensor = self._table(component).weight  # type: ignore[assignment]
        return weight.detach()

    def check_complete(self) -> None:
        self._check_reads()
        check_parts(self.pipe, self.info.model, ("scheduler", "vae"))

    def _check_reads(self) -> None:
        """Refuses a pipeline that was loaded without a text encoder or tokenizer that its prompts are read with."""
        names = self.info.components(TEXT) if TEXT in self.info.roles else ()
        needed = [name for name in names if name not in self.family.spare_encoders(self.info)]
        tokenizers = [name.replace("text_encoder", "tokenizer") for name in (*needed, *self._encoders())]
        check_parts(self.pipe, self.info.model, dict.fromkeys((*needed, *tokenizers)))

    def _encoders(self) -> list[str]:
        names = self.info.components(TEXT) if TEXT in self.info.roles else ()
        return [name for name in names if getattr(self.pipe, name, None) is not None]

    def _tokenizer(self, component: str) -> Any:
        return getattr(self.pipe, component.replace("text_encoder", "tokenizer"))

    def _table(self, component: str) -> nn.Module:
        ref = next(ref for ref in self.modules("token_embedding") if ref.component == component)
        return self.module(ref)

    def forget(self) -> None:
        """Drops cached embeddings (after the text encoder changed)."""
        self._cache.clear()
        self._recalled.clear()

    @torch.no_grad()
    def latents(self, pictures: Tensor, generator: torch.Generator) -> Tensor:
        check_parts(self.pipe, self.info.model, ("vae",))
        vae = self.pipe.vae
        mean, std = encoded(vae, pictures, 1)  # one by one: at full resolution each takes gigabytes
        drawn = mean + std * torch.randn(mean.shape, generator=generator).to(mean)
        return scaled(vae, drawn).to(self.device)

    def picture_size(self) -> tuple[int, int]:
        _, height, width = self.info.latent_shape
        return height * self._pixels(), width * self._pixels()

    def _pixels(self) -> int:
        """Pixels per latent, on each side."""
        return int(2 ** (len(self.pipe.vae.config.block_out_channels) - 1))

    def predict(self, latents: Tensor, timestep: Tensor | float, cond: Conditioning) -> Tensor:
        self._check_drawable()
        extra: dict[str, Any] = {}
        if self.info.configs[self.family.denoiser].get("addition_embed_type") == "text_time":
            extra["added_cond_kwargs"] = {"text_embeds": cond.pooled, "time_ids": self._time_ids(latents)}
        return self.network(DENOISER)(latents, timestep, encoder_hidden_states=cond.embeds, **extra, return_dict=False)[
            0
        ]

    def _check_stays(self, component: str) -> None:
        """Refuses a part that is on its device during a pass only: what is trained beside it would lie on another."""
        part, name = getattr(self.pipe, component), self.info.model
        there = getattr(getattr(part, "_hf_hook", None), "execution_device", None)
        # looking through all modules before every pass would cost a tenth of a small one
        group = None if component in self._looked_through else next(offload_groups(part), None)
        if group is not None and torch.device(group.onload_device).type != torch.device(group.offload_device).type:
            raise Unsupported(
                f"the {component} of {name} is moved to {group.onload_device} part by part for every pass (group "
                "offloading), where this method cannot follow; erase on the model without it and offload it afterwards"
            )
        self._looked_through.add(component)
        if there is not None and torch.device(there).type != part.device.type:
            raise Unsupported(
                f"the {component} of {name} is moved to {there} for every pass (enable_model_cpu_offload), where this "
                f"method cannot follow; call pipe.remove_all_hooks() and pipe.to('{there}'), erase, and offload it "
                "afterwards"
            )

    def _check_drawable(self) -> None:
        denoiser, name = self.network(DENOISER), self.info.model
        self._check_stays(self.info.components(DENOISER)[0])
        if getattr(denoiser.config, "encoder_hid_dim_type", None) == "ip_image_proj":
            raise Unsupported(
                f"{name} has an IP-Adapter and draws with an image prompt only; call pipe.unload_ip_adapter(), erase, "
                "and load it again"
            )
        if type(denoiser).__name__ == MOTION:
            raise Unsupported(
                f"the denoiser of {name} draws frames (AnimateDiff), and this method asks it for pictures; erase on "
                "the text-to-image pipeline of the same model and apply the artifact here"
            )

    def _time_ids(self, latents: Tensor) -> Tensor:
        height, width = latents.shape[-2] * self._pixels(), latents.shape[-1] * self._pixels()
        values: list[float] = [height, width, 0, 0, height, width]
        if self.pipe.config.get("requires_aesthetics_score"):  # the refiner
            values = [height, width, 0, 0, 6.0]
        ids = torch.tensor([values], dtype=latents.dtype, device=latents.device)
        return ids.expand(latents.shape[0], -1)

    def scheduler(self, steps: int, kind: str = "ddim") -> Any:
        from erase_plugins.families.schedulers import make_scheduler

        check_parts(self.pipe, self.info.model, ("scheduler",))
        own = self.pipe.scheduler
        return make_scheduler(own.config, kind, steps, self.device, type(own))

    def vocabulary(self) -> tuple[str, ...]:
        self._check_reads()
        return whole_words(self._tokenizer(self._encoders()[0]).get_vocab())

    def _fingerprint(self, component: str) -> Fingerprint:
        """Adapters and rows of added tokens left out; with them, as older versions did it, in ``whole``."""
        owner = getattr(self.pipe, component)
        base, whole = base_parameters(component, owner), whole_parameters(component, owner)
        added = 0 if component not in self._encoders() else _added_rows(self._tokenizer(component), owner)
        if not added and base.keys() == whole.keys():
            return fingerprint(base)
        if added:
            table = next(ref.weight for ref in self.modules("token_embedding") if ref.component == component)
            base[table] = base[table][:-added]
        return replace(fingerprint(base), whole=fingerprint(whole))


#: pixels that go through an autoencoder together: at full resolution a picture takes gigabytes
PIXELS = 1 << 18


@contextmanager
def without_overflow(vae: Any) -> Iterator[None]:
    """Inside, an autoencoder that overflows in float16 (SDXL's) computes in float32, as stock pipelines have it do."""
    if vae.dtype != torch.float16 or not getattr(vae.config, "force_upcast", False):
        yield
        return
    vae.to(torch.float32)
    try:
        yield
    finally:
        vae.to(torch.float16)


def encoded(vae: Any, pictures: Tensor, together: int) -> tuple[Tensor, Tensor]:
    """Mean and deviation (n, channels, height, width) of unscaled latents.

    Args:
        vae: the autoencoder.
        pictures: (n, 3, height, width) in -1..1.
        together: pictures of a pass.
    """
    with without_overflow(vae):
        spreads = [vae.encode(part.to(vae.device, vae.dtype)).latent_dist for part in pictures.split(together)]
    mean, std = (torch.cat([getattr(spread, name) for spread in spreads]) for name in ("mean", "std"))
    return mean, std


def scaled(vae: Any, latents: Tensor) -> Tensor:
    """Latents as a denoiser reads them."""
    shifted: Tensor = latents - (getattr(vae.config, "shift_factor", None) or 0.0)
    return shifted * vae.config.scaling_factor


def _added_rows(tokenizer: Any, encoder: nn.Module) -> int:
    """How many rows at the end of a text encoder's token table belong to added tokens (textual inversion)."""
    if tokenizer is None:
        return 0
    rows = int(encoder.get_input_embeddings().weight.shape[0])  # type: ignore[operator]
    added = sum(index >= tokenizer.vocab_size for index in tokenizer.get_added_vocab().values())
    return int(added) if rows == tokenizer.vocab_size + added else 0
