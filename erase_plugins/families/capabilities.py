"""What a model can do, one small contract per capability; a loaded model offers those that it has.

A method says what it needs (``needs = {"text", "denoiser"}``), a model what it offers (`ModelSpec.capabilities`), and
where the two meet, `Model.text`, `Model.denoiser`, `Model.classifier` ... give the objects described here.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, ClassVar

from erase_plugins.errors import Unsupported
from erase_plugins.families.conditioning import Conditioning, Tokens
from erase_plugins.families.language_model import CausalLM as CausalLM

if TYPE_CHECKING:
    from torch import Tensor

TEXT, DENOISER, CODEC, CLASSIFIER, LANGUAGE = "text", "denoiser", "codec", "classifier", "language"


def reads_prompts(info: Any) -> str:
    """The capability by which a model reads a prompt: "language" where it answers, else "text"."""
    return LANGUAGE if LANGUAGE in info.roles else TEXT


class TextEncoder(ABC):
    """Prompts to the rows that a denoiser reads (capability ``text``)."""

    info: Any

    @abstractmethod
    def encode(self, prompts: Sequence[str]) -> Conditioning:
        """Encoded prompts, cached; rows as the denoiser receives them."""

    def blank(self, count: int) -> Conditioning:
        """What stands for no prompt in ``count`` places: the empty prompt once, or, where the host's pipelines have
        something else where no negative prompt is given, ``count`` rows that are both in turn, the empty prompt first.
        """
        return self.encode([""])

    def passing(self) -> AbstractContextManager[None]:
        """Inside the block `encode` keeps nothing: for thousands of prompts of which each is looked at once."""
        return nullcontext()

    def rows(self, prompts: Sequence[str]) -> Conditioning:
        """Encoded prompts as closed forms count them: every row that a linear layer of the denoiser reads.

        Those of `encode`, unless a layer of its own reads a pooled row, or rows depend on the length of the padding.
        """
        return self.encode(prompts)

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

    @abstractmethod
    def vocabulary(self) -> tuple[str, ...]:
        """Whole words that are one token of the text encoder, in token order (the more frequent first)."""

    #: rows of so many words are looked at by themselves where meanings are compared
    windows: ClassVar[tuple[int, ...]] = (1, 2, 3, 8)

    def meanings(self, texts: Sequence[str]) -> Tensor:
        """What texts mean, (n, width) float32 on the CPU: the mean of their end and padding rows.

        The rows behind the last word carry what a prompt means; those of its words depend more on their frame.
        """
        import torch

        cond = self.encode(list(texts))
        rows = zip(cond.embeds.float().cpu(), cond.last, strict=True)
        return torch.stack([row[last + 1 :].mean(0) for row, last in rows])

    def seen(self, rows: Tensor) -> Tensor:
        """Text rows (..., width) as key and value projections get them, with the context maps that are in force."""
        return rows


class Denoiser(ABC):
    """Predicts noise or velocity from noisy latents (capability ``denoiser``)."""

    @abstractmethod
    def predict(self, latents: Tensor, timestep: Tensor | float, cond: Conditioning) -> Tensor:
        """Raw model output (batch, channels, height, width) for scaled latents, one condition per latent."""

    @abstractmethod
    def scheduler(self, steps: int, kind: str = "ddim") -> Any:
        """Fresh scheduler with ``steps`` timesteps set, built from the model's own configuration."""


class ImageCodec(ABC):
    """Pictures to latents (capability ``codec``)."""

    info: Any

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


class Classifier(ABC):
    """Inputs, pictures for the most part, to one score per label (capability ``classifier``)."""

    @property
    @abstractmethod
    def labels(self) -> tuple[str, ...]:
        """Names of the classes, in the order of the logits."""

    @property
    @abstractmethod
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one input, (channels, height, width) of a picture."""

    @abstractmethod
    def logits(self, batch: Tensor) -> Tensor:
        """Scores (n, labels) of inputs (n, *input_shape) as the network takes them, with gradients."""

    def features(self, batch: Tensor) -> Tensor:
        """Input rows (n, width) of the last linear layer, with gradients.

        Raises:
            Unsupported: this host does not show them.
        """
        raise Unsupported("this classifier does not show its features")

    def read(self, batch: Tensor) -> tuple[Tensor, Tensor]:
        """`features` and `logits` of inputs, in one pass where the host can do that."""
        return self.features(batch), self.logits(batch)

    def prepare(self, images: Sequence[Any]) -> Tensor | None:
        """Pictures (height, width, channels) of bytes as the network takes them; None: nothing special is known."""
        return None

    def longest(self) -> float:
        """A number that no row of `features` is longer than, whatever is put in; known from the weights alone.

        Raises:
            Unsupported: nothing bounds them.
        """
        raise Unsupported("nothing bounds the features of this classifier")

    def fresh(self, seed: int) -> Mapping[str, Tensor]:
        """Parameters by name as they are before any training, drawn with ``seed``.

        Raises:
            Unsupported: this host cannot be made anew.
        """
        raise Unsupported("this classifier cannot be made anew from its configuration")
