"""What a method may ask of a model: module groups, weights, embeddings, predictions. Nothing else.

`Target` is the loaded model seen through that contract. A diffusers pipeline is one host (`families.diffusers_target`);
a ComfyUI model or a language model can be another.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from erase_plugins.errors import Unsupported

if TYPE_CHECKING:
    from torch import Tensor, nn

    from erase_plugins.artifacts.fingerprint import Fingerprint


@dataclass(frozen=True)
class ModuleRef:
    """A module with a weight: where it is and what shape it has (out, in[, height, width])."""

    component: str
    path: str
    kind: str
    shape: tuple[int, ...]
    bias: bool

    @property
    def weight(self) -> str:
        """Name of the weight inside the component."""
        return f"{self.path}.weight"


@dataclass(frozen=True)
class TargetInfo:
    """A model known by its configuration only: enough to plan, no weights.

    ``width`` is the size of one text embedding row, ``tokens`` the padded prompt length, ``latent_shape`` is
    (channels, height, width) of one picture, ``profiles`` pick option defaults, most specific first.
    """

    family: FamilyTraits
    model: str
    configs: Mapping[str, Mapping[str, Any]]
    refs: tuple[ModuleRef, ...]
    profiles: tuple[str, ...]
    width: int
    tokens: int
    latent_shape: tuple[int, int, int]
    prediction: str = "epsilon"

    def modules(self, group: str) -> tuple[ModuleRef, ...]:
        """Modules of a named group.

        Raises:
            Unsupported: the family has no such group, or it is empty for this model.
        """
        return self.family.modules(self, group)


@dataclass
class Conditioning:
    """Encoded prompts.

    Attributes:
        embeds: (prompts, tokens, width) as the denoiser receives it.
        last: row of the last content token of each prompt; 0 for an empty prompt.
        pooled: (prompts, pooled width) or None.
    """

    embeds: Tensor
    last: tuple[int, ...]
    pooled: Tensor | None = None
    prompts: tuple[str, ...] = ()

    def __getitem__(self, index: int | slice | Sequence[int]) -> Conditioning:
        import torch

        picks = [index] if isinstance(index, int) else index
        rows = torch.arange(len(self.last))[picks].tolist()
        return Conditioning(
            embeds=self.embeds[rows],
            last=tuple(self.last[row] for row in rows),
            pooled=None if self.pooled is None else self.pooled[rows],
            prompts=tuple(self.prompts[row] for row in rows) if self.prompts else (),
        )


@dataclass(frozen=True)
class Tokens:
    """Prompts as padded token numbers, before the text encoders.

    Attributes:
        ids: text encoder -> (prompts, tokens) int64.
        last: row of the last content token of each prompt; 0 for an empty prompt.
        prompts: their texts.
    """

    ids: Mapping[str, Tensor]
    last: tuple[int, ...]
    prompts: tuple[str, ...] = ()

    def __getitem__(self, rows: Sequence[int]) -> Tokens:
        return Tokens(
            ids={name: ids[list(rows)] for name, ids in self.ids.items()},
            last=tuple(self.last[row] for row in rows),
            prompts=tuple(self.prompts[row] for row in rows) if self.prompts else (),
        )


class Target(ABC):
    """A loaded model behind the contract of this module. Tensors live here."""

    info: TargetInfo

    @property
    def family(self) -> FamilyTraits:
        """The family that knows this model."""
        return self.info.family

    def modules(self, group: str) -> tuple[ModuleRef, ...]:
        """Modules of a named group, as in `TargetInfo.modules`."""
        return self.info.modules(group)

    @abstractmethod
    def weight(self, ref: ModuleRef) -> Tensor:
        """Effective weight, detached; do not write to it."""

    def base_weight(self, ref: ModuleRef) -> Tensor:
        """Weight without the edits that are applied at the moment; the effective one where the host cannot tell."""
        return self.weight(ref)

    def seen(self, rows: Tensor) -> Tensor:
        """Text rows (..., width) as key and value projections get them, with the context maps that are in force."""
        return rows

    def check_readable(self) -> None:  # noqa: B027  # most hosts can read theirs
        """Refuses a model whose weights a method cannot read.

        Raises:
            Unsupported: quantised, or not loaded.
        """

    @abstractmethod
    def module(self, ref: ModuleRef) -> nn.Module:
        """The live module (training methods attach their deltas here)."""

    @abstractmethod
    def encode(self, prompts: Sequence[str]) -> Conditioning:
        """Encoded prompts, cached; rows as the denoiser receives them."""

    def encode_start(self, prompts: Sequence[str], behind: int) -> Conditioning:
        """Rows of prompts up to ``behind`` rows after the longest one's last content token; no pooled rows, not cached.

        As `encode` gives them up to rounding; hosts whose rows depend on earlier rows only need not compute the others.
        """
        found = self.encode(prompts)
        return Conditioning(found.embeds[:, : max(found.last) + 1 + behind], found.last, None, found.prompts)

    def tokens(self, prompts: Sequence[str]) -> Tokens:
        """Token numbers of prompts, padded and cut as `encode` does it.

        Raises:
            Unsupported: this host does not show its tokenizer.
        """
        raise Unsupported(f"the tokens of {self.info.model} cannot be read on this host")

    def pieces(self, prompt: str) -> tuple[str | None, ...]:
        """All pieces of a prompt as the text encoder's tokenizer makes them, not cut; None for what has no token.

        Raises:
            Unsupported: this host does not show its tokenizer.
        """
        raise Unsupported(f"the tokens of {self.info.model} cannot be read on this host")

    def encode_live(self, tokens: Tokens, rows: Mapping[str, Tensor] | None = None) -> Conditioning:
        """The text encoders' own pass with gradients, nothing cached; equal to `encode` to the last bit.

        Args:
            tokens: what is encoded.
            rows: text encoder -> (prompts, tokens, width) in place of the token embeddings (before positions).

        Raises:
            Unsupported: this host cannot train text encoders.
        """
        raise Unsupported(f"the text encoders of {self.info.model} cannot be trained on this host")

    def token_table(self, component: str) -> Tensor:
        """Token embeddings of a text encoder (vocabulary, width), detached; do not write to it.

        Raises:
            Unsupported: this host cannot train text encoders.
        """
        raise Unsupported(f"the text encoders of {self.info.model} cannot be trained on this host")

    def token_rows(self, component: str, ids: Tensor) -> Tensor:
        """Rows of `token_table`, (ids, width), for hosts where the whole table is a copy.

        Raises:
            Unsupported: this host cannot train text encoders.
        """
        return self.token_table(component)[ids]

    def latents(self, pictures: Tensor, generator: Any) -> Tensor:
        """Scaled clean latents (n, channels, height, width) of pictures (n, 3, height, width) in -1..1.

        Raises:
            Unsupported: this host has no picture encoder.
        """
        raise Unsupported(f"{self.info.model} cannot encode pictures on this host")

    def picture_size(self) -> tuple[int, int]:
        """(height, width) in pixels of the model's own pictures.

        Raises:
            Unsupported: this host has no picture encoder.
        """
        raise Unsupported(f"{self.info.model} cannot encode pictures on this host")

    @abstractmethod
    def predict(self, latents: Tensor, timestep: Tensor | float, cond: Conditioning) -> Tensor:
        """Raw model output (batch, channels, height, width) for scaled latents, one condition per latent."""

    @abstractmethod
    def scheduler(self, steps: int, kind: str = "ddim") -> Any:
        """Fresh scheduler with ``steps`` timesteps set, built from the model's own configuration."""

    @abstractmethod
    def vocabulary(self) -> tuple[str, ...]:
        """Whole words that are one token of the text encoder, in token order (the more frequent first)."""

    @abstractmethod
    def fingerprint(self) -> Mapping[str, Fingerprint]:
        """Fingerprint per component that can be edited."""

    @property
    @abstractmethod
    def device(self) -> Any:
        """Device of the denoiser."""

    @property
    @abstractmethod
    def dtype(self) -> Any:
        """Dtype of the denoiser."""


