"""Gated edits: low-rank changes whose strength depends on the prompt (SPM's facilitated transport, arXiv 2312.16145).

A component carries one add-on of type "gate" at key `GATE` and add-ons of type "gated_lowrank" at module paths:
y + sum_r g_i(r) up_r (down_r x), where i(r) is the gate of rank direction r. Several edits stack as sum_i g_i U_i D_i.

Weights of a gate: ``embeddings`` (n, tokens, dim). Its config, one entry of every list per embedding:
    measure: "probe" (mean row times a detector row, plus offset) or "cosine" (of flattened embeddings);
    offsets, low, high: the score is mapped linearly from low..high to 0..1;
    gates: number of the gate that the embedding belongs to; a gate is as open as its most open embedding;
    concepts: one text per gate; window: tokens of one encoded prompt;
    names: per gate the phrases that name the concept, a phrase is a list of words, a word a list of token numbers; a
        prompt that is known by its token numbers opens a gate at least as far as the share of a phrase's words in it;
    tokenizer: mark of the vocabulary that numbers the tokens, see `vocabulary_mark`.
Weights of a gated change: ``down`` (r, in[, height, width]), ``up`` (out, r[, 1, 1]); config: gates, one per direction.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from erase_plugins.artifacts.edit import AddOn, Delta, Edit, LowRank
from erase_plugins.errors import ArtifactError, Unsupported
from erase_plugins.plain_text import an

GATE = "gate"
GATED = "gated_lowrank"
#: config entries of a gate with one value per embedding
LISTS = ("offsets", "low", "high", "gates")
#: phrases that name a concept: phrase -> word -> token numbers
Names = Sequence[Sequence[Sequence[int]]]
#: what a file that cannot carry a gate loses
LOSS = "the gate is fixed at 1: the change acts on every prompt in full, so unrelated prompts change more"


def gated(delta: Delta) -> bool:
    """Whether a change is a gate or behind one."""
    return isinstance(delta, AddOn) and delta.type in (GATE, GATED)


def is_gated(edit: Edit) -> bool:
    """Whether every change of the edit is gated."""
    return bool(len(edit)) and all(gated(delta) for _, _, delta in edit.items())


def gate_addon(
    embeddings: Tensor, concepts: Sequence[str], gates: Sequence[int], measure: str, window: int,
    *, low: float, high: float, offsets: Sequence[float] = (), names: Sequence[Names] = (), tokenizer: str = "",
) -> AddOn:  # fmt: skip
    """A gate with the same thresholds for all embeddings.

    Args:
        embeddings: (n, tokens, dim).
        concepts: one text per gate.
        gates: gate of each embedding.
        measure, window, low, high, offsets, names, tokenizer: see the module's text.
    """
    count = len(embeddings)
    config = {
        "measure": measure, "window": window, "concepts": list(concepts), "gates": list(gates),
        "low": [low] * count, "high": [high] * count, "offsets": list(offsets) or [0.0] * count,
    }  # fmt: skip
    if any(names):
        config |= {"names": [[[list(word) for word in phrase] for phrase in item] for item in names]}
        config |= {"tokenizer": tokenizer}
    return AddOn(GATE, {"embeddings": embeddings.float().contiguous()}, config)


def vocabulary_mark(words: Sequence[str]) -> str:
    """Sixteen hexadecimal digits that tell vocabularies apart; ``words`` in the order of their numbers."""
    return hashlib.sha256("\n".join(words).encode()).hexdigest()[:16]


def gated_lowrank(change: LowRank, gates: Sequence[int]) -> AddOn:
    """A gated form of a low-rank change; ``gates`` has one entry per rank direction."""
    return AddOn(GATED, {"down": change.A, "up": change.B}, {"gates": list(gates)})


def gate_list(delta: AddOn) -> list[int]:
    """Gate of every rank direction (or of every embedding) of an add-on; gate 0 where the config does not say."""
    return list(delta.config.get("gates") or [0] * next(iter(delta.weights.values())).shape[0])


def gated_product(layer: nn.Module, x: Tensor, down: Tensor, up: Tensor, gates: Tensor) -> Tensor:
    """up (gates * (down x)) by the layer's own operation.

    Args:
        layer: linear layer or convolution whose stride and padding are used.
        x: its input (batch, ..., in) or (batch, in, height, width).
        down, up: factors.
        gates: (batch, r).
    """
    if isinstance(layer, nn.Conv2d):
        if down.ndim == 2:
            down, up = down[:, :, None, None], up[:, :, None, None]
        inner = functional.conv2d(x, down, None, layer.stride, layer.padding, layer.dilation)
        return functional.conv2d(inner * gates.to(inner.dtype)[:, :, None, None], up)
    inner = functional.linear(x, down.flatten(1))
    shape = (len(gates), *[1] * (inner.ndim - 2), gates.shape[1])
    return functional.linear(inner * gates.to(inner.dtype).reshape(shape), up.flatten(1))


def concepts_of(edit: Edit) -> tuple[str, ...]:
    """Concepts of the gates, in the order of their numbers."""
    found = [delta for _, key, delta in edit.items() if key == GATE and isinstance(delta, AddOn)]
    return tuple(str(text) for text in found[0].config.get("concepts", ())) if found else ()


def plain_lora(edit: Edit) -> Edit:
    """The edit with every gate fixed at 1: gated changes become `LowRank` changes of the module's weight."""
    deltas: dict[str, dict[str, Delta]] = {}
    for component, key, delta in edit.items():
        if not isinstance(delta, AddOn) or delta.type not in (GATE, GATED):
            deltas.setdefault(component, {})[key] = delta
        elif delta.type == GATED:
            strength = float(delta.config.get("strength", 1.0))
            change = LowRank(delta.weights["down"], delta.weights["up"] * strength)
            deltas.setdefault(component, {})[f"{key}.weight"] = change
    return replace(edit, deltas=deltas)


