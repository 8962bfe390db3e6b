"""Defaults of the baselines on data that they were not chosen on: the gap to retraining, and classes.

Part of `benchmarks.unlearners`. Rates and epochs come from the papers, not from these tables. Single pictures of
scikit-learn's digits are in the table of sets; here a class of `pocket-classifier` is forgotten.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from erase_plugins.artifacts.atomic import atomic_file

METHODS = (
    "finetune", "l1-sparse", "random-label", "salun", "gradient-ascent", "negative-gradient-plus", "boundary-shrink",
    "boundary-expand", "eu-k", "cf-k", "scrub", "influence", "ssd", "class-mean-head",
)  # fmt: skip
MODEL, CLASS = "pocket-classifier", "tractor"


def run(work: Path, tell: Callable[[str], None]) -> dict[str, Any]:
    """Does what is missing; method -> what is left of a class, of the others, and seconds."""
    import erase_plugins as ep
    from benchmarks.unlearner_classes import measured
    from erase_plugins.workflow.models import as_target

    place = work / "defaults"
    place.mkdir(parents=True, exist_ok=True)
    target, found = as_target(MODEL), {}
    for method in METHODS:
        file = place / f"class-{method}.json"
        if not file.exists():
            tell(f"{method} on a class of {MODEL}")
            made = ep.erase(target, [CLASS], method, kind="class")
            row = {**measured(target, [made], [CLASS]), "seconds": made.manifest.seconds}
            with atomic_file(file) as out:
                out.write_text(json.dumps(row), encoding="utf-8")
        found[method] = json.loads(file.read_text(encoding="utf-8"))
    return {"class": found, "before": measured(target, [], [CLASS])}


def page(done: dict[str, Any]) -> list[str]:
    """Lines of the page."""
    before = done["before"]
    lines = [
        "## Defaults of the baselines on a class",
        "",
        "Rates, epochs and batches are those of the papers, an epoch being one pass over the pictures; nothing was "
        f"chosen on this table. `{MODEL}` forgets {CLASS} (before: {before['forgotten'][CLASS]:.0f} %, the others "
        f"{before['kept']:.1f} %, held-out pictures, mean over classes).",
        "",
        "| method | left of the class | others | seconds |",
        "|---|---|---|---|",
    ]
    for method, row in done["class"].items():
        lines.append(f"| {method} | {row['forgotten'][CLASS]:.0f} % | {row['kept']:.1f} % | {row['seconds']:.0f} |")
    return [*lines, ""]
