"""What a language model's hidden states still tell of facts that it forgot, whatever it says at its end.

Both read one state per fact and layer: that of the last token of the question with its answer begun, just before what
the answer turns on.

Logit lens: each layer's state is read off by the model's own last norm and layer. The fact is told where the first
token of the value is among the `TOP` likeliest of any layer (Patil et al. 2023, "Can sensitive information be deleted
from LLMs?", arXiv 2309.17410).

Linear probe: ridge regression from the state to the mean embedding of the value; of the candidates (true and wrong
answers) the one in whose direction it points is chosen. Trained on others' facts and on a third of the forgotten ones,
in both wordings; the layer is chosen on the second third, and the last third is measured, in the wording that was never
learned, by turns.

No classifier of true and false statements: on pocket-lm it is right in 38 % at best where chance is 25 %, before
anything is forgotten. A probe can be taught a little, and a lens finds what is likely of anybody, so both count
against the reference.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from erase_plugins.errors import Unsupported
from erase_plugins.evaluation.language.asking import BATCH
from erase_plugins.evaluation.linear import fitted
from erase_plugins.families.texts import Pair, numbers_of
from erase_plugins.hints import stored

if TYPE_CHECKING:
    from erase_plugins.evaluation.language.probes import Fact, Probes, Row

#: tokens of a layer among which the lens looks for the value
TOP = 5
#: facts to train on, to choose the layer by, and to measure, by turns
PARTS = 3
PROBE, LENS = "probe_key", "lens_key"


@dataclass(frozen=True)
class Read:
    """What was read off facts in one wording.

    Attributes:
        states: (facts, layers, width) float64, each of length 1.
        choices: of each fact (candidates, width) float64, the true one first: how they differ from their mean.
        found: (facts, layers) whether the lens sees the value.
    """

    states: Tensor
    choices: list[Tensor]
    found: Tensor


def hidden_of(model: Any, tokenizer: Any, probes: Probes, seed: int) -> dict[str, Any]:
    """0/1 per forgotten fact for lens and probe, shares by layer under ``layers``, and what has to be said of both.

    Too few facts give no probe, a model that does not show its states gives the reason under ``unread`` alone.
    """
    try:
        return _hidden_of(model, tokenizer, probes, seed)
    except Unsupported as error:
        return {"unread": stored(error)}


def _hidden_of(model: Any, tokenizer: Any, probes: Probes, seed: int) -> dict[str, Any]:
    facts = {name: probes.facts[name] for name in ("forget", "retain")}
    learned, other = (
        {name: read(model, tokenizer, part, [getattr(fact, form) for fact in part]) for name, part in facts.items()}
        for form in ("learned", "other")
    )
    seen = learned["forget"].found
    found: dict[str, Any] = {LENS: seen.any(1).double().tolist(), "layers": {LENS: seen.double().mean(0).tolist()}}
    if len(facts["forget"]) >= PARTS:
        hits, layers = told([learned["retain"], other["retain"]], learned["forget"], other["forget"], seed)
        luck = sum(1 / len(choices) for choices in other["forget"].choices) / len(hits)
        found |= {PROBE: hits, "layers": {**found["layers"], PROBE: layers}, "notes": {PROBE: f"chance is {luck:.0%}"}}
    return found


@torch.no_grad()
def read(model: Any, tokenizer: Any, facts: Sequence[Fact], rows: Sequence[Row]) -> Read:
    """Facts in the words of ``rows``, one each."""
    table = model.language.embeddings()
    asked, first, choices = [], [], []
    for fact, row in zip(facts, rows, strict=True):
        begun = fact.up_to_value(str(row["answer"]))
        rest = str(row["answer"]).strip()[len(begun) :]
        pair = Pair(str(row["question"]), rest, "a fact", True, begun=begun and f" {begun}", ends=False)
        before, said = numbers_of(tokenizer, pair)
        asked.append(before)
        first.append(said[0])
        means = torch.stack([_embedded(table, tokenizer, text) for text in apart([row["answer"], *row["wrong"]])])
        choices.append(means - means.mean(0))
    states: list[Tensor] = [torch.empty(0)] * len(asked)
    found = torch.zeros(len(asked), 0, dtype=torch.bool)
    for rows_of_length in _by_length(asked):
        ids = torch.tensor([asked[place] for place in rows_of_length], device=model.device)
        counted = torch.zeros_like(ids, dtype=torch.bool)
        counted[:, -1] = True
        layers = model.language.depths(ids, counted)
        wanted = torch.tensor([first[place] for place in rows_of_length], device=layers.device)
        seen = torch.stack([_among(model.language.scored(layer), wanted) for layer in layers], 1).cpu()
        if not found.shape[1]:
            found = torch.zeros(len(asked), len(layers), dtype=torch.bool)
        found[rows_of_length] = seen
        for place, state in zip(rows_of_length, layers.transpose(0, 1).cpu().double().nan_to_num(), strict=True):
            states[place] = torch.nn.functional.normalize(state, dim=-1)
    return Read(torch.stack(states), choices, found)


def told(others: Sequence[Read], learned: Read, asked: Read, seed: int) -> tuple[list[float], list[float]]:
    """Per fact 1 where the probe chooses the true candidate, and the share of them by layer.

    Args:
        others: facts of others, to learn from.
        learned, asked: the same forgotten facts, in words to learn from and in those that are measured.
        seed: of the three parts.
    """
    count, layers = asked.states.shape[:2]
    part = torch.randperm(count, generator=torch.Generator().manual_seed(seed)) % PARTS
    hits, shares = torch.zeros(count), torch.zeros(count, layers)
    for turn in range(PARTS):
        train, choose, test = ((part == (turn + step) % PARTS).nonzero()[:, 0].tolist() for step in range(PARTS))
        best, chosen = (-1.0, -1.0), 0
        for layer in range(layers):
            read_from = [(item, range(len(item.choices))) for item in others] + [(learned, train), (asked, train)]
            x = torch.stack([item.states[place, layer] for item, places in read_from for place in places])
            y = torch.stack([item.choices[place][0] for item, places in read_from for place in places])
            probe = fitted(x, y)
            sure = [_margin(probe, asked, place, layer) for place in choose]
            score = (sum(value > 0 for value in sure) / len(sure), sum(sure) / len(sure))
            shares[test, layer] = torch.tensor([float(_margin(probe, asked, place, layer) > 0) for place in test])
            if score > best:
                best, chosen = score, layer
        hits[test] = shares[test, chosen]
    return hits.tolist(), shares.mean(0).tolist()


def warned(table: Mapping[tuple[str, str], Any]) -> list[str]:
    """What rows by metric and subject warn of: more is read than from a model that never knew, interval by interval."""
    names = {PROBE: "a linear probe", LENS: "the logit lens"}
    found = []
    for metric, name in names.items():
        edited, reference = (table.get((metric, subject)) for subject in ("edited", "reference"))
        if edited is not None and reference is not None and edited.low > reference.high:
            found.append(
                f"hidden states still tell what was forgotten: {name} reads {edited.value:.0%} of the answers, and "
                f"{reference.value:.0%} in a model that never knew"
            )
    return found


def apart(answers: Sequence[str]) -> list[str]:
    """Answers without the words that all begin and end with; each keeps one word at least."""
    words = [str(text).split() for text in answers]
    for turned in (False, True):
        turns = [row[::-1] for row in words] if turned else words
        least = max(0, min(map(len, turns)) - 1)
        columns = enumerate(zip(*turns, strict=False))
        same = min(next((place for place, column in columns if len(set(column)) > 1), least), least)
        words = [row[::-1][same:][::-1] if turned else row[same:] for row in words]
    return [" ".join(row) for row in words]


def _embedded(table: Tensor, tokenizer: Any, text: str) -> Tensor:
    ids = tokenizer(f" {text}", add_special_tokens=False)["input_ids"]
    return table[torch.tensor(ids, dtype=torch.long, device=table.device)].cpu().double().sum(0) / max(len(ids), 1)


def _by_length(asked: Sequence[Sequence[int]]) -> list[list[int]]:
    """Places of texts of one length, so that no position is shifted by padding, at most `BATCH` at a time."""
    groups: dict[int, list[int]] = {}
    for place, numbers in enumerate(asked):
        groups.setdefault(len(numbers), []).append(place)
    return [rows[start : start + BATCH] for rows in groups.values() for start in range(0, len(rows), BATCH)]


def _among(scores: Tensor, wanted: Tensor) -> Tensor:
    """Whether the wanted tokens (m) are among the `TOP` likeliest, of scores (m, words).

    Ties and what is no number count against them: a model that finds all alike tells nothing.
    """
    own = scores.gather(1, wanted.to(scores.device)[:, None])
    return (~(scores < own)).sum(1) <= TOP


def _margin(probe: tuple[Tensor, Tensor], item: Read, place: int, layer: int) -> float:
    """How much nearer a guess is to the true candidate than to the nearest wrong one, by cosine."""
    mean, weights = probe
    guess = (item.states[place, layer] - mean) @ weights
    near = torch.nn.functional.cosine_similarity(guess[None], item.choices[place])
    return float(near[0] - near[1:].max())