Picker = Callable[[ModuleRef], bool]


class FamilyTraits(ABC):
    """What is specific to one architecture, except how its models are loaded; see `families.base.Family`."""

    id: str
    title: str
    components: tuple[str, ...]
    groups: Mapping[str, Picker]
    #: the component whose projections read the text rows
    denoiser: str = "unet"
    #: diffusers class of the pipeline
    pipeline: str = ""
    #: whether a text row depends only on the rows before it
    causal: bool = False
    #: kinds of model, besides ``id``, that `info` may name in ``profiles``; presets have tables for them
    presets: tuple[str, ...] = ()
    #: ModelSpec architecture and sd-scripts base version, for file headers
    modelspec: str = ""
    base_version: str = ""
    #: name of the version in A1111's side files, by context width (0: any)
    ui_versions: Mapping[int, str] = MappingProxyType({})

    @abstractmethod
    def detect(self, configs: Mapping[str, Mapping[str, Any]]) -> bool:
        """Whether a model with these component configurations belongs here."""

    @abstractmethod
    def info(self, model: str, configs: Mapping[str, Mapping[str, Any]]) -> TargetInfo:
        """The model as known from its configuration, without weights."""

    def stem(self, layout: str, component: str, path: str, config: Mapping[str, Any] | None = None) -> str:
        """Name of a module in files of ``layout``; ``config`` of the denoiser where the numbering depends on it.

        Raises:
            Unsupported: the family has no names for this layout.
        """
        raise Unsupported(f"family {self.id} has no names for layout {layout}")

    def locate(self, layout: str, stem: str, config: Mapping[str, Any] | None = None) -> tuple[str, str] | None:
        """(component, module path) of a file name, inverse of `stem`; None if it is not of this family."""
        raise Unsupported(f"family {self.id} has no names for layout {layout}")

    def encode_ids(self, pipe: Any, ids: Mapping[str, Tensor]) -> tuple[Tensor, Tensor | None]:
        """Context (prompts, tokens, width) and pooled embedding of a diffusers pipeline for token numbers.

        Args:
            pipe: the pipeline.
            ids: text encoder -> (prompts, tokens).

        Raises:
            Unsupported: the family does not know how.
        """
        raise Unsupported(f"family {self.id} cannot run its text encoders on token numbers")

    def text_layers(self, info: TargetInfo, component: str) -> int:
        """How many layers of a text encoder the denoiser's context passes through.

        Raises:
            Unsupported: no such text encoder.
        """
        raise Unsupported(f"family {self.id} has no trainable text encoder {component}")

    def modules(self, info: TargetInfo, group: str) -> tuple[ModuleRef, ...]:
        """Modules of a named group; see `TargetInfo.modules`."""
        if group not in self.groups:
            raise Unsupported(
                f"family {self.id} has no module group '{group}'; it offers {', '.join(sorted(self.groups))}"
            )
        found = tuple(ref for ref in info.refs if self.groups[group](ref))
        if not found:
            raise Unsupported(f"{info.model} has no modules in group '{group}' of family {self.id}")
        return found
