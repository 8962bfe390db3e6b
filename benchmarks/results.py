"""Makes docs/results.md: every method with its defaults on twelve concepts of the embedded model.

    python -m benchmarks.results --out docs

Each run of one method on one concept is kept in the work folder, so an interrupted table goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

CONCEPTS = (
    "tiger", "owl", "pizza", "donut", "guitar", "umbrella", "car", "rocket", "rose", "ghost", "gun", "syringe"
)  # fmt: skip
#: label -> (method, options); defaults only, but for the row that mines aliases
RUNS: dict[str, tuple[str, dict[str, Any]]] = {
    "uce": ("uce", {}),
    "uce, aliases=true": ("uce", {"aliases": True}),
    "rece": ("rece", {}),
    "esd": ("esd", {}),
    "mace": ("mace", {}),
    "spm": ("spm", {}),
    "leco": ("leco", {}),
    "concept-ablation": ("concept-ablation", {}),
}
METRICS = ("target_rate", "synonym_rate", "neighbour_rate", "kept_rate", "style_rate", "background_rate")


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs what is missing and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("docs"))
    parser.add_argument("--work", type=Path, default=Path("runs/results"))
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", action="append", choices=sorted(RUNS), help="runs to do (default: all)")
    parser.add_argument("--concepts", nargs="+", default=list(CONCEPTS))
    given = parser.parse_args(arguments)
    labels = given.only or list(RUNS)
    cells = measure(labels, given.concepts, given.work, given.images, given.seed)
    given.out.mkdir(parents=True, exist_ok=True)
    (given.out / "results.md").write_text(table(cells, given.images, given.seed), encoding="utf-8")
    (given.out / "results.json").write_text(json.dumps(cells, indent=1, sort_keys=True), encoding="utf-8")


def measure(labels: Sequence[str], concepts: Sequence[str], work: Path, images: int, seed: int) -> list[dict[str, Any]]:
    """One cell per run and concept; finished ones are read from ``work``."""
    import erase_plugins as ep

    work.mkdir(parents=True, exist_ok=True)
    pipe = None
    cells = []
    for concept in concepts:
        for label in labels:
            file = work / f"{concept}-{label.replace(', ', '-').replace('=', '-')}-{images}-{seed}.json"
            if not file.exists():
                pipe = pipe or ep.load("pocket")
                cell = run_cell(pipe, label, concept, images, seed)
                file.write_text(json.dumps(cell), encoding="utf-8")
                shown = {name: round(cell["rates"][name]["edited"][0], 3) for name in METRICS if name in cell["rates"]}
                print(f"{concept} {label}: {shown} {cell['seconds']} s", flush=True)
            cells.append(json.loads(file.read_text(encoding="utf-8")))
    return cells


def run_cell(pipe: Any, label: str, concept: str, images: int, seed: int) -> dict[str, Any]:
    """Erases one concept with defaults and measures it."""
    import erase_plugins as ep

    method, options = RUNS[label]
    started = time.perf_counter()
    artifact = ep.erase(pipe, concept, method=method, options=options, seed=seed)
    seconds = round(time.perf_counter() - started, 2)
    report = ep.evaluate(pipe, artifact, images=images, seed=seed)
    rates: dict[str, dict[str, list[float]]] = {}
    for row in report.rows:
        rates.setdefault(row.metric, {})[row.subject] = [row.value, row.low, row.high, row.n]
    return {
        "label": label, "method": method, "options": options, "concept": concept, "seconds": seconds,
        "rank": artifact.manifest.rank, "numbers": artifact.manifest.extra.get("numbers", {}), "rates": rates,
        "change": report.details["change"], "warnings": list(report.warnings), "judge": report.judge_hash,
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024, "images": images, "seed": seed,
    }  # fmt: skip


def table(cells: Sequence[dict[str, Any]], images: int, seed: int) -> str:
    """Markdown with one summary and one row per concept."""
    labels = list(dict.fromkeys(cell["label"] for cell in cells))
    concepts = list(dict.fromkeys(cell["concept"] for cell in cells))
    lines = [
        "# Results on the embedded model",
        "",
        f"Made by `python -m benchmarks.results --images {images} --seed {seed}` on "
        f"{datetime.now(UTC).strftime('%Y-%m-%d')}; {len(concepts)} concepts, {images} pictures per concept "
        "and prompt set, defaults only. Rates are shares of pictures in which the judge sees what the prompt names. "
        "Synonyms are never "
        "given to a method. Intervals are 95 % bootstrap over concepts.",
        "",
        "| run | target | synonyms | neighbours | kept | kept, change (points) | style | background | seconds |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    base = [cell for cell in cells if cell["label"] == labels[0]]
    lines.append(_row("base model", base, "base"))
    lines += [_row(label, [cell for cell in cells if cell["label"] == label], "edited") for label in labels]
    lines += ["", "## Per concept (target / synonyms / kept)", "", "| concept | " + " | ".join(labels) + " |"]
    lines.append("|---" * (len(labels) + 1) + "|")
    for concept in concepts:
        row = [concept]
        for label in labels:
            found = next((cell for cell in cells if (cell["label"], cell["concept"]) == (label, concept)), None)
            rates = found["rates"] if found else {}
            names = ("target_rate", "synonym_rate", "kept_rate")
            row.append(" / ".join(_percent(rates.get(name, {}).get("edited")) for name in names))
        lines.append("| " + " | ".join(row) + " |")
    controls = [cell["rates"]["kept_rate"]["destroyed"][0] for cell in base]
    warned = sorted({text for cell in cells for text in cell["warnings"]})
    lines += [
        "",
        f"Controls: kept rate of a destroyed model {sum(controls) / len(controls):.1%}; pictures at strength 0 "
        "are compared with the base's in every run" + (f". Warnings: {'; '.join(warned)}." if warned else ": equal."),
        "",
    ]
    return "\n".join(lines)


def _row(name: str, cells: Sequence[dict[str, Any]], subject: str) -> str:
    from erase_plugins.evaluation.bootstrap import mean_interval

    parts = [name]
    for metric in METRICS:
        values = [cell["rates"][metric][subject][0] for cell in cells if metric in cell["rates"]]
        mean, low, high = mean_interval(values)
        parts.append(f"{mean:.1%} ({low:.1%}..{high:.1%})")
        if metric == "kept_rate":
            drops = [100 * cell["change"]["kept_rate"][0] for cell in cells]
            parts.append("-" if subject == "base" else f"{sum(drops) / len(drops):+.1f}")
    parts.append("-" if subject == "base" else f"{sum(cell['seconds'] for cell in cells) / len(cells):.1f}")
    return "| " + " | ".join(parts) + " |"


def _percent(value: list[float] | None) -> str:
    return "-" if value is None else f"{value[0]:.0%}"


if __name__ == "__main__":
    main()
