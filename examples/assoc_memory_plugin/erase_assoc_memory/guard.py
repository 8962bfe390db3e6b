"""The prompt guard: stored concepts, and whether a prompt comes near one of them. Advisory; it edits no weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from erase_assoc_memory.coding import Coder, Rows
from erase_assoc_memory.learning import learn_majority
from erase_assoc_memory.memory import CliqueMemory, Codes
from erase_plugins.errors import RequestError


class Encoder(Protocol):
    """Turns text into rows of embeddings. ``id`` names it in files; another one gives unrelated codes."""

    id: str
    tau: float

    def rows(self, text: str) -> Rows:
        """Rows of a prompt, (n, dim); the guard takes the most suspicious one."""

    def concept(self, text: str) -> Rows:
        """Rows that stand for a concept, (n, dim): one, or several phrasings to learn from."""

    def ordinary(self) -> tuple[Rows, Rows | None]:
        """Mean row of ordinary text (dim,), and directions to take out of every row (k, dim)."""


@dataclass(frozen=True)
class GuardResult:
    """What the guard says of a prompt. ``label`` is the concept, empty without a table of names or if clear."""

    flagged: bool
    label: str
    clique: float
    overlap: float
    rounds: int

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form."""
        return dict(vars(self))


CLEAR = GuardResult(False, "", 0.0, 0.0, 0)


