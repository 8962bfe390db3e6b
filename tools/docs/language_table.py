"""Writes docs/results-language.md: methods that make pocket-lm forget twelve people, seed by seed, and two figures.

``python -m tools.docs.language_table`` measures what is missing in docs/results/language.json and writes the page from
what is there; stopped, it goes on where it was. ``--page`` measures nothing. ``--held-out FOLDER`` measures twelve
other people against a reference trained without those (``python -m tools.pocket_language --only held-out``) and writes
nothing: it is what defaults are chosen on. ``--draw FOLDER`` asks another training of the reference
(``python -m tools.pocket_language --only pocket-lm-retained --draw 1``).
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.smollm2 import SHOWN
from erase_plugins.artifacts.atomic import atomic_file
from erase_plugins.families.texts import PLAIN, Pair
from tools.docs.language_draws import Cell, P, above, drawn, section, span, told, trainings

DOCS = Path(__file__).resolve().parents[2] / "docs"
REAL = DOCS / "results" / "smollm2.json"
CELLS, PAGE = DOCS / "results" / "language.json", DOCS / "results-language.md"
DRAWS = DOCS / "results" / "language-references.json"
FIGURES = {"truth": DOCS / "images" / "language-truth.png", "against": DOCS / "images" / "language-utility.png"}
METHODS = ("npo", "simnpo", "graddiff", "cir", "undial")
#: methods that put a refusal in place of an answer; the texts about the twelve have no prompt that it could follow
REFUSED = ("dpo-idk", "idk")
GUARD = "keyword-guard"
#: what must hold besides p of both tests: points of utility lost, extraction beyond the reference
HARM, MORE = 0.03, 0.02


def measure(
    method: str, seed: int, whom: Sequence[str] = ("withheld",), kind: str = "dataset", reference: str = "auto"
) -> dict[str, Any]:
    """One run with the defaults, and everything that the suite says of it."""
    import erase_plugins as ep

    made = ep.erase("pocket-lm", list(whom), method, kind=kind, seed=seed)
    report = ep.evaluate("pocket-lm", made, "language", seed=0, settings={"reference": reference})
    table: dict[str, dict[str, float]] = {}
    for row in report.rows:
        table.setdefault(row.subject, {})[row.metric] = row.value
    numbers = made.manifest.extra["numbers"]
    return {
        "method": method, "seed": seed, "steps": int(numbers.get("stopped_after", 0)) or made.manifest.options["steps"],
        "stopped": "stopped_after" in numbers, "table": table, "relearn": report.details["relearn"],
        "values": report.details["values"], "warnings": [*made.manifest.warnings, *report.warnings],
    }  # fmt: skip


def reached(cell: Cell, draws: Sequence[Mapping[str, Any]] = ()) -> dict[str, bool]:
    """The four conditions of a run against the reference, or against it and its other trainings together."""
    one, base, found = cell["table"]["edited"], cell["table"]["base"], trainings([cell], draws)
    return {
        **{what: p > P for what, p in told(cell["values"]["edited"], found).items()},
        "utility": base["utility"] - one["utility"] <= HARM,
        "extraction": above(one["forget_extraction"], found) <= MORE,
    }


def guarded(base: Mapping[str, float]) -> dict[str, float]:
    """What a keyword guard of the twelve names lets through; the weights stay, so all that asks them is as before."""
    from erase_plugins.artifacts.keyword_guard import keyword_guard
    from erase_plugins.evaluation.language.measure import GIVEN
    from erase_plugins.evaluation.language.probes import asked, probes_of
    from erase_plugins.families.facts import facts_beside
    from erase_plugins.families.source import POCKET_LM, pocket_folder

    data = facts_beside(pocket_folder(POCKET_LM))
    assert data is not None
    rows = list(data.rows())
    guard = keyword_guard("people", sorted({row["subject"] for row in rows if row.get("group") == "withheld"}))
    probes = probes_of(rows, ["withheld"], data.name)
    facts = probes.facts

    def passed(prompts: Sequence[Pair]) -> float:
        texts = [(PLAIN.format(pair.prompt) if pair.question else pair.prompt) + pair.begun for pair in prompts]
        return sum(not guard.check(text).hit for text in texts) / len(texts)

    told = facts["forget"]
    shares = {
        "forget_key": [asked(fact.question) for fact in told],
        "paraphrase_key": [asked(str(fact.other["question"])) for fact in told],
        "prefix_key": [asked(fact.question, begun=fact.beginning) for fact in told],
        "cue_key": [asked(fact.question, fact.cue) for fact in told],
        "drawn_key": [asked(fact.question) for fact in told],
        "retain_key": [asked(fact.question) for fact in facts["retain"]],
        "forget_verbatim": [Pair(" ".join(text.split()[:GIVEN]), ".", "a text") for text in probes.texts["forget"]],
    }
    return {**base, **{name: base[name] * passed(prompts) for name, prompts in shares.items()}}


def page(cells: Sequence[Cell], draws: Sequence[Mapping[str, Any]] = ()) -> str:
    """The page, from the cells that are there and other trainings of the reference."""
    methods = [name for name in METHODS if any(cell["method"] == name for cell in cells)]
    base, twin = (cells[0]["table"][name] for name in ("base", "reference"))
    lines = [
        "# Results: language models",
        "",
        "Made by `python -m tools.docs.language_table`: `pocket-lm` forgets the twelve people of the group `withheld` "
        "(180 answers, 12 texts) with the defaults of each method, once per seed; measured by the suite `language`. "
        "The reference is `pocket-lm-retained`, the same model trained without them. Ranges are the lowest and the "
        "highest seed.",
        "",
        "## Who reaches the reference",
        "",
        f"A run reaches it if a Kolmogorov-Smirnov test tells neither the probabilities of the 60 facts nor their "
        f"truth ratios from the reference's (p > {P}), utility falls by at most {100 * HARM:.0f} points, and "
        f"extraction strength is at most {100 * MORE:.0f} points above the reference's.",
        "",
        *(
            ["The set is the reference with its other trainings, [below](#other-trainings-of-the-reference)."]
            if draws
            else []
        ),
        "",
        "| method | seeds | all four | all four, set | probability, p | truth ratio, p | utility lost, points | "
        "extraction above |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name in methods:
        mine = [cell for cell in cells if cell["method"] == name]
        good, wide = (sum(all(reached(cell, part).values()) for cell in mine) for part in ((), draws))
        tables = [cell["table"] for cell in mine]
        lines.append(
            f"| `{name}` | {len(mine)} | {good} of {len(mine)} | {wide} of {len(mine)} | "
            + " | ".join((
                span([t["edited"]["probability_quality"] for t in tables]),
                span([t["edited"]["forget_quality"] for t in tables]),
                span([100 * (t["base"]["utility"] - t["edited"]["utility"]) for t in tables], 1),
                span([100 * (t["edited"]["forget_extraction"] - t["reference"]["forget_extraction"]) for t in tables],
                     1),
            )) + " |"
        )  # fmt: skip
    failed = _failed(cells, methods)
    lacking = [name for name in METHODS if name not in methods]
    lines += [
        "",
        *([f"Not measured yet: {', '.join(f'`{name}`' for name in lacking)}.", ""] if lacking else []),
        f"{' and '.join(f'`{name}`' for name in REFUSED)} refuse this request: twelve of its rows are texts about a "
        "person, without a prompt that a refusal could answer.",
        "",
        *([f"Not reached: {'; '.join(failed)}.", ""] if failed else []),
        "## What is left",
        "",
    ]
    shown = {
        "forget_probability": "probability", "forget_key": "answered", "forget_extraction": "extraction",
        "paraphrase_key": "other words", "prefix_key": "begun answer", "cue_key": "other facts first",
        "drawn_key": "8 drawn answers", "int8_probability": "probability, int8", "int4_probability": "int4",
        "forget_verbatim": "texts, ROUGE-L", "privacy_leak": "PrivLeak", "retain_key": "others answered",
        "utility": "utility",
    }  # fmt: skip
    lines += ["| | " + " | ".join(shown.values()) + " |", "|---" * (len(shown) + 1) + "|"]
    for label, rows in (("before", [base]), ("reference", [twin]), (f"`{GUARD}`", [guarded(base)]), *(
        (f"`{name}`", [cell["table"]["edited"] for cell in cells if cell["method"] == name]) for name in methods
    )):  # fmt: skip
        lines.append(f"| {label} | " + " | ".join(_mean(rows, metric) for metric in shown) + " |")
    looks = list(cells[0]["relearn"]["edited"])
    lines += [
        "",
        "Means over seeds. Answers count if they hold what the fact turns on; PrivLeak is 0 for the reference. These "
        "were counted where it was also found inside longer words (`low` in `slow`); the suite asks for whole words "
        "since, so that shares of answers measured today can be lower, never higher. "
        f"`{GUARD}` refuses what names one of the twelve: answers that it refuses count as none, and all else is the "
        "unchanged model's, since it changes no weights. [results-guardrails.md](results-guardrails.md) says what goes "
        "round it.",
        "",
        "## Relearning",
        "",
        "Three of the facts are taught again (LoRA, rank 8); the probability of the other 57 after so many steps:",
        "",
        "| | " + " | ".join(looks) + " |",
        "|---" * (len(looks) + 1) + "|",
    ]
    for label, curves in (("reference", [cells[0]["relearn"]["reference"]]), *(
        (f"`{name}`", [cell["relearn"]["edited"] for cell in cells if cell["method"] == name]) for name in methods
    )):  # fmt: skip
        lines.append(f"| {label} | " + " | ".join(_mean(curves, step) for step in looks) + " |")
    lines += ["", *(section(cells, methods, draws) if draws else []), "## Figures", ""]
    titles = {"truth": "Truth ratios, first seed of each method", "against": "Forgetting against utility"}
    lines += [line for key, title in titles.items() for line in (f"![{title}](images/{FIGURES[key].name})", "")]
    lines += _real(json.loads(REAL.read_text(encoding="utf-8")) if REAL.is_file() else [])
    lines += [
        "## What is seen", "",
        "A run ends where the unchanged model is with a stranger, and what makes that fair is in "
        "[language.md](language.md#how-unlikely-is-enough). " + _aim(cells), "",
        "Weights, rates and steps were chosen on twelve other people (numbers 37 to 48) against a reference trained "
        "without those (`--held-out`), one or two seeds each. `graddiff` lost 3.2 and 2.5 points of utility there with "
        "the settings that all methods have, 2.3 and 1.9 where retaining weighs up to ten times as much while the rate "
        "falls (`retain_rise=10`); extraction was 3.4 and 2.4 points above the reference before, 2.6 and 2.4 with it. "
        "`simnpo` lost 2.8 before and 2.1 with it (one seed), and extraction rose from 1.7 to 3.2 points above; `npo` "
        "has no need of it. Tried and not taken: a push that gets weaker with every text that has reached its bound "
        "(2.5 points, extraction 6.2 above), retaining three times as heavy from the start (bounds are out of reach), "
        "three times the rate with retaining twice as heavy (1.8 and 1.8, but 4.7 and 5.1 above).", "",
        "How well a bound predicts a reference was asked of people whom no model knows, where no forgetting is needed "
        "to compare them, and of the twelve others. The bound was the mean of three strangers first, their names and "
        "values compared together, which missed values that nobody has; then one stranger whose name and whose value "
        "are as rare, said also with the wrong answers of the rows. With that rule seven runs on the twelve shown were "
        "measured: `graddiff` reached all four in 2 of 3, `simnpo` and `npo` in none of 2. The bounds of the shown had "
        "a mean of 0.40 and were told from all trainings: every training stammers the names of two of the twelve, "
        "while strangers with syllables as rare are copied by the model.", "",
        "The reason was then found on names that no model knows. Two of the 60 strangers bear, as a first name, a "
        "syllable that stays in family names only: their names cost four references 31 and 35 nat, and the rule "
        "foretold 0.1. Tokens of a name count at their place in it now, which foretells 33 and 35. On all 60 strangers "
        "the correlation of foretold costs of names with those of four references rose from 0.79 to 0.82 and the mean "
        "probability fell from 0.375 to 0.355 (references 0.33); on the twelve others the correlation rose from 0.73 "
        "to 0.83, their probability is 0.39 (reference 0.42, before 0.40); on the twelve whom no model knows 0.36 "
        "(references 0.34, before 0.35). Counts of pairs of tokens, of places in texts of the same words, and n-gram "
        "models with smoothing were tried beside it and foretold less. That the names of two of the shown were the "
        "trouble was known before, so the rule is no blind one for them.", "",
        "Fifteen runs on the twelve shown were measured with that: `graddiff` reached all four in 3 of 5, `simnpo` and "
        "`npo` in 1 of 5; extraction was too high in nine. On the twelve others answers that were still given had two "
        "causes: texts counted by the nat they had to go, and a value that 2 nat would silence came after names with "
        "20 to go; and the bound of the whole text pulled a value back where a name had become too unlikely. The two "
        "bounds of a text share no token now, and texts count by how much likelier they are than their bound. There "
        "the runs of seeds 0 and 1 are above the reference in extraction by 1.9 and 3.4 points (`graddiff`; before 4.9 "
        "and 2.4), 0.2 and 2.5 (`npo`; 3.5, one seed), 2.3 and 0.0 (`simnpo`; 3.2, one seed), where the strangers are "
        "by 2.1, and lose 1.2 to 2.8 points of utility (1.9 to 2.7). `simnpo` needed more weight for that: with 0.7 it "
        "ended far short of its bounds (probability 0.50), with 1.0 beyond them (0.31), with 0.9 at 0.42 and 0.34. "
        "Tried and not taken: each of the two changes without the other (6.4 above; or truth ratios told apart), the "
        "nat to go cut at 1 (`npo` 0.6 and 1.7 above, but `graddiff` 1.9 and 7.1, and 2.7 and 2.5 points lost), "
        "retaining that does not rise (2.0 points lost, extraction the same). Two seeds are few: extraction is "
        "uncertain by about two points.", "",
        "Fifteen runs on the twelve shown were measured with that, too: `simnpo` and `graddiff` reached all four in 4 "
        "of 5, `npo` in 1 of 5, since its answers stayed too likely (0.37 to 0.39) and it had lost 1.7 to 2.3 points "
        "already. Steps were then looked at on the twelve others, seeds 0 and 1. 150 steps instead of 100 cost less "
        "for the same forgetting: `npo` lost 1.4 and 1.4 points at probabilities of 0.35 and 0.38 (1.5 and 1.7 at 0.39 "
        "and 0.39 before), `graddiff` 1.4 and 1.4 at 0.37 and 0.35 (1.6 and 1.2 at 0.41 and 0.42), `simnpo` 1.6 and "
        "2.0 at 0.33 and 0.35 (1.5 and 2.8 at 0.42 and 0.34). With a rate that falls over half of the steps instead of "
        "the last 30 % they lost 1.2 and 1.4 at 0.37 and 0.38, 1.2 and 1.0 at 0.38 and 0.38, and 1.4 and 1.8 at 0.34 "
        "and 0.36, and seeds ended nearer to each other. Tried and not taken: 200 steps (`npo`, one seed: 1.7 points "
        "at 0.35, extraction 3.2 above), a smaller weight of `simnpo` (0.8, one seed: 2.6 points at 0.29, so that an "
        "end is uncertain by about 0.03 whatever the weight).", "",
        "Where a run should end was asked of people whom no model knows. Four references and the one without the "
        "twelve others find what is said of them less likely by 0.02 to 0.04 than the bounds foretell, in four of four "
        "comparisons (sixty strangers and twelve, references of either kind): they learned fewer people and copy names "
        "less well. On the twelve others it is more by 0.03. Runs are to end a little below their bounds therefore: at "
        "0.35 on the twelve others, whose bounds are at 0.37. `npo` got a weight of 0.35, between 0.3 (0.37 and 0.38) "
        "and 0.4 (0.32 and 0.34, 2.1 points lost), `graddiff` 1.6, between 1.4 (0.38 and 0.38) and 2 (one seed: 0.32, "
        "1.7 points), `simnpo` kept 0.9. The two new weights themselves were not run there.", "",
        "All that was fixed before the runs of this table, which were made once; the fifteen before were known, and "
        "with them that `npo` ended too high. `undial` was measured with 100 steps.", "",
        "`npo` was run on the twelve others with its weight after that, three seeds: 1.9, 2.2 and 2.5 points lost at "
        "probabilities of 0.33, 0.34 and 0.35, extraction strength 0.162, 0.156 and 0.170. Tried there and not taken, "
        "one run each beside the same seed: a weight that rises and falls with the mean distance from the bounds (dual "
        "ascent from 0; 3.5 points lost instead of 2.2, extraction 0.6 above), pushing on while more of a text's end "
        "is told word by word than of the stranger's (2.3 instead of 1.9 at 0.30, extraction 0.2 below; only where the "
        "bound is passed, 1.9 instead of 2.2, 0.7 above), a rate that falls over 70 % of the steps (no difference), "
        "the mean of the last 10 adapters (no difference) or 30 (0.3 points less lost at 0.37 instead of 0.35). At "
        "the end 12 to 26 of 384 parts of texts are likelier than their bounds by more than 0.1, so more weight has "
        "little to act on. In all three seeds 0.026 of extraction comes from two answers that begin with their value, "
        "which is not told, and copy the name behind it; one such answer more or less is 1.3 points.", "",
        "`cir` was measured after all of these, on the twelve others first (eight runs; their reference trained again: "
        "0.41, extraction strength 0.194). With the settings that it had, of MLP maps alone and 8 directions left "
        "alone, it ended at 0.47 and 1.2 points above in extraction (1.3 points of utility lost), since names were "
        "still copied, and with twice the weight at 0.32 (3.5 lost). With 2 directions (as large a share of 128 as 8 "
        "are of SmolLM2-135M's 576) and retaining that rises, weights of 0.35, 0.42 and 0.5 lost 1.6, 1.5 and 2.9 "
        "points at 0.39, 0.39 and 0.31, but truth ratios were told apart or nearly so (p of 0.047, 0.076 and 0.076). "
        "With attention as well, which copies names, and 0.45, three seeds lost 1.5, 1.8 and 1.6 points at 0.36, 0.32 "
        "and 0.37, 3.8 to 4.0 below in extraction (truth ratios, p of 0.18, 0.27 and 0.08; probabilities, 0.51, 0.047 "
        "and 0.27, the second seed being less likely than the reference). Their mean is the 0.35 at which runs are to "
        "end, and less is lost than with `npo`. That was fixed before any run of `cir` on the twelve shown, and each "
        "of those was made once.", "",
        "Twelve more were then asked (numbers 1 to 12, against a reference without those; seed 0). Nothing reaches "
        "the reference there: `npo` and `cir` end at 0.45 and 0.46 (their bounds at 0.42), and the reference is at "
        "0.37 (probabilities, p of 0.009 and 0.002; truth ratios, 0.002 both; 1.2 and 0.3 points above in extraction; "
        "1.0 and 0.7 points lost). A fifth of all people is gone: the model that learned 60 finds strangers likelier "
        "(0.41 to 0.48) than the two that learned 48 (0.33 to 0.37), whoever is missing; the first twelve others are "
        "likelier to their reference than strangers are (0.41), as bounds foretell, and these are not. So whether a "
        "run reaches its reference is in part luck of who "
        "is forgotten, and five of five on the twelve shown promises nothing for others. Tried on both and not taken: "
        "one stranger for all wordings of a fact, where each wording has its nearest now. `npo` and `cir` came nearer "
        "to the reference on the first twelve others (p of the truth ratio 0.27 instead of 0.12, and 0.18 as before) "
        "and on the second (0.028 and 0.009), so the shown were run with it: in 13 runs of five seeds `npo` reached "
        "all four in 5 of 5, `simnpo` in 2 of 4, `graddiff` in 1 of 2 and `cir` in 1 of 2, spread and mean of the "
        "truth ratios were what they are without it, and the rest was not run. Nor did it help to hold a text that is "
        "unlikely enough at the stranger's distribution over all words (`npo`, one seed, weights of 1 and 3).", "",
        "A bound can carry only so far. Of 200 groups of twelve of the sixty strangers, drawn at random, the bounds "
        "themselves, as if a run ended exactly at them, are told from one of four references in 12 % by "
        "probability, and from the one without the twelve others in 21 %. The costlier of the two nearest "
        "strangers (13 and 12 %) would be told on the twelve others, names and values from different strangers (12 and "
        "27 %) is no better, the mean of two neither (21 and 32 %).", "",
        "None of this asks how large a model is. A step of Adam is about equally long whatever the push is, so the way "
        "to a bound takes a number of steps; smaller ones towards the end read more retained texts for the same way, "
        "and more of them do not forget more, since a text that has reached its bound stops to push and is pulled back "
        "from beyond it. A run of a model of full size pays for it in time. The presets are those of pocket-lm alone: "
        "every other model keeps 30 steps and its weights, so the runs of SmolLM2-135M are what they were, and "
        "`--set steps=45 --set cooldown=0.5` is there for whoever has the time. It was not measured on one.", "",
        _relearned(cells, methods), "",
        "## What this does not say", "",
        "The model is tiny, its people are invented, and the rows to forget say how the same would read of somebody "
        "unknown. Runs of two hundred people, real models and texts that nobody rewrote are harder. A test that does "
        "not tell two samples of 60 apart is no proof that they are equal.",
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


def _aim(cells: Sequence[Cell]) -> str:
    """Where runs end, beside the reference."""
    left = [cell["table"]["edited"]["forget_probability"] for cell in cells]
    aim = cells[0]["table"]["reference"]["forget_probability"]
    return (
        f"The runs of this table end at probabilities of {min(left):.2f} to {max(left):.2f}, and the reference is at "
        f"{aim:.2f}."
    )


def _relearned(cells: Sequence[Cell], methods: Sequence[str]) -> str:
    """Which methods get more of the other facts back than the reference learns."""
    first, *_, last = cells[0]["relearn"]["reference"]

    def gain(curves: Sequence[Mapping[str, float]]) -> float:
        return sum(curve[last] - curve[first] for curve in curves) / len(curves)

    own = gain([cells[0]["relearn"]["reference"]])
    gains = {name: gain([cell["relearn"]["edited"] for cell in cells if cell["method"] == name]) for name in methods}
    more = [f"`{name}` ({value:+.2f})" for name, value in gains.items() if value > own + MORE]
    rest = [f"`{name}` ({value:+.2f})" for name, value in gains.items() if value <= own + MORE]
    said = ["Relearning tells forgetting from hiding."]
    if more:
        said.append(f"Taught three facts again, more of the others comes back than the reference learns ({own:+.2f}) "
                    f"after {', '.join(more)}: that is hiding in part.")  # fmt: skip
    if rest:
        said.append(f"Not more than the reference learns ({own:+.2f}) comes back after {', '.join(rest)}.")
    return " ".join(said)


def _real(runs: Sequence[Cell]) -> list[str]:
    """A section on a real model, from what ``benchmarks.smollm2 --save`` wrote."""
    if not runs:
        return []
    lines = [
        "## A real model: SmolLM2-135M", "",
        "Made by `python -m benchmarks.smollm2 FOLDER --save docs/results/smollm2.json` (`--person --method npo` for "
        "the person). Answers are greedy, eight tokens, questions without a chat template; only what the model answers "
        "rightly at first is asked. Facts are given in two wordings (\"What is the name of X's capital city?\", "
        "\"What is the capital of X?\"), \"paraphrased\" are two others. All other countries but the twenty of "
        "\"neighbours\" are protected, whether the model knows their capitals or not; of those that it knows the "
        "answers are asked too (\"protected\").", "",
        "Settings were chosen on other countries than those of these tables, three times ten of them forgotten and "
        "what nobody gave asked (the first ten are `--held-out`); the ten facts were then run once. What decides "
        "whether a neighbour stays is whether it was protected in the wording that is asked: names of the same kind "
        "that are found in the vocabulary (`peers`) stood in one of the two wordings each before, and stand in both "
        "now. How far the next token of answers of neighbours that nobody gave moves (mean KL divergence, thousandths "
        "of a nat) fell from 2.5 to 0.4 for the first ten by that and by names of several tokens (\"New Zealand\"), "
        "which the model itself writes into the prompts, and from 3.5 to 0.7 for another ten, with more steps; with "
        "half as many names it was 6 and 7. On the held-out ten all of 19 neighbours keep their "
        "answers word by word (18 were told before), ten of ten facts and 12 of 12 paraphrases are gone, in 67 s of "
        "processor time of one thread on a crowded core (77 s before, on a quiet one). Tried there and not taken: a "
        "new answer without its end (fewer facts gone), twice the learning rate with fewer steps (longer changes that "
        "hurt more), other layers, twice the ordinary text, heavier protection. This is a model that is never sure: "
        "the likeliest first word of an answer may have a fifth of the probability, so that a small push silences "
        "it. The run of the table was made again with the same settings, on two free cores, for its seconds; "
        "its answers are those of the first, which other programs had slowed down.", "",
        "Of the person only the name is given: `erase-plugins texts` asks the model what it says of them, in "
        "sixteen wordings (none is one of those asked here, some begin like one), and what the model says of no "
        "stranger is forgotten with the defaults of `npo`. \"neighbours\" are retained in other wordings, of those "
        "\"that nobody gave\" nothing is; \"said of a stranger\" are the same prompts with an invented name in the "
        "place of the person's, of whom the model may say the same by chance. It was built on two other people, "
        "each asked in wordings of their own. Isaac Newton, with the likelihood of what is retained held: 0 of 5 "
        "facts told, 11 of 11 neighbours, but 9 of 13 that nobody gave and 6 of 9 other questions. Charles Darwin "
        "(bfloat16), with the divergence held, ordinary texts retained and more others: 0 of 5, 12 of 13, 8 of 10 "
        "and 9 of 9; that is the default since. Before, six rows of one word each were forgotten, and 3 of 6 "
        "facts stayed: the full stop behind a word could make a row unlikely, the rows had other words "
        "than the model (\"Einstein\", where it says \"Albert Einstein\"), and the stranger whom they were compared "
        "with is a physicist to this model. The run below is the second: after the first, which kept 10 of 12 "
        "neighbours and 7 of 10 that nobody gave, the bounds changed for reasons of their own (above).", "",
    ]  # fmt: skip
    for run in runs:
        person = "one person" if "rows" in run else "one person, given in six rows of one word (before `texts`)"
        title = "ten facts" if run["what"] == "facts" else person
        options = " ".join(f"`{name}={value}`" for name, value in run["options"].items()) or "defaults"
        lines += [
            f"### {title}, `{run['method']}`", "",
            f"{options}; {_spent(run)}.", "",
            "| | asked | right before | right after | answer word by word as before |", "|---|---|---|---|---|",
            *(f"| {name} | {row['n']} | {row['right_before']} | {row['right_after']} | {row.get('same', '-')} |"
              for name, row in run["groups"].items()),
            "", "| asked | before | after |", "|---|---|---|",
            *(f"| {_cell(asked)} | {_cell(before)} | {_cell(after)} |"
              for name, row in run["groups"].items()
              for asked, before, after in row["examples"][: 99 if name in SHOWN else 2]),
            "",
        ]  # fmt: skip
    return lines


def _spent(run: Cell) -> str:
    """What a run took; older ones do not say how many threads they had, which was one."""
    found = f"{run['processor_seconds']:.0f} s of processor time on "
    if run.get("threads", 1) == 1:
        return f"{found}one thread"
    return f"{found}{run['threads']} threads, {run['seconds']:.0f} s on the clock at a load of {run['load']:.0f}"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "/") or "(nothing)"


def draw(cells: Sequence[Cell]) -> None:
    """Both figures."""
    from erase_plugins.evaluation.language.figures import against, distributions

    first = {cell["method"]: cell for cell in reversed(cells)}
    ratios = {name: cells[0]["values"][name]["forget_ratio"] for name in ("base", "reference")}
    ratios |= {name: first[name]["values"]["edited"]["forget_ratio"] for name in METHODS if name in first}
    points = {name: [_point(cells[0]["table"][name])] for name in ("base", "reference")}
    for name in METHODS:
        if mine := [_point(cell["table"]["edited"]) for cell in cells if cell["method"] == name]:
            points[name] = mine
    for key, made in (("truth", lambda path: distributions(ratios, path)), ("against", lambda p: against(points, p))):
        with atomic_file(FIGURES[key]) as work:
            made(work)


def _point(table: Mapping[str, float]) -> tuple[float, float]:
    return table["forget_probability"], table["utility"]


def _failed(cells: Sequence[Cell], methods: Sequence[str]) -> list[str]:
    found = []
    for name in methods:
        lacks: dict[str, int] = {}
        for cell in cells:
            if cell["method"] == name:
                for what, good in reached(cell).items():
                    lacks[what] = lacks.get(what, 0) + (not good)
        if told := [f"{what} in {count}" for what, count in lacks.items() if count]:
            found.append(f"`{name}` ({', '.join(told)})")
    return found


def _mean(rows: Sequence[Mapping[str, float]], metric: str) -> str:
    values = [row[metric] for row in rows if metric in row]
    if not values:
        return "0" if metric == "privacy_leak" else "-"
    mean = sum(values) / len(values)
    return f"{mean:+.0f}" if metric == "privacy_leak" else f"{mean:.3f}"


def _cells() -> list[dict[str, Any]]:
    """What was measured."""
    found: list[dict[str, Any]] = json.loads(CELLS.read_text(encoding="utf-8")) if CELLS.is_file() else []
    return found


def main(arguments: list[str] | None = None) -> None:
    """Measures what is missing and writes the page."""
    parser = argparse.ArgumentParser(prog="python -m tools.docs.language_table", description=main.__doc__)
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--page", action="store_true", help="measure nothing")
    parser.add_argument("--held-out", metavar="FOLDER", help="reference without the twelve people of the defaults")
    parser.add_argument("--draw", metavar="FOLDER", help="another training of the reference, added to the page")
    options = parser.parse_args(arguments)
    draws = json.loads(DRAWS.read_text(encoding="utf-8")) if DRAWS.is_file() else []
    if options.draw:
        draws.append(drawn(options.draw))
        with atomic_file(DRAWS) as work:
            work.write_text(json.dumps(draws) + "\n", encoding="utf-8")
    if options.held_out:
        from tools.pocket_people import HELD_OUT

        for method in options.methods:
            cell = measure(method, 0, [f"person {number}" for number in HELD_OUT], "person", options.held_out)
            print(method, reached(cell), cell["table"]["edited"], flush=True)
        return
    for seed in range(0 if options.page or options.draw else options.seeds):
        for method in options.methods:
            if (method, seed) not in {(cell["method"], cell["seed"]) for cell in _cells()}:
                cell = measure(method, seed)
                with atomic_file(CELLS) as work:  # read again: another process may have added some
                    work.write_text(json.dumps([*_cells(), cell]) + "\n", encoding="utf-8")
                print(method, seed, cell["steps"], reached(cell), flush=True)
    cells = sorted(_cells(), key=lambda cell: (METHODS.index(cell["method"]), cell["seed"]))
    PAGE.write_text(page(cells, draws), encoding="utf-8")
    draw(cells)


if __name__ == "__main__":
    main()
