"""From embeddings to codes: random projections, the strongest letter of each cluster; an encoder without a model."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
from numpy.typing import NDArray

from erase_assoc_memory.memory import Codes
from erase_plugins.errors import RequestError

Rows = NDArray[np.float32]
#: below this length nothing of an embedding is left after centring
_EMPTY = 1e-6


@dataclass(frozen=True)
class Coder:
    """Codes of embeddings: e - mean, normalised, projected; the symbol of a cluster is its largest projection.

    Two embeddings of cosine s agree in a cluster of 16 letters with chance 1 / .71 / .47 / .24 / .06 for s = 1 / .95 /
    .8 / .5 / 0. Without centring every prompt is alike and everything would be flagged.

    Attributes:
        mean: (dim,) mean embedding of ordinary text.
        common: (k, dim) orthonormal directions in which ordinary text differs most; they are taken out as well (Mu and
            Viswanath, All-but-the-top, 2018). A text encoder spends most of a row on them whatever the words mean.
        clusters, letters: shape of the codes.
        seed: of the projection.
    """

    mean: Rows
    common: Rows | None = None
    clusters: int = 32
    letters: int = 32
    seed: int = 0

    def __post_init__(self) -> None:
        if self.mean.ndim != 1 or not np.isfinite(self.mean).all():
            raise RequestError(f"the mean embedding has shape {self.mean.shape} or holds NaN; one finite row is needed")
        if self.common is not None and (self.common.ndim != 2 or self.common.shape[1] != len(self.mean)):
            raise RequestError(f"common directions of shape {self.common.shape} do not fit {len(self.mean)} columns")

    @cached_property
    def projection(self) -> Rows:
        """(c l, dim). RandomState, not default_rng: its stream is frozen, and files must be readable for good."""
        drawn = np.random.RandomState(self.seed).standard_normal((self.clusters * self.letters, len(self.mean)))
        return drawn.astype(np.float32)

    def centred(self, embeddings: Rows) -> Rows:
        """Embeddings (n, dim) without the mean, of length 1.

        Raises:
            RequestError: another width, NaN, or nothing left after centring (an empty prompt).
        """
        rows = np.asarray(embeddings, np.float32)
        if rows.ndim != 2 or rows.shape[1] != len(self.mean):
            raise RequestError(
                f"embeddings of shape {rows.shape} do not fit this guard; {len(self.mean)} columns are needed"
            )
        if not np.isfinite(rows).all():
            raise RequestError("an embedding holds NaN or infinity; nothing was changed")
        rows = np.asarray(rows - self.mean, np.float32)
        if self.common is not None:
            rows = np.asarray(rows - (rows @ self.common.T) @ self.common, np.float32)
        length = np.linalg.norm(rows, axis=1, keepdims=True)
        if (length < _EMPTY).any():
            raise RequestError(
                "an embedding equals the mean of ordinary text (an empty prompt?); there is nothing to code"
            )
        return np.asarray(rows / length, np.float32)

    def codes(self, embeddings: Rows) -> Codes:
        """Codes (n, c) of embeddings (n, dim)."""
        projected = self.centred(embeddings) @ self.projection.T
        return projected.reshape(len(projected), self.clusters, self.letters).argmax(2)


class WindowEncoder:
    """Embeds every window of one to three words of a prompt by itself, so that a name is found inside a long prompt.

    A subclass gives ``id``, ``dim`` and `embed`.
    """

    id: str
    dim: int
    longest = 3
    #: directions that ordinary text shares and that say nothing about its meaning
    directions = 0
    #: share of symbols from which a window is flagged, before a guard is calibrated on the user's own prompts
    tau = 0.4

    def embed(self, windows: Sequence[str]) -> Rows:
        """One row per text, (n, dim) float32."""
        raise NotImplementedError

    def rows(self, text: str) -> Rows:
        """One row per window, (windows, dim); none for a text without letters."""
        words = self.words(text)
        windows = [
            " ".join(words[first : first + length])
            for length in range(1, self.longest + 1)
            for first in range(len(words) - length + 1)
        ]
        return self.embed(windows) if windows else np.zeros((0, self.dim), np.float32)

    def concept(self, text: str) -> Rows:
        """The row that stands for a concept, (1, dim).

        Raises:
            RequestError: no letters, or more words than a window holds.
        """
        words = self.words(text)
        if not words or len(words) > self.longest:
            raise RequestError(f"'{text[:60]}' has {len(words)} words; this guard stores names of 1 to {self.longest}")
        return self.embed([" ".join(words)])

    def ordinary(self) -> tuple[Rows, Rows | None]:
        """Mean row of the windows of ordinary prompts (dim,), and their strongest directions (k, dim)."""
        rows = np.concatenate([self.rows(text) for text in ORDINARY])
        mean = rows.mean(0).astype(np.float32)
        if not self.directions:
            return mean, None
        found = np.linalg.svd(rows - mean, full_matrices=False)[2]
        return mean, np.ascontiguousarray(found[: self.directions], np.float32)

    @staticmethod
    def words(text: str) -> list[str]:
        """Lower-case words; other characters only separate."""
        return "".join(letter if letter.isalnum() else " " for letter in text.lower()).split()


class GramEncoder(WindowEncoder):
    """Text without any model: square roots of counts of character 2- to 4-grams, hashed.

    It finds names and misspelt names, no meanings.
    """

    id = "grams"
    dim = 2048

    def embed(self, windows: Sequence[str]) -> Rows:
        return np.stack([self._row(window) for window in windows])

    @staticmethod
    @lru_cache(maxsize=20_000)
    def _row(window: str) -> Rows:
        counts = np.zeros(GramEncoder.dim, np.float32)
        marked = f"<{window}>"
        for length in (2, 3, 4):
            for first in range(len(marked) - length + 1):
                counts[zlib.crc32(marked[first : first + length].encode()) % GramEncoder.dim] += 1
        return np.sqrt(counts)


#: what prompts look like when nobody means anything by them; only their mean is used
ORDINARY: Sequence[str] = tuple(
    f"{style} of {thing} {place}"
    for style in ("a photo", "a detailed painting", "a small drawing", "an old picture")
    for thing in (
        "a red car",
        "two dogs",
        "an old house",
        "some flowers",
        "a woman",
        "a man",
        "many trees",
        "a cup of tea",
    )
    for place in ("on a table", "in the city", "near the sea", "at night", "in soft light", "under a blue sky")
)
