"""Every method against the plain procedure of its paper, on the embedded model.

    python -m benchmarks.methods [--methods esd,ace] [--concept pizza] [--run-plain] [--json]

Prints per method: rates of target, synonyms and what is kept, seconds, forward passes (samples through the denoiser),
peak memory, size of the smallest file. The plain procedure (`benchmarks.plain`) is counted for the same options, its
preparation and its training apart; with ``--run-plain`` it is run and judged, by its module's own code or, where that
names options, by our engine with these. Methods that by default hold words in place, which the paper does not, run once
more without (``COMPARED``): both procedures then do the same job. Each row runs in its own process, so that peak memory
is its own.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

COLUMNS = ("target", "synonyms", "kept", "seconds", "forwards", "peak_mb", "kB")


def main() -> None:
    """Runs the rows and prints the table, or one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", default="all", help="ids with commas")
    parser.add_argument("--concept", default="pizza")
    parser.add_argument("--images", type=int, default=32, help="pictures per prompt set")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--run-plain", action="store_true", help="run the plain procedures too; takes long")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--row", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.row:
        sys.stdout.write(json.dumps(measure(given)) + "\n")
        return
    from erase_plugins.comparison.run import parse_methods

    rows: dict[str, dict[str, Any]] = {}
    for method, _ in parse_methods([given.methods]):
        rows[method] = in_own_process(method, given)
        plain = counted(method, rows[method].get("options", {}))
        if plain is not None:
            rows[method]["plain"] = plain
            if given.run_plain and {"run", "OPTIONS"} & set(vars(plain_module(method))):
                rows[method]["plain"] |= in_own_process(f"plain:{method}", given)
                if hasattr(plain_module(method), "COMPARED"):
                    rows[method]["compared"] = in_own_process(f"compared:{method}", given)
    result = {"concept": given.concept, "images": given.images, "seed": given.seed, "rows": rows}
    sys.stdout.write(json.dumps(result) + "\n" if given.json else table(result))


def in_own_process(row: str, given: argparse.Namespace) -> dict[str, Any]:
    """One row; a row that fails says why and does not end the others."""
    command = [sys.executable, "-m", "benchmarks.methods", "--row", row, "--concept", given.concept]
    command += ["--images", str(given.images), "--seed", str(given.seed)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        return {"failed": (done.stderr.strip().splitlines() or ["no message"])[-1]}
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def measure(given: argparse.Namespace) -> dict[str, Any]:
    """Erases with a method's defaults, or by the plain procedure, and measures."""
    import erase_plugins as ep
    from erase_plugins.comparison.cells import Cell, run_cell

    pipe = ep.load("pocket")
    kind, _, name = given.row.rpartition(":")
    if kind == "plain" and not hasattr(plain_module(name), "OPTIONS"):
        return measure_plain(pipe, name, given)
    options = {**getattr(plain_module(name), "COMPARED", {})} if kind else {}
    if kind == "plain":
        options |= plain_module(name).OPTIONS
    with tempfile.TemporaryDirectory() as folder:
        cell = Cell(name, given.concept, options, images=given.images, seed=given.seed)
        found = run_cell(cell, pipe, Path(folder) / "cell")
    return {
        **rates(found["rates"], "edited"), "seconds": found["seconds"], "forwards": int(found["forwards"]),
        "peak_mb": found["peak_mb"], "kB": round(found["bytes"] / 1000), "options": found["options"],
    }  # fmt: skip


def measure_plain(pipe: Any, method: str, given: argparse.Namespace) -> dict[str, Any]:
    """Trains the pipeline in place as the paper says, then judges it."""
    import erase_plugins as ep
    from erase_plugins.comparison.cells import peak_memory
    from erase_plugins.workflow.models import target_of

    options = ep.plan("pocket", given.concept, method, seed=given.seed).options
    started = time.perf_counter()
    with peak_memory() as memory:
        forwards, _ = plain_module(method).run(target_of(pipe, "pocket"), given.concept, options, given.seed)
    seconds = round(time.perf_counter() - started, 1)
    report = ep.evaluate(pipe, (), erased=[given.concept], images=given.images, seed=given.seed)
    found: dict[str, dict[str, list[float]]] = {}
    for row in report.rows:
        found.setdefault(row.metric, {})[row.subject] = [row.value]
    return {**rates(found, "base"), "seconds": seconds, "forwards": forwards, "peak_mb": memory["peak_mb"]}


def rates(found: dict[str, dict[str, list[float]]], subject: str) -> dict[str, float]:
    """Shares of the three sets that the table shows."""
    names = {"target": "target_rate", "synonyms": "synonym_rate", "kept": "kept_rate"}
    return {short: round(found[name][subject][0], 4) for short, name in names.items()}


def plain_module(method: str) -> Any:
    """The module of a plain procedure; None if there is none."""
    name = f"benchmarks.plain.{method.replace('-', '_')}"
    return importlib.import_module(name) if importlib.util.find_spec(name) else None


def counted(method: str, options: dict[str, Any]) -> dict[str, Any] | None:
    """Forward passes of the plain procedure and of ours for the same options, and how many times fewer ours are."""
    module = plain_module(method)
    if module is None or not options:
        return None
    plain, ours = module.forwards(options), module.ours(options)
    ratio = {name: round(plain[name] / ours[name], 1) for name in plain if ours.get(name)}
    return {
        "counted": plain,
        "ours": ours,
        "ratio": {**ratio, "all": round(sum(plain.values()) / sum(ours.values()), 1)},
    }


def table(result: dict[str, Any]) -> str:
    """The result as Markdown."""
    lines = [
        f"'{result['concept']}' on pocket, {result['images']} pictures per prompt set, seed {result['seed']}",
        "",
        "| row | " + " | ".join(COLUMNS) + " | plain / ours (counted) |",
        "|---" * (len(COLUMNS) + 2) + "|",
    ]
    for name, row in result["rows"].items():
        plain = row.get("plain", {})
        ratio = ", ".join(f"{part} {value}" for part, value in plain.get("ratio", {}).items())
        lines.append(f"| {name} | " + " | ".join([*_cells(row), ratio]) + " |")
        if "compared" in row:
            lines.append(f"| {name}, nothing else held | " + " | ".join([*_cells(row["compared"]), ""]) + " |")
        if "seconds" in plain or "failed" in plain:
            lines.append(f"| {name}, plain | " + " | ".join([*_cells(plain), ""]) + " |")
    return "\n".join(lines) + "\n"


def _cells(row: dict[str, Any]) -> list[str]:
    if "failed" in row:
        return [f"failed: {row['failed']}", *[""] * (len(COLUMNS) - 1)]
    shares = [f"{100 * row[name]:.1f} %" for name in COLUMNS[:3]]
    return [*shares, *(str(row.get(name, "-")) for name in COLUMNS[3:])]


if __name__ == "__main__":
    main()
