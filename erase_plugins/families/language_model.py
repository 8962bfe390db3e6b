"""What a language model can do, the contract of the capability ``language``; see `families.capabilities`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from erase_plugins.errors import Unsupported

if TYPE_CHECKING:
    from torch import Tensor


class CausalLM(ABC):
    """Token numbers to scores for the next token (capability ``language``)."""

    @property
    @abstractmethod
    def words(self) -> int:
        """Size of the vocabulary."""

    @property
    @abstractmethod
    def tokenizer(self) -> Any:
        """The tokenizer that belongs to the model.

        Raises:
            Unsupported: there is none beside this host.
        """

    @abstractmethod
    def logits(self, ids: Tensor, mask: Tensor | None = None, first: int = 0, begun: Any = None) -> Tensor:
        """Scores (n, tokens - first, words) for the token after each of token numbers (n, tokens), with gradients.

        Args:
            ids: (n, tokens) token numbers.
            mask: (n, tokens) 0 for padding.
            first: place from which scores are wanted.
            begun: what `begin` gave for the same rows, at most ``first`` tokens of them; used up by this.
        """

    def states(self, ids: Tensor, mask: Tensor | None, counted: Tensor, first: int = 0, begun: Any = None) -> Tensor:
        """What `scored` reads scores off, (m, ...): a row for every token that counts, with gradients.

        Args:
            ids, mask, begun: as in `logits`.
            counted: (n, tokens) true for tokens behind which scores are wanted; none in front of ``first``.
            first: as in `logits`.
        """
        return self.logits(ids, mask, first, begun)[counted[:, first:]]

    def scored(self, states: Tensor) -> Tensor:
        """Scores (m, words) as `logits` gives them, of rows of `states`, with gradients."""
        return states

    #: rows of so many words are looked at by themselves where meanings are compared
    windows: ClassVar[tuple[int, ...]] = (8, 24)

    def meanings(self, texts: Sequence[str]) -> Tensor:
        """What texts mean, (n, width) float32 on the CPU: the state in which the model would say it in one word.

        Jiang et al., "Scaling sentence embeddings with large language models" (PromptEOL), arXiv 2307.16645. Without a
        state (`states`), its scores.
        """
        from erase_plugins.families.sentences import in_one_word

        return in_one_word(self, texts)

    def vocabulary(self) -> tuple[str, ...]:
        """Whole words that are one token, in token order (the more frequent first)."""
        from erase_plugins.families.token_words import token_words

        return tuple(dict.fromkeys(word.lower() for word in token_words(self.tokenizer)[0].values()))

    def begin(self, ids: Tensor) -> Any:
        """Reads beginnings (n, tokens) without padding, so that `logits` need not; its ``of(rows)`` is a copy of some.

        Raises:
            Unsupported: this host does not keep what it read.
        """
        raise Unsupported("this language model does not keep what it read")

    def embeddings(self) -> Tensor:
        """What the model reads in place of every token number, (words, width).

        Raises:
            Unsupported: this host does not show it.
        """
        raise Unsupported("this language model does not show how it reads its vocabulary")

    @abstractmethod
    def hidden(self, ids: Tensor, layer: int, mask: Tensor | None = None) -> Tensor:
        """Hidden state (n, tokens, width) behind a layer, 0 for the embeddings, with gradients."""

    def depths(self, ids: Tensor, counted: Tensor) -> Tensor:
        """States behind every layer, first to last, as `scored` reads them: (layers, m, width), with gradients.

        Args:
            ids: (n, tokens) token numbers without padding.
            counted: (n, tokens) true for the m tokens whose states are wanted.

        Raises:
            Unsupported: this host does not show them.
        """
        raise Unsupported("this language model does not show states between its layers")

    @abstractmethod
    def generate(self, ids: Tensor, count: int, mask: Tensor | None = None) -> Tensor:
        """Token numbers (n, tokens + count), the most likely token each time; padding is on the left."""

    def sample(self, ids: Tensor, count: int, generator: Any, end: int | Sequence[int] | None = None) -> Tensor:
        """Token numbers (n, tokens + count) of texts that the model makes up, drawn by its own probabilities.

        Args:
            ids: (n, tokens) beginnings without padding.
            count: tokens to draw.
            generator: a CPU generator; None takes the most likely token each time.
            end: tokens behind which nothing is said, one or several (`turns.ends_of`), None if there is none; rows are
                filled up with the first.

        Raises:
            Unsupported: this host cannot draw texts.
        """
        raise Unsupported("this language model draws no texts on this host")