class Guard:
    """Concepts in an associative memory.

    Args:
        encoder_id: of the encoder that every text must come from.
        coder: embeddings to codes.
        memory: where they are stored.
        tau: share of a code's symbols that a prompt must have; calibrate it on ordinary prompts.
        clique_min: share of the connections that must be there.
    """

    def __init__(self, encoder_id: str, coder: Coder, memory: CliqueMemory, tau: float = 0.4, clique_min: float = 0.9):
        for name, value in (("tau", tau), ("clique_min", clique_min)):
            if not 0 < value <= 1:
                raise RequestError(f"{name} {value!r}: a share above 0 and up to 1 is needed")
        if (coder.clusters, coder.letters) != (memory.clusters, memory.letters):
            raise RequestError("coder and memory have different shapes")
        self.encoder_id, self.coder, self.memory, self.tau, self.clique_min = encoder_id, coder, memory, tau, clique_min
        self.labels: dict[bytes, str] = {}

    @classmethod
    def new(cls, encoder: Encoder, clusters: int = 32, letters: int = 32, seed: int = 0) -> Guard:
        """An empty guard for an encoder, with the encoder's own first threshold."""
        coder = Coder(*encoder.ordinary(), clusters, letters, seed)
        return cls(encoder.id, coder, CliqueMemory(clusters, letters), encoder.tau)

    # ---- concepts ----------------------------------------------------------------------------------------------

    def code(self, encoder: Encoder, concept: str) -> Codes:
        """The code of a concept, (c,): that of its row, or what most of its phrasings agree on."""
        self._same(encoder)
        codes = self.coder.codes(encoder.concept(concept))
        return _majority(codes, self.coder.letters)

    def add(self, encoder: Encoder, concept: str) -> None:
        """Stores a concept.

        Raises:
            RequestError: stored already, the same code under another name, or the memory is full.
        """
        label = concept.strip()
        if not label:
            raise RequestError("a concept to guard is empty; give it a name")
        if label.lower() in {known.lower() for known in self.labels.values()}:
            raise RequestError(f"'{label}' is stored already")
        code = self.code(encoder, label)
        other = self.labels.get(_key(code))
        if other is not None:
            raise RequestError(f"'{label}' has the same code as '{other}'; one of them guards both")
        self.memory.store(code)
        self.labels[_key(code)] = label

    def learn(self, encoder: Encoder, concept: str, presentations: Rows, erased: float = 0.4) -> None:
        """Stores what noisy examples of a concept have in common: rows (T, dim), consolidated by majority.

        Args:
            erased: share of a code's symbols that an example misses; .4 is that of examples of cosine .9.

        Raises:
            RequestError: as `add`; nothing in common.
        """
        self._same(encoder)
        seen = self.memory.one_hot(self.coder.codes(presentations))
        code = _majority(self.coder.codes(presentations), self.coder.letters)
        if _key(code) in self.labels:
            raise RequestError(f"'{concept}' has the same code as '{self.labels[_key(code)]}'; one of them guards both")
        trial = CliqueMemory(self.memory.clusters, self.memory.letters, False, 1.0)
        learn_majority(trial, seen, erased)
        if trial.links[trial.edges(code)].mean() < 0.5:
            raise RequestError(
                f"{len(seen)} examples of '{concept}' have too little in common; give more or closer ones"
            )
        self.memory.store(code)
        self.labels[_key(code)] = concept.strip()

    def forget(self, encoder: Encoder, concept: str, anti: bool = False) -> None:
        """Takes a concept back: bit for bit as if never stored, or by cutting its connections (``anti``).

        Raises:
            RequestError: not stored, or no counts are kept and ``anti`` is not set.
        """
        code = self._stored(concept)
        code = self.code(encoder, concept) if code is None else code
        if anti:
            self.memory.cut(code)
        else:
            self.memory.forget(code)
        self.labels.pop(_key(code), None)

    def _stored(self, concept: str) -> Codes | None:
        for key, label in self.labels.items():
            if label.lower() == concept.strip().lower():
                return np.frombuffer(key, np.uint16).astype(np.int64)
        return None

    def _same(self, encoder: Encoder) -> None:
        if encoder.id != self.encoder_id:
            raise RequestError(f"this guard was made with encoder '{self.encoder_id}', not '{encoder.id}'")

    # ---- prompts -----------------------------------------------------------------------------------------------

    def check(self, encoder: Encoder, prompts: Sequence[str]) -> list[GuardResult]:
        """What the guard says of each prompt."""
        self._same(encoder)
        return self.check_rows([encoder.rows(prompt) for prompt in prompts])

    def check_rows(self, groups: Sequence[Rows]) -> list[GuardResult]:
        """The same for rows of embeddings, one group (n, dim) per prompt."""
        numbers: dict[bytes, int] = {}  # prompts share most of their words: every different row is coded once
        found = [
            [numbers.setdefault(row.tobytes(), len(numbers)) for row in np.asarray(rows, np.float32)] for rows in groups
        ]
        if not numbers or not self.memory.links.any():
            return [CLEAR] * len(groups)
        different = np.stack([np.frombuffer(row, np.float32) for row in numbers])
        recall = self.memory.recall(self.memory.one_hot(self.coder.codes(different)))
        flagged = (recall.clique >= self.clique_min) & (recall.overlap >= self.tau)
        return [
            self._worst(recall.codes[part], recall.clique[part], recall.overlap[part], flagged[part], recall.rounds)
            for part in found
        ]

    def _worst(
        self,
        codes: Codes,
        clique: NDArray[np.float64],
        overlap: NDArray[np.float64],
        flagged: NDArray[np.bool_],
        rounds: int,
    ) -> GuardResult:
        if not len(codes):
            return CLEAR
        best = int(np.lexsort((overlap, flagged))[-1])
        # the recalled name is told only if the prompt passed: recall always lands somewhere
        label = self.labels.get(_key(codes[best]), "") if flagged[best] else ""
        return GuardResult(bool(flagged[best]), label, float(clique[best]), float(overlap[best]), rounds)

    def calibrate(self, encoder: Encoder, prompts: Sequence[str], rate: float = 0.01) -> float:
        """Sets tau so that at most a share ``rate`` of ordinary prompts is flagged; returns it.

        Raises:
            RequestError: too few prompts to see such a rate.
        """
        if not 0 < rate < 1 or len(prompts) * rate < 1:
            raise RequestError(
                f"{len(prompts)} prompts cannot show a rate of {rate:g}; at least 1 / rate of them are needed"
            )
        before, self.tau = self.tau, 1e-9
        scores = np.sort([result.overlap if result.flagged else 0.0 for result in self.check(encoder, prompts)])
        allowed = int(np.floor(rate * len(prompts)))
        step = 1.0 / self.memory.clusters
        self.tau = min(max(float(scores[-1 - allowed]) + step / 2, step / 2), 1.0)
        if self.tau > 1.0 - step / 2:
            self.tau = before
            raise RequestError(
                f"more than {rate:.2%} of the prompts hold a stored concept exactly; they are not ordinary"
            )
        return self.tau


def _majority(codes: Codes, letters: int) -> Codes:
    """Per cluster the most frequent symbol, the smaller one on ties."""
    counts = np.zeros((codes.shape[1], letters), np.int64)
    for code in codes:
        counts[np.arange(len(code)), code] += 1
    return counts.argmax(1)


def _key(code: Codes) -> bytes:
    return np.asarray(code, np.uint16).tobytes()
