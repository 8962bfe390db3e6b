"""What a closed-form edit keeps so that it can be solved again: rows of erased and kept phrases, as exact sums.

With these, adding, merging and revoking give the joint solution without the base model or its text encoder.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from erase_plugins.artifacts.ledger import from_ledger, gram, gram_sum, pack, unpack
from erase_plugins.errors import ArtifactError, CorruptArtifact

SCHEMA = 1
#: a file keeps single rows up to this many bytes (each for erased and for kept rows); beyond that, sums only
KEPT_BYTES = 32_000_000


@dataclass(frozen=True, eq=False)
class Member:
    """One erased concept: its rows C, what they become S, and the scale e.

    Attributes:
        concept: text of the concept.
        rows: (n, d) float32; None in a file of very many concepts, which keeps their sums only.
        guides: (n, d) float32, or None with ``rows``.
        weight: erase scale.
        near: kept-vocabulary words that were left out because they mean the same.
        facts: guide, aliases and other JSON-ready facts.
    """

    concept: str
    rows: Tensor | None
    guides: Tensor | None
    weight: float
    near: tuple[str, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)

    def grams(self) -> tuple[Tensor, Tensor]:
        """Ledger contributions to G = e C^T C and X = e S^T C."""
        rows, guides = self.pair()
        return gram(rows, self.weight), gram(rows, self.weight, guides)

    def pair(self) -> tuple[Tensor, Tensor]:
        """Rows and guides.

        Raises:
            ArtifactError: the file keeps none.
        """
        if self.rows is None or self.guides is None:
            raise ArtifactError(f"the file keeps no rows of '{self.concept}'; give the base model with --model")
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

    @cached_property
    def kept_ledger(self) -> Tensor:
        """H of all kept rows as an int64 ledger: vocabulary less the words left out, plus the named prompts."""
        if self.kept_sum is not None:
            return self.kept_sum
        H = torch.zeros(self.width, self.width, dtype=torch.int64) if self.block is None else self.block.clone()
        return H + self._kept_change({}, {}, self.keep, self.left_out)

    def kept_gram(self) -> Tensor:
        """H of all kept rows, float64."""
        return from_ledger(self.kept_ledger)

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
        return replace(self, members=ordered, keep=keep, left_out=left_out, sums=(G, X), kept_sum=H)

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
        return self._changed(members, keep, left_out, G, X)

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
        return self._changed(members, keep, left_out, G, X)

    def with_rows(self, members: Mapping[str, Member]) -> Statistics:
        """The statistics with rows put back for some members (encoded again from the base model)."""
        return replace(self, members={**self.members, **members}, sums=self.ledgers)

    def _same_settings(self, other: Statistics) -> None:
        for name in ("width", "keep_weight", "solver", "block_facts"):
            mine, theirs = getattr(self, name), getattr(other, name)
            if _json_like(mine) != _json_like(theirs):
                raise ArtifactError(
                    f"these artifacts cannot be solved jointly: {name} is {mine} and {theirs}; use mode 'sum'"
                )

    # ---- storage -----------------------------------------------------------------------------------------------

    def to_tensors(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Tensors and JSON-ready description; inverse of `from_tensors`."""
        members = [self.members[name] for name in sorted(self.members)]
        tensors: dict[str, Tensor] = {}
        pairs = [(item.rows, item.guides) for item in members if item.rows is not None and item.guides is not None]
        if len(pairs) == len(members) and sum(8 * rows.numel() for rows, _ in pairs) <= KEPT_BYTES:
            tensors["C"] = torch.cat([rows for rows, _ in pairs])
            tensors["S"] = torch.cat([guides for _, guides in pairs])
        else:
            tensors["G"], tensors["X"] = pack(self.ledgers[0]), self.ledgers[1]
        kept = [self.keep[key] for key in sorted(self.keep)]
        rows = [part for part in kept if part is not None]
        if len(rows) == len(kept) and sum(4 * part.numel() for part in rows) <= KEPT_BYTES:
            if rows:
                tensors["K"] = torch.cat(rows)
        else:
            tensors["kept"] = pack(self.kept_ledger)
        if self.left_out:
            tensors["L"] = torch.cat([self.left_out[key] for key in sorted(self.left_out)])
        if self.block is not None:
            tensors["H"] = pack(self.block)
        if self.sigma is not None:
            tensors["sigma"] = pack(self.sigma)
        facts = {
            "schema": SCHEMA,
            "width": self.width,
            "keep_weight": self.keep_weight,
            "solver": dict(self.solver),
            "block": dict(self.block_facts),
            "members": [_member_facts(item, "C" in tensors) for item in members],
            "keep": [[key, 0 if "kept" in tensors else _count(self.keep[key])] for key in sorted(self.keep)],
            "left_out": [[key, len(self.left_out[key])] for key in sorted(self.left_out)],
        }  # fmt: skip
        return tensors, facts

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> Statistics:
        """Statistics read back from an edit.

        Raises:
            CorruptArtifact: tensors and description do not agree.
        """
        try:
            if int(facts["schema"]) > SCHEMA:
                raise CorruptArtifact(f"statistics have schema {facts['schema']}; update erase-plugins")
            width = int(facts["width"])
            entries = facts["members"]
            sizes = [int(item["n"]) for item in entries]
            stored = "C" in tensors
            rows: Sequence[Tensor | None] = _split(tensors, "C", sizes, width) if stored else [None] * len(sizes)
            guides: Sequence[Tensor | None] = _split(tensors, "S", sizes, width) if stored else [None] * len(sizes)
            sums = None if stored else (_square(unpack(tensors["G"], width), width), _square(tensors["X"], width))
            members = {
                str(item["concept"]): Member(
                    str(item["concept"]), one, other, float(item["weight"]), tuple(item["near"]), dict(item["facts"])
                )
                for item, one, other in zip(entries, rows, guides, strict=True)
            }
            kept = None if "kept" not in tensors else _square(unpack(tensors["kept"], width), width)
            keep_rows: Sequence[Tensor | None] = (
                _split(tensors, "K", [int(size) for _, size in facts["keep"]], width)
                if kept is None
                else [None] * len(facts["keep"])
            )
            keep = {str(prompt): part for (prompt, _), part in zip(facts["keep"], keep_rows, strict=True)}
            words = _split(tensors, "L", [int(size) for _, size in facts["left_out"]], width)
            left_out = {str(word): part for (word, _), part in zip(facts["left_out"], words, strict=True)}
            block = _square(unpack(tensors["H"], width), width) if "H" in tensors else None
            sigma = unpack(tensors["sigma"], width) if "sigma" in tensors else None
            return cls(
                width, members, keep, float(facts["keep_weight"]), dict(facts["solver"]), block, dict(facts["block"]),
                left_out, sigma, sums, kept,
            )  # fmt: skip
        except (KeyError, TypeError, ValueError, IndexError, RuntimeError) as error:
            raise CorruptArtifact("the closed-form statistics are damaged; fetch the artifact again") from error


