"""Other trainings of the reference of docs/results-language.md: what telling one from another gives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

#: p from which two samples are not told apart
P = 0.05
#: values of a run that are tested, and the one whose means are compared
TESTED, SPREAD = {"probability": "forget_probability", "truth ratio": "forget_ratio"}, "forget_extraction"
Cell = Mapping[str, Any]


def drawn(folder: str) -> dict[str, Any]:
    """What another training of the reference says of the sixty facts, in their order."""
    import erase_plugins as ep
    from erase_plugins.evaluation.language.measure import measured
    from erase_plugins.evaluation.language.probes import Probes, probes_of
    from erase_plugins.families.facts import facts_beside
    from erase_plugins.families.source import POCKET_LM, pocket_folder
    from erase_plugins.families.texts import tokenizer_of
    from erase_plugins.workflow.models import target_of

    data = facts_beside(pocket_folder(POCKET_LM))
    assert data is not None
    told = probes_of(list(data.rows()), ["withheld"], data.name).facts["forget"]
    model = target_of(ep.load(folder))
    values = measured(model, tokenizer_of(model), Probes({"forget": told, "retain": told[:1]}), ("tofu",)).values
    return {name: [float(f"{value:.6g}") for value in values[name]]
            for name in (*TESTED.values(), SPREAD)}  # fmt: skip


def together(trainings: Sequence[Mapping[str, Any]]) -> dict[str, list[float]]:
    """The values of several trainings as one sample."""
    return {key: [value for one in trainings for value in one[key]] for key in (*TESTED.values(), SPREAD)}


def told(run: Mapping[str, Any], trainings: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """p of the tests of a run against trainings together, by the words of `TESTED`."""
    from erase_plugins.evaluation.language.metrics import ks_test

    pool = together(trainings)
    return {what: ks_test(run[key], pool[key])[1] for what, key in TESTED.items()}


def above(extraction: float, trainings: Sequence[Mapping[str, Any]]) -> float:
    """How far a mean extraction strength is above that of trainings together."""
    pool = together(trainings)[SPREAD]
    return extraction - sum(pool) / len(pool)


def trainings(cells: Sequence[Cell], draws: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The reference of the cells, then its other trainings."""
    first = {**cells[0]["values"]["reference"], SPREAD: [cells[0]["table"]["reference"][SPREAD]] * len(
        cells[0]["values"]["reference"]["forget_ratio"])}  # fmt: skip
    return [first, *map(dict, draws)]


def section(cells: Sequence[Cell], methods: Sequence[str], draws: Sequence[Mapping[str, Any]]) -> list[str]:
    """A section on what telling one reference from the others gives, and runs from all of them together."""
    found = trainings(cells, draws)
    pairs = [told(one, [other]) for place, one in enumerate(found) for other in found[:place]]
    apart = {what: sum(pair[what] <= P for pair in pairs) for what in TESTED}
    lines = [
        "## Other trainings of the reference", "",
        "The reference trained once more with other first weights and another order is exact forgetting as well:", "",
        "    python -m tools.pocket_language --only pocket-lm-retained --draw N", "",
        "The reference is therefore a set: training 0, which is that of all other tables, and every other that was "
        "made. A run is compared with all of them together: its 60 values with 60 of each, by the same tests, its "
        "extraction with their mean. That was settled before any run was compared with training 2 or later; the mean "
        "probability of training 2 was known then.", "",
        "| training | probability | p against the others together | truth ratio, p | extraction above |",
        "|---|---|---|---|---|",
    ]  # fmt: skip
    for number, one in enumerate(found):
        others = [other for other in found if other is not one]
        p = told(one, others)
        mean, extraction = (sum(one[key]) / len(one[key]) for key in (TESTED["probability"], SPREAD))
        lines.append(f"| {number} | {mean:.3f} | {p['probability']:.3f} | {p['truth ratio']:.3f} | "
                     f"{100 * above(extraction, others):.1f} |")  # fmt: skip
    lines += ["", f"Of {len(pairs)} pairs of trainings the tests tell {apart['probability']} apart by probabilities "
              f"and {apart['truth ratio']} by truth ratios.",
              "No method can be asked for more than another training reaches.", "",
              "| method | probability, p | truth ratio, p | extraction above | not told from all, from training "
              + ", ".join(map(str, range(len(found)))) + " |", "|---|---|---|---|---|"]  # fmt: skip
    for name in methods:
        mine = [cell for cell in cells if cell["method"] == name]
        each = [told(cell["values"]["edited"], found) for cell in mine]
        spread = [100 * above(cell["table"]["edited"][SPREAD], found) for cell in mine]
        counts = [sum(min(told(cell["values"]["edited"], part).values()) > P for cell in mine)
                  for part in (found, *([one] for one in found))]  # fmt: skip
        lines.append(
            f"| `{name}` | " + " | ".join(span([one[what] for one in each]) for what in TESTED)
            + f" | {span(spread, 1)} | {counts[0]} of {len(mine)}, {' '.join(map(str, counts[1:]))} |"
        )  # fmt: skip
    return [*lines, ""]


def span(values: Sequence[float], digits: int = 3) -> str:
    """The lowest and the highest of values."""
    low, high = (f"{value:.{digits}f}" for value in (min(values), max(values)))
    return f"{low} .. {high}" if len(values) > 1 else low
