"""What a closed-form edit keeps so that it can be solved again: rows of erased and kept phrases, as exact sums.

With these, adding, merging and revoking give the joint solution without the base model or its text encoder.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from erase_plugins.artifacts.ledger import from_ledger, gram, gram_sum
from erase_plugins.errors import ArtifactError
from erase_plugins.hints import Hint


@dataclass(frozen=True, eq=False)
class Member:
    """One erased concept: its rows C, what they become S, and the scale e.

    Attributes:
        concept: text of the concept.
        rows: (n, d) float32; None in a file of very many concepts, which keeps their sums only.
        guides: (n, d) float32, or None with ``rows``.
        weight: erase scale.
        near: kept-vocabulary words that were left out because they mean the same or are never kept next to its kind.
        facts: guide, aliases and other JSON-ready facts.
        extra: further tensors of the concept that its method solves with; kept in every file.
    """

    concept: str
    rows: Tensor | None
    guides: Tensor | None
    weight: float
    near: tuple[str, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)
    extra: Mapping[str, Tensor] = field(default_factory=dict)

    def same(self, other: Member) -> bool:
        """Whether another one is the same concept, moved to the same."""
        if None in (self.rows, self.guides, other.rows, other.guides):
            return (self.weight, dict(self.facts)) == (other.weight, dict(other.facts))
        pairs = zip(self.pair(), other.pair(), strict=True)
        return self.weight == other.weight and all(torch.equal(mine, theirs) for mine, theirs in pairs)

    def grams(self) -> tuple[Tensor, Tensor]:
        """Ledger contributions to G = e C^T C and X = e S^T C."""
        rows, guides = self.pair()
        return gram(rows, self.weight), gram(rows, self.weight, guides)

    def at(self, strength: float) -> Member:
        """The same concept moved only ``strength`` of the way to its guide; itself at 1."""
        if strength == 1.0:
            return self
        rows, guides = self.pair()
        facts = {**self.facts, "strength": strength * float(self.facts.get("strength", 1.0))}
        return replace(self, guides=rows + strength * (guides - rows), facts=facts)

    def pair(self) -> tuple[Tensor, Tensor]:
        """Rows and guides.

        Raises:
            ArtifactError: the file keeps none.
        """
        if self.rows is None or self.guides is None:
            raise ArtifactError(
                f"the file keeps no rows of '{self.concept}'; ", Hint("model", before="give the base model with")
            )
        return self.rows, self.guides


@dataclass(frozen=True, eq=False)
class Statistics:
    """Everything a closed-form solve needs.

    Attributes:
        width: row size d.
        members: erased concepts by text.
        keep: prompt -> rows (n, d) that must stay, each prompt with weight `keep_weight`; None where the file keeps
            only their sum.
        keep_weight: p of the named prompts.
        solver: settings that decide the solution (method id and its solver options).
        block: (d, d) int64 ledger sum of the shared vocabulary, weight included; None without.
        block_facts: which vocabulary ("hash", words, weight); equal facts mean the same block.
        left_out: vocabulary word -> rows that are taken out of the block.
        sigma: (d, d) sum of W^T W where the method needs it.
        sums: ledger sums G and X of all members; formed from their rows if None.
        kept_sum: ledger sum H of all kept rows; formed from block, words left out and prompts if None.
        revoked: entries of ``keep`` that were members once; some methods hold them harder than other prompts.
    """

    width: int
    members: Mapping[str, Member]
    keep: Mapping[str, Tensor | None]
    keep_weight: float
    solver: Mapping[str, Any]
    block: Tensor | None = None
    block_facts: Mapping[str, Any] = field(default_factory=dict)
    left_out: Mapping[str, Tensor] = field(default_factory=dict)
    sigma: Tensor | None = None
    sums: tuple[Tensor, Tensor] | None = None
    kept_sum: Tensor | None = None
    revoked: tuple[str, ...] = ()

    @cached_property
    def ledgers(self) -> tuple[Tensor, Tensor]:
        """G and X of all members as int64 ledgers."""
        if self.sums is not None:
            return self.sums
        G = torch.zeros(self.width, self.width, dtype=torch.int64)
        X = torch.zeros_like(G)
        weights = sorted({member.weight for member in self.members.values()})
        for weight in weights:
            pairs = [member.pair() for member in self.members.values() if member.weight == weight]
            G += gram_sum(((rows, None) for rows, _ in pairs), weight)
            X += gram_sum(pairs, weight)
        return G, X

    def erased_grams(self) -> tuple[Tensor, Tensor]:
        """G and X of all members, float64."""
        G, X = self.ledgers
        return from_ledger(G), from_ledger(X)

    @property
    def kept_rows(self) -> Tensor | None:
        """All kept rows (m, d), each with weight ``keep_weight``; None where only their sum is known."""
        rows = [part for part in self.keep.values() if part is not None]
        known = self.block is None and self.kept_sum is None and len(rows) == len(self.keep)
        return torch.cat(rows) if known and rows else None

    @cached_property
    def kept_ledger(self) -> Tensor:
        """H of all kept rows as an int64 ledger: vocabulary less the words left out, plus the named prompts."""
        if self.kept_sum is not None:
            return self.kept_sum
        H = torch.zeros(self.width, self.width, dtype=torch.int64) if self.block is None else self.block.clone()
        return H + self._kept_change({}, {}, self.keep, self.left_out)

    def kept_gram(self, times: int = 1) -> Tensor:
        """H of all kept rows, float64; with a vocabulary they count ``times`` over, without as the papers have it."""
        return from_ledger(self.kept_ledger * (1 if self.block is None else times))

    def _kept_change(
        self,
        old_keep: Mapping[str, Tensor | None],
        old_left_out: Mapping[str, Tensor],
        keep: Mapping[str, Tensor | None],
        left_out: Mapping[str, Tensor],
    ) -> Tensor:
        """How H changes when named prompts and left-out words change; exact."""
        change = torch.zeros(self.width, self.width, dtype=torch.int64)
        word_weight = float(self.block_facts.get("weight", 0.0))
        sides: list[tuple[int, float, Mapping[str, Tensor | None], Mapping[str, Tensor | None]]] = [
            (1, self.keep_weight, keep, old_keep),
            (-1, self.keep_weight, old_keep, keep),
            (-1, word_weight, left_out, old_left_out),
            (1, word_weight, old_left_out, left_out),
        ]
        for sign, weight, table, other in sides:
            names = [name for name in table if name not in other]
            missing = [name for name in names if table[name] is None]
            if missing:
                raise ArtifactError(f"the file keeps no rows of the kept prompt '{missing[0]}'; run the method again")
            rows = [table[name] for name in names]
            if rows and weight:
                change += sign * gram_sum(((part, None) for part in rows if part is not None), weight)
        return change

    def _changed(
        self, members: dict[str, Member], keep: dict[str, Any], left_out: dict[str, Tensor], G: Tensor, X: Tensor
    ) -> Statistics:
        H = self.kept_ledger + self._kept_change(self.keep, self.left_out, keep, left_out)
        ordered = {name: members[name] for name in sorted(members)}
        revoked = tuple(name for name in self.revoked if name in keep)
        return replace(self, members=ordered, keep=keep, left_out=left_out, sums=(G, X), kept_sum=H, revoked=revoked)

    # ---- algebra -----------------------------------------------------------------------------------------------

    def without(self, concepts: Iterable[str], keep_them: bool) -> Statistics:
        """The statistics after revoking concepts: their sums are taken out exactly.

        Args:
            concepts: texts of members.
            keep_them: move their rows into the kept rows, so that the others do not disturb them.

        Raises:
            ArtifactError: not a member (lists the members), without rows, or nothing would remain.
        """
        gone = sorted(set(concepts))
        unknown = [name for name in gone if name not in self.members]
        if unknown:
            close = get_close_matches(unknown[0], self.members, n=3) or sorted(self.members)[:8]
            raise ArtifactError(f"'{unknown[0]}' is not erased by this artifact; erased are {', '.join(close)}")
        members = {name: member for name, member in self.members.items() if name not in gone}
        if not members:
            raise ArtifactError("revoking the last concept would leave nothing; delete the artifact instead")
        G, X = (ledger.clone() for ledger in self.ledgers)
        keep = dict(self.keep)
        for name in gone:
            less_G, less_X = self.members[name].grams()
            G -= less_G
            X -= less_X
            rows = self.members[name].rows
            if keep_them and rows is not None:
                keep[name] = rows
        still_near = {word for member in members.values() for word in member.near}
        left_out = {word: rows for word, rows in self.left_out.items() if word in still_near}
        revoked = tuple(sorted({*self.revoked, *gone})) if keep_them else self.revoked
        return replace(self, revoked=revoked)._changed(members, keep, left_out, G, X)

    def joined(self, others: Sequence[Statistics]) -> Statistics:
        """The statistics of all concepts together; a concept named twice counts once.

        Raises:
            ArtifactError: solver settings, width, keep weight or vocabulary differ; says which.
        """
        members, keep, left_out = dict(self.members), dict(self.keep), dict(self.left_out)
        G, X = (ledger.clone() for ledger in self.ledgers)
        for other in others:
            self._same_settings(other)
            G += other.ledgers[0]
            X += other.ledgers[1]
            for name, member in other.members.items():
                if name in members:
                    less_G, less_X = member.grams()
                    G -= less_G
                    X -= less_X
                else:
                    members[name] = member
            keep.update(other.keep)
            left_out.update(other.left_out)
        keep = {prompt: rows for prompt, rows in keep.items() if prompt not in members}
        revoked = tuple(sorted({name for part in (self, *others) for name in part.revoked}))
        return replace(self, revoked=revoked)._changed(members, keep, left_out, G, X)

    def at(self, strength: float) -> Statistics:
        """The statistics with all members moved only ``strength`` of the way to their guides; themselves at 1.

        Raises:
            ArtifactError: the file keeps no rows of a member.
        """
        if strength == 1.0:
            return self
        members = {name: member.at(strength) for name, member in self.members.items()}
        return replace(self, members=members, sums=None)

    def with_rows(self, members: Mapping[str, Member]) -> Statistics:
        """The statistics with rows put back for some members (encoded again from the base model)."""
        return replace(self, members={**self.members, **members}, sums=self.ledgers)

    @property
    def settings(self) -> dict[str, Any]:
        """What must agree for a joint solution, as JSON values that can be compared."""
        names = ("width", "keep_weight", "solver", "block_facts")
        return {name: json.loads(json.dumps(getattr(self, name), default=dict)) for name in names}

    def _same_settings(self, other: Statistics) -> None:
        for name, mine in self.settings.items():
            theirs = other.settings[name]
            if mine != theirs:
                raise ArtifactError(
                    f"these artifacts cannot be solved jointly: {name} is {mine} and {theirs}; use mode 'sum'"
                )
