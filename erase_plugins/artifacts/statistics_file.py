"""Closed-form statistics <-> tensors and a JSON description, as they lie in our patch file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from erase_plugins.artifacts.ledger import pack, unpack
from erase_plugins.artifacts.squeezed import squeeze, squeeze_directions, stretch, stretch_directions
from erase_plugins.artifacts.statistics import Member, Statistics
from erase_plugins.errors import CorruptArtifact

#: 2 where sums are squeezed and equal guides stored once: files of `MANY` concepts and more
SCHEMA = 2
#: a file keeps single rows up to this many bytes (each for erased and for kept rows); beyond that, sums only
KEPT_BYTES = 32_000_000
#: from this many concepts on a file is as small as it can be without losing anything
MANY = 100
#: bytes of erased rows and guides that a file of so many concepts keeps
MANY_BYTES = 3_200_000
#: what is squeezed: lower triangles, and their types
_PACKED = {"G": torch.int64, "H": torch.int64, "kept": torch.int64, "sigma": torch.float64}
_DIRECTIONS = ("left", "right", "rest")


def statistics_to_tensors(statistics: Statistics) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and JSON-ready description; inverse of `statistics_from_tensors`."""
    members = [statistics.members[name] for name in sorted(statistics.members)]
    tensors: dict[str, Tensor] = {}
    many = len(members) >= MANY
    pairs = [(item.rows, item.guides) for item in members if item.rows is not None and item.guides is not None]
    known = len(pairs) == len(members)
    if known and many and 4 * sum(rows.numel() for rows, _ in pairs) <= MANY_BYTES:
        guides, index = torch.unique(torch.cat([guides for _, guides in pairs]), dim=0, return_inverse=True)
        known = 4 * (sum(rows.numel() for rows, _ in pairs) + guides.numel()) <= MANY_BYTES
        if known:
            tensors |= {"C": torch.cat([rows for rows, _ in pairs]), "S": guides, "S.index": index.to(torch.int32)}
    elif known and not many and sum(8 * rows.numel() for rows, _ in pairs) <= KEPT_BYTES:
        tensors["C"] = torch.cat([rows for rows, _ in pairs])
        tensors["S"] = torch.cat([guides for _, guides in pairs])
    if "C" not in tensors:
        tensors["G"], tensors["X"] = pack(statistics.ledgers[0]), statistics.ledgers[1]
    kept = [statistics.keep[key] for key in sorted(statistics.keep)]
    rows = [part for part in kept if part is not None]
    if len(rows) == len(kept) and sum(4 * part.numel() for part in rows) <= KEPT_BYTES:
        if rows:
            tensors["K"] = torch.cat(rows)
    else:
        tensors["kept"] = pack(statistics.kept_ledger)
    if statistics.left_out:
        tensors["L"] = torch.cat([statistics.left_out[key] for key in sorted(statistics.left_out)])
    if statistics.block is not None:
        tensors["H"] = pack(statistics.block)
    if statistics.sigma is not None:
        tensors["sigma"] = pack(statistics.sigma)
    for place, item in enumerate(members):
        tensors |= {f"member.{place}.{name}": part for name, part in item.extra.items()}
    facts = {
        "schema": SCHEMA if many else 1,
        "width": statistics.width,
        "keep_weight": statistics.keep_weight,
        "solver": dict(statistics.solver),
        "block": dict(statistics.block_facts),
        "members": [_member_facts(item, "C" in tensors) for item in members],
        "keep": [[key, 0 if "kept" in tensors else _count(statistics.keep[key])] for key in sorted(statistics.keep)],
        "left_out": [[key, len(statistics.left_out[key])] for key in sorted(statistics.left_out)],
    }  # fmt: skip
    if statistics.revoked:
        facts["revoked"] = list(statistics.revoked)
    return _squeezed(tensors) if many else tensors, facts


def _squeezed(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Sums in fewer bytes; of the guides' sum, which has few directions where guides are few, those and the rest."""
    found: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if name == "X":
            found |= {f"X.{part}": value for part, value in squeeze_directions(tensor).items()}
        else:
            found[name] = squeeze(tensor) if name in _PACKED else tensor
    return found


def _unsqueezed(tensors: Mapping[str, Tensor], width: int) -> dict[str, Tensor]:
    """Inverse of `_squeezed`, with one guide for each row again."""
    half = (width * (width + 1) // 2,)
    found = {
        name: stretch(tensor, half, _PACKED[name]) if name in _PACKED else tensor for name, tensor in tensors.items()
    }
    if "X.rest" in found:
        found["X"] = stretch_directions({part: found.pop(f"X.{part}") for part in _DIRECTIONS}, (width, width))
    if "S.index" in found:
        index = found.pop("S.index").long()
        if index.numel() and not 0 <= int(index.min()) <= int(index.max()) < len(found["S"]):
            raise CorruptArtifact("the guides of the closed-form statistics are damaged; fetch the artifact again")
        found["S"] = found["S"][index]
    return found


def statistics_from_tensors(tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> Statistics:
    """Statistics read back from an edit.

    Raises:
        CorruptArtifact: tensors and description do not agree.
    """
    try:
        if int(facts["schema"]) > SCHEMA:
            raise CorruptArtifact(f"statistics have schema {facts['schema']}; update erase-plugins")
        width = int(facts["width"])
        if int(facts["schema"]) > 1:
            tensors = _unsqueezed(tensors, width)
        entries = facts["members"]
        sizes = [int(item["n"]) for item in entries]
        stored = "C" in tensors
        rows: Sequence[Tensor | None] = _split(tensors, "C", sizes, width) if stored else [None] * len(sizes)
        guides: Sequence[Tensor | None] = _split(tensors, "S", sizes, width) if stored else [None] * len(sizes)
        sums = None if stored else (_square(unpack(tensors["G"], width), width), _square(tensors["X"], width))
        members = {
            str(item["concept"]): Member(
                str(item["concept"]),
                one,
                other,
                float(item["weight"]),
                tuple(item["near"]),
                dict(item["facts"]),
                _extra(tensors, place),
            )
            for place, (item, one, other) in enumerate(zip(entries, rows, guides, strict=True))
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
        return Statistics(
            width, members, keep, float(facts["keep_weight"]), dict(facts["solver"]), block, dict(facts["block"]),
            left_out, sigma, sums, kept, tuple(str(name) for name in facts.get("revoked", ())),
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
    return list(torch.split(whole, list(sizes)))


def _extra(tensors: Mapping[str, Tensor], place: int) -> dict[str, Tensor]:
    """Tensors of one member that its method stored."""
    start = f"member.{place}."
    return {name.removeprefix(start): part for name, part in tensors.items() if name.startswith(start)}


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