def renumbered(edits: Sequence[Edit]) -> list[Edit]:
    """The edits with gate numbers that do not collide, strengths baked in, ready to be added."""
    found, first = [], 0
    for edit in edits:
        found.append(edit.map(lambda _c, _k, delta, first=first: _shifted(delta, first)))
        first += len(concepts_of(edit))
    return found


def _shifted(delta: Delta, first: int) -> Delta:
    if not isinstance(delta, AddOn) or delta.type not in (GATE, GATED):
        return delta
    config = {name: value for name, value in delta.config.items() if name != "strength"}
    config["gates"] = [number + first for number in gate_list(delta)]
    weights = dict(delta.weights)
    if delta.type == GATED:
        weights["up"] = weights["up"] * float(delta.config.get("strength", 1.0))
    return AddOn(delta.type, weights, config)


def add_gated(first: AddOn, second: AddOn) -> AddOn:
    """Sum of two add-ons of one place, already `renumbered`.

    Raises:
        Unsupported: not gated, or gates that measure in different ways.
    """
    if first.type != second.type or first.type not in (GATE, GATED):
        raise Unsupported(f"{an(first.type)} and {an(second.type)} module at the same place cannot be added")
    config = {**first.config, "gates": gate_list(first) + gate_list(second)}
    if first.type == GATED:
        up = torch.cat([first.weights["up"], second.weights["up"]], dim=1)
        return AddOn(GATED, {"down": torch.cat([first.weights["down"], second.weights["down"]]), "up": up}, config)
    one, two = first.weights["embeddings"], second.weights["embeddings"]
    for name in ("measure", "window"):
        if first.config.get(name) != second.config.get(name) or one.shape[1:] != two.shape[1:]:
            raise Unsupported("the gates measure prompts in different ways; make both with the same gate options")
    lists = {name: [*first.config[name], *second.config[name]] for name in (*LISTS, "concepts") if name != "gates"}
    return AddOn(GATE, {"embeddings": torch.cat([one, two])}, {**config, **lists, **_all_names(first, second)})


def _all_names(first: AddOn, second: AddOn) -> dict[str, Any]:
    """Names of the gates of both; gates without names keep none.

    Raises:
        Unsupported: token numbers of different vocabularies.
    """
    named = [addon.config for addon in (first, second) if addon.config.get("names")]
    if not named:
        return {}
    if len({config.get("tokenizer") for config in named}) > 1:
        raise Unsupported("the gates number tokens by different vocabularies; make both with the same text encoder")
    names = [
        list(item) for addon in (first, second)
        for item in addon.config.get("names") or [[] for _ in addon.config["concepts"]]
    ]  # fmt: skip
    return {"names": names, "tokenizer": named[0].get("tokenizer", "")}


def without(edit: Edit, names: Sequence[str], artifact: str = "artifact") -> Edit:
    """The edit without the gates of some concepts and everything behind them; the others stay bit for bit.

    Raises:
        ArtifactError: not a concept of this edit, or nothing would remain.
    """
    concepts = concepts_of(edit)
    for name in names:
        if name not in concepts:
            raise ArtifactError(f"'{name}' is not erased by '{artifact}'; erased are {', '.join(concepts[:8])}")
    stay = [number for number, text in enumerate(concepts) if text not in names]
    if not stay:
        raise ArtifactError("revoking the last concept would leave nothing; delete the artifact instead")
    places = {old: new for new, old in enumerate(stay)}
    deltas: dict[str, dict[str, Delta]] = {}
    for component, key, delta in edit.items():
        assert isinstance(delta, AddOn)
        rows = [row for row, number in enumerate(gate_list(delta)) if number in places]
        if rows:
            deltas.setdefault(component, {})[key] = _only(delta, rows, places)
    return replace(edit, deltas=deltas)


def _only(delta: AddOn, rows: list[int], places: Mapping[int, int]) -> AddOn:
    numbers = gate_list(delta)
    config: dict[str, Any] = {**delta.config, "gates": [places[numbers[row]] for row in rows]}
    if delta.type == GATED:
        weights = {"down": delta.weights["down"][rows], "up": delta.weights["up"][:, rows]}
        return AddOn(GATED, {name: part.contiguous() for name, part in weights.items()}, config)
    config |= {name: [delta.config[name][row] for row in rows] for name in LISTS if name != "gates"}
    config["concepts"] = [delta.config["concepts"][old] for old in places]
    if config.get("names"):
        config["names"] = [config["names"][old] for old in places]
    return AddOn(GATE, {"embeddings": delta.weights["embeddings"][rows].contiguous()}, config)
