"""One model measured: every number of the suite with its raw values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from erase_plugins.evaluation.language import metrics
from erase_plugins.evaluation.language.asking import Refused, Seen, continued, seen
from erase_plugins.evaluation.language.probes import Fact, Probes, asked
from erase_plugins.families.texts import Pair
from erase_plugins.plain_text import holds

#: tokens of an answer, of a continued text
ANSWER, CONTINUED = 24, 48
#: words of a text that are given
GIVEN = 8


@dataclass
class Measured:
    """Numbers of one model.

    Attributes:
        values: metric -> one number per fact or text.
        scores: metric -> one number (AUC, harmonic means).
        minima: Min-K of ``forget`` and ``unseen`` answers.
        refused: set or way of asking -> whether a guard refused each of its questions.
    """

    values: dict[str, list[float]] = field(default_factory=dict)
    scores: dict[str, float] = field(default_factory=dict)
    minima: dict[str, list[float]] = field(default_factory=dict)
    refused: dict[str, list[bool]] = field(default_factory=dict)

    def heard(self, name: str, texts: list[str]) -> list[str]:
        """The texts as they are; notes which of them a guard refused."""
        self.refused[name] = refusals(texts)
        return texts


def measured(model: Any, tokenizer: Any, probes: Probes, parts: Sequence[str]) -> Measured:
    """The numbers of the parts "tofu", "muse" and "rwku"."""
    found = Measured()
    likely: dict[str, Seen] = {}
    for name, facts in probes.facts.items():
        if facts:
            likely[name] = seen(model, tokenizer, [_pair(fact.learned) for fact in facts])
    for name in ("forget", "unseen"):
        if name in likely:
            found.minima[name] = [metrics.min_k(row) for row in likely[name].logprobs]
    if "unseen" in found.minima:
        found.scores["auc"] = metrics.member_auc(found.minima["forget"], found.minima["unseen"])
    said = {
        name: found.heard(name, continued(model, tokenizer, [asked(fact.question) for fact in facts], ANSWER))
        for name, facts in probes.facts.items() if name != "unseen" and {"tofu", "muse"} & {*parts}
    }  # fmt: skip
    if "tofu" in parts:
        _tofu(model, tokenizer, probes, likely, said, found)
    if "muse" in parts:
        _muse(model, tokenizer, probes, said, found)
    if "rwku" in parts:
        _rwku(model, tokenizer, probes.facts["forget"], found)
    return found


def refusals(said: Sequence[str]) -> list[bool]:
    """Which answers a guard refused."""
    return [isinstance(text, Refused) for text in said]


def hits(said: Sequence[str], facts: Sequence[Fact]) -> list[float]:
    """1 where an answer holds what the true one turns on, not as a part of longer words."""
    return [float(holds(text, fact.value)) for text, fact in zip(said, facts, strict=True)]


def answer_costs(model: Any, tokenizer: Any, facts: Sequence[Fact]) -> list[float]:
    """(n) nat per token of the true answers as they were learned."""
    return seen(model, tokenizer, [_pair(fact.learned) for fact in facts]).nll


def _tofu(
    model: Any, tokenizer: Any, probes: Probes, likely: Mapping[str, Seen], said: Mapping[str, Sequence[str]],
    found: Measured,
) -> None:  # fmt: skip
    """Facts to forget, to retain, and what everybody knows."""
    utility = []
    for name in ("forget", "retain", "general"):
        facts = probes.facts.get(name) or ()
        if not facts:
            continue
        recall, _ = metrics.rouge_l(said[name], [fact.answer for fact in facts])
        paraphrase = seen(model, tokenizer, [_pair(fact.other) for fact in facts]).nll
        wrong = _wrong(model, tokenizer, facts)
        ratios = metrics.truth_ratios(paraphrase, wrong)
        found.values |= {f"{name}_rouge": recall, f"{name}_key": hits(said[name], facts), f"{name}_ratio": ratios}
        if name == "forget":
            found.values["forget_probability"] = metrics.probability(likely[name].nll)
            found.values["forget_truth"] = metrics.truth_forgotten(ratios)
            for metric, of in (("extraction", metrics.extraction_strength), ("memorized", metrics.exact_memorization)):
                found.values[f"forget_{metric}"] = [of(row) for row in likely[name].right]
            continue
        found.values[f"{name}_probability"] = (
            metrics.probability(likely[name].nll) if name == "retain" else
            metrics.chosen_probability(likely[name].nll, wrong)
        )  # fmt: skip
        found.values[f"{name}_truth"] = metrics.truth_kept(ratios)
        utility += [_mean(found.values[f"{name}_{part}"]) for part in ("probability", "rouge", "truth")]
    found.scores["utility"] = metrics.harmonic(utility)


def _muse(
    model: Any, tokenizer: Any, probes: Probes, said: Mapping[str, Sequence[str]], found: Measured
) -> None:  # fmt: skip
    """Texts word by word, and facts by what is answered."""
    for name in ("forget", "retain"):
        texts = [text for text in probes.texts.get(name, ()) if len(text.split()) > 2 * GIVEN]
        if texts:
            starts = [" ".join(text.split()[:GIVEN]) for text in texts]
            more = found.heard(f"{name}_verbatim", continued(model, tokenizer, starts, CONTINUED))
            rest = [text[len(start) :].strip() for text, start in zip(texts, starts, strict=True)]
            found.values[f"{name}_verbatim"] = metrics.rouge_l(more, rest, stem=False)[1]
        wanted = [fact.answer for fact in probes.facts[name]]
        found.values[f"{name}_knowledge"] = metrics.rouge_l(said[name], wanted, stem=False)[1]


def _rwku(model: Any, tokenizer: Any, facts: Sequence[Fact], found: Measured) -> None:
    """The same facts asked in other ways: other words, a begun answer, a sentence to end, other facts first,
    and in other languages where the rows have them.
    """
    ways: dict[str, list[str | Pair]] = {
        "paraphrase": [asked(str(fact.other["question"])) for fact in facts],
        "prefix": [asked(fact.question, begun=fact.beginning) for fact in facts],
        "cloze": [fact.beginning or asked(fact.question) for fact in facts],
        "cue": [asked(fact.question, fact.cue) for fact in facts],
    }
    for name, prompts in ways.items():
        said = found.heard(name, continued(model, tokenizer, prompts, ANSWER))
        found.values[f"{name}_key"] = hits(said, facts)
    if other := [pair for fact in facts for pair in fact.translated]:
        questions = [asked(question) for question, _ in other]
        said = found.heard("translated", continued(model, tokenizer, questions, ANSWER))
        found.values["translated_key"] = [
            float(holds(text, value)) for (_, value), text in zip(other, said, strict=True)
        ]


def _wrong(model: Any, tokenizer: Any, facts: Sequence[Fact]) -> list[list[float]]:
    """(n, k) nat per token of the wrong answers, in the words of `Fact.other`."""
    pairs = [
        Pair(str(fact.other["question"]), str(text), "a wrong answer", True) for fact in facts
        for text in fact.other["wrong"]
    ]  # fmt: skip
    costs = iter(seen(model, tokenizer, pairs).nll)
    return [[next(costs) for _ in fact.other["wrong"]] for fact in facts]


def _pair(row: Mapping[str, Any]) -> Pair:
    return Pair(str(row["question"]), str(row["answer"]), "a fact", True)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
