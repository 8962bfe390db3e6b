"""Other trainings of the reference of docs/results-language.md: what telling one from another gives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

#: p from which two samples are not told apart
P = 0.05
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
            for name in ("forget_probability", "forget_ratio", "forget_extraction")}  # fmt: skip


def section(cells: Sequence[Cell], methods: Sequence[str], draws: Sequence[Mapping[str, Any]]) -> list[str]:
    """A section on what telling one reference from another gives, and runs from another reference."""
    from erase_plugins.evaluation.language.metrics import ks_test

    twin, spread = cells[0]["values"]["reference"], cells[0]["table"]["reference"]["forget_extraction"]
    named = {"probability": "forget_probability", "truth ratio": "forget_ratio"}
    lines = [
        "## Another training of the reference", "",
        "The reference trained once more with other first weights and another order (`python -m tools.pocket_language "
        "--only pocket-lm-retained --draw N`) is exact forgetting as well. If a test tells it from the first one, no "
        "method can be asked for more.", "",
        "| | probability | p against the reference | truth ratio, p | extraction above |", "|---|---|---|---|---|",
    ]  # fmt: skip
    for number, draw in enumerate(draws, 1):
        p = {what: ks_test(draw[key], twin[key])[1] for what, key in named.items()}
        mean, extraction = (sum(draw[key]) / len(draw[key]) for key in ("forget_probability", "forget_extraction"))
        lines.append(f"| training {number} | {mean:.3f} | {p['probability']:.3f} | {p['truth ratio']:.3f} | "
                     f"{100 * (extraction - spread):.1f} |")  # fmt: skip
    lines += ["", "Runs that the tests do not tell from each (p > 0.05):", "",
              "| method | " + " | ".join(f"{what}, training {number}" for number in range(len(draws) + 1)
                                         for what in named) + " |",
              "|---" * (1 + len(named) * (len(draws) + 1)) + "|"]  # fmt: skip
    for name in methods:
        mine = [cell["values"]["edited"] for cell in cells if cell["method"] == name]
        counts = [sum(ks_test(run[key], one[key])[1] > P for run in mine) for one in (twin, *draws)
                  for key in named.values()]  # fmt: skip
        lines.append(f"| `{name}` | " + " | ".join(f"{count} of {len(mine)}" for count in counts) + " |")
    return [*lines, "", "Training 0 is the reference of all other tables.", ""]