def _split(tensors: Mapping[str, Tensor], name: str, sizes: Sequence[int], width: int) -> list[Tensor]:
    if not sizes:
        return []
    whole = tensors[name]
    if whole.ndim != 2 or whole.shape != (sum(sizes), width) or min(sizes) < 0:
        raise CorruptArtifact(
            f"statistics tensor {name} has shape {tuple(whole.shape)}, expected {(sum(sizes), width)}"
        )
    return list(whole.split(list(sizes)))


def _count(rows: Tensor | None) -> int:
    return 0 if rows is None else len(rows)


def _member_facts(member: Member, with_rows: bool) -> dict[str, Any]:
    count = len(member.rows) if with_rows and member.rows is not None else 0
    near = list(member.near)
    return {"concept": member.concept, "n": count, "weight": member.weight, "near": near, "facts": dict(member.facts)}


def _square(matrix: Tensor, width: int) -> Tensor:
    if matrix.shape != (width, width) or matrix.dtype != torch.int64:
        raise CorruptArtifact(f"a statistics ledger has shape {tuple(matrix.shape)} and type {matrix.dtype}")
    return matrix


def _json_like(value: Any) -> Any:
    import json

    return json.loads(json.dumps(value, sort_keys=True, default=str)) if isinstance(value, Mapping) else value
