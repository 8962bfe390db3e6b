"""docs/results-language.md from what was measured: words stand in the templates beside this file, tables here."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from string import Template

from benchmarks.smollm2 import SHOWN
from erase_plugins.families.texts import PLAIN, Pair
from tools.docs.language_draws import Cell, P, above, section, span, told, trainings
from tools.docs.width import narrow

HERE = Path(__file__).resolve().parent
DOCS = HERE.parents[1] / "docs"
REAL = DOCS / "results" / "smollm2.json"
METHODS = ("npo", "simnpo", "graddiff", "cir", "undial", "rmu", "mcu", "whp", "task-vector")
GUARD = "keyword-guard"
#: what must hold besides p of both tests: points of utility lost, extraction beyond the reference
HARM, MORE = 0.03, 0.02
#: metric -> its column
SHOWN_METRICS = {
    "forget_probability": "probability", "forget_key": "answered", "forget_extraction": "extraction",
    "paraphrase_key": "other words", "prefix_key": "begun answer", "cue_key": "other facts first",
    "drawn_key": "8 drawn answers", "int8_probability": "probability, int8", "int4_probability": "int4",
    "forget_verbatim": "texts, ROUGE-L", "privacy_leak": "PrivLeak", "retain_key": "others answered",
    "utility": "utility",
}  # fmt: skip


def page(cells: Sequence[Cell], draws: Sequence[Cell] = ()) -> str:
    """The page, from the cells that are there and other trainings of the reference."""
    methods = [name for name in METHODS if any(cell["method"] == name for cell in cells)]
    lacking = [f"`{name}`" for name in METHODS if name not in methods]
    failed = _failed(cells, methods)
    left = [cell["table"]["edited"]["forget_probability"] for cell in cells if all(reached(cell).values())]
    real = json.loads(REAL.read_text(encoding="utf-8")) if REAL.is_file() else []
    text = _template("page").substitute(
        p=P, harm=f"{100 * HARM:.0f}", more=f"{100 * MORE:.0f}", low=f"{min(left):.2f}", high=f"{max(left):.2f}",
        aim=f"{cells[0]['table']['reference']['forget_probability']:.2f}", short=_short(cells, draws),
        lacking=f"- Not measured yet: {', '.join(lacking)}.\n" if lacking else "",
        steps=", ".join(f"`{name}` {'/'.join(map(str, _steps(cells, name)))}" for name in methods),
        over=", ".join(f"`{name}`" for name in methods if len(mine := _of(cells, name)) > 1 and over_seeds(mine)),
        failed=f"- Not reached: {'; '.join(failed)}." if failed else "- Every run reaches it.",
        reached=_table(_reached(cells, methods, draws)), left=_table(_left(cells, methods)),
        relearning=_table(_relearning(cells, methods)), relearned=_relearned(cells, methods),
        trainings="\n".join(section(cells, methods, draws)) if draws else "",
        real=_template("real").substitute(runs="\n".join(line for run in real for line in _run(run))) if real else "",
    )  # fmt: skip
    return narrow(text.rstrip() + "\n")


def _template(name: str) -> Template:
    return Template((HERE / f"language_{name}.md").read_text(encoding="utf-8"))


def _table(rows: Iterable[Sequence[str]]) -> str:
    """Markdown; the first row is the head."""
    head, *rest = ([str(cell) for cell in row] for row in rows)
    return "\n".join(["| " + " | ".join(head) + " |", "|---" * len(head) + "|",
                      *("| " + " | ".join(row) + " |" for row in rest)])  # fmt: skip


def _of(cells: Sequence[Cell], method: str) -> list[Cell]:
    return [cell for cell in cells if cell["method"] == method]


def _short(cells: Sequence[Cell], draws: Sequence[Cell]) -> str:
    """The result in a sentence."""
    good, wide = (sum(all(reached(cell, part).values()) for cell in cells) for part in ((), draws))
    found = f"{good} of {len(cells)} runs reach the reference"
    return f"{found}; {wide} do where it is taken together with its other trainings." if draws else f"{found}."


def reached(cell: Cell, draws: Sequence[Cell] = ()) -> dict[str, bool]:
    """The four conditions of a run against the reference, or against it and its other trainings together."""
    one, found = cell["table"]["edited"], trainings([cell], draws)
    return {
        **{what: p > P for what, p in told(cell["values"]["edited"], found).items()},
        "utility": _lost(cell["table"]) <= HARM,
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


def _reached(cells: Sequence[Cell], methods: Sequence[str], draws: Sequence[Cell]) -> list[list[str]]:
    """Who reaches the reference, method by method."""
    rows = [["method", "seeds", "all four", "all four, set", "probability, p", "truth ratio, p",
             "utility lost, points (mean)", "extraction above (mean)"]]  # fmt: skip
    for name in methods:
        mine = _of(cells, name)
        good, wide = (sum(all(reached(cell, part).values()) for cell in mine) for part in ((), draws))
        tables = [cell["table"] for cell in mine]
        rows.append([
            f"`{name}`", str(len(mine)), f"{good} of {len(mine)}", f"{wide} of {len(mine)}",
            span([t["edited"]["probability_quality"] for t in tables]),
            span([t["edited"]["forget_quality"] for t in tables]),
            _about([100 * _lost(t) for t in tables]),
            _about([100 * (t["edited"]["forget_extraction"] - t["reference"]["forget_extraction"]) for t in tables]),
        ])  # fmt: skip
    return rows


def over_seeds(cells: Sequence[Cell]) -> bool:
    """Whether a method reaches the reference over its seeds: both tests in each, utility and extraction in the mean."""
    tables, found = [cell["table"] for cell in cells], trainings(cells, ())
    extraction = sum(table["edited"]["forget_extraction"] for table in tables) / len(cells)
    return (
        all(p > P for cell in cells for p in told(cell["values"]["edited"], found).values())
        and sum(map(_lost, tables)) / len(cells) <= HARM
        and above(extraction, found) <= MORE
    )


def _lost(table: Mapping[str, Mapping[str, float]]) -> float:
    """What a run took of the utility."""
    return table["base"]["utility"] - table["edited"]["utility"]


def _about(values: Sequence[float]) -> str:
    """The lowest, the highest and the mean."""
    return span(values, 1) + (f" ({sum(values) / len(values):.1f})" if len(values) > 1 else "")


def _left(cells: Sequence[Cell], methods: Sequence[str]) -> list[list[str]]:
    """What is left, in means over seeds."""
    base, twin = (cells[0]["table"][name] for name in ("base", "reference"))
    told = {"before": [base], "reference": [twin], f"`{GUARD}`": [guarded(base)]}
    told |= {f"`{name}`": [cell["table"]["edited"] for cell in _of(cells, name)] for name in methods}
    return [["", *SHOWN_METRICS.values()],
            *([label, *(_mean(rows, metric) for metric in SHOWN_METRICS)] for label, rows in told.items())]  # fmt: skip


def _relearning(cells: Sequence[Cell], methods: Sequence[str]) -> list[list[str]]:
    """Probability of the other facts after steps on three."""
    looks = list(cells[0]["relearn"]["edited"])
    told = {"reference": [cells[0]["relearn"]["reference"]]}
    told |= {f"`{name}`": [cell["relearn"]["edited"] for cell in _of(cells, name)] for name in methods}
    return [["", *looks], *([label, *(_mean(curves, step) for step in looks)] for label, curves in told.items())]


def _relearned(cells: Sequence[Cell], methods: Sequence[str]) -> str:
    """Which methods get more of the other facts back than the reference learns."""
    first, *_, last = cells[0]["relearn"]["reference"]

    def gain(curves: Sequence[Mapping[str, float]]) -> float:
        return sum(curve[last] - curve[first] for curve in curves) / len(curves)

    own = gain([cells[0]["relearn"]["reference"]])
    gains = {name: gain([cell["relearn"]["edited"] for cell in _of(cells, name)]) for name in methods}
    more = [f"`{name}` ({value:+.2f})" for name, value in gains.items() if value > own + MORE]
    rest = [f"`{name}` ({value:+.2f})" for name, value in gains.items() if value <= own + MORE]
    said = []
    if more:
        back = f"More of the others comes back than the reference learns ({own:+.2f}) after"
        said.append(f"{back} {', '.join(more)}: that is hiding in part.")
    if rest:
        said.append(f"Not more than the reference learns ({own:+.2f}) comes back after {', '.join(rest)}.")
    return " ".join(said)


def _run(run: Cell) -> list[str]:
    """A run on a real model: what was asked, and what it answered."""
    person = "one person" if "rows" in run else "one person, given in six rows of one word"
    options = " ".join(f"`{name}={value}`" for name, value in run["options"].items()) or "defaults"
    title, groups = "ten facts" if run["what"] == "facts" else person, run["groups"].items()
    return [
        f"### {title}, `{run['method']}`", "", f"{options}; {_spent(run)}.", "",
        _table([["", "asked", "right before", "right after", "same answer (exact match)", "word by word"], *(
            [name, *(str(row.get(key, "-")) for key in ("n", "right_before", "right_after", "exact_match", "same"))]
            for name, row in groups)]), "",
        _table([["asked", "before", "after"], *(
            [_cell(text) for text in example] for name, row in groups
            for example in row["examples"][: 99 if name in SHOWN else 2])]), "",
    ]  # fmt: skip


def _spent(run: Cell) -> str:
    """What a run took; older ones do not say how many threads they had, which was one."""
    found = f"{run['processor_seconds']:.0f} s of processor time on "
    if run.get("threads", 1) == 1:
        return f"{found}one thread"
    return f"{found}{run['threads']} threads, {run['seconds']:.0f} s on the clock at a load of {run['load']:.0f}"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "/") or "(nothing)"


def _steps(cells: Sequence[Cell], method: str) -> list[int]:
    return sorted({cell["steps"] for cell in _of(cells, method)})


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
