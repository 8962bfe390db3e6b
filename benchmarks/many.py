"""Twenty concepts erased together and one after another, and one of them revoked, on the embedded model.

    python -m benchmarks.many [--methods uce,rece,mace,spm] [--images 100] [--ways joint,one-by-one,revoked]

Prints shares of pictures before and after. ``one-by-one`` adds concept after concept to an artifact; ``revoked`` takes
``--revoke`` out of the joint one and also counts the pictures in which it is back.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

CONCEPTS = (
    "tiger", "owl", "pizza", "donut", "guitar", "umbrella", "car", "rocket", "rose", "ghost", "gun", "syringe", "dog",
    "camera", "clown", "bomb", "airplane", "cactus", "crown", "laptop",
)  # fmt: skip
METRICS = ("target_rate", "synonym_rate", "neighbour_rate", "kept_rate", "style_rate")
WAYS = ("joint", "one-by-one", "revoked")


def main() -> None:
    """Runs the wanted rows and prints them as they come; ``--json`` writes them as well."""
    import erase_plugins as ep

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", default="uce,rece,mace,spm")
    parser.add_argument("--ways", default=",".join(WAYS))
    parser.add_argument("--images", type=int, default=100, help="pictures per prompt set")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--revoke", default="guitar", choices=CONCEPTS)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    pipe = ep.load("pocket")
    rows: list[dict[str, Any]] = []
    sys.stdout.write("| method | way | " + " | ".join(METRICS) + " | revoked is back | seconds |\n")
    sys.stdout.write("|---" * (len(METRICS) + 4) + "|\n")
    for method in given.methods.split(","):
        joint = None
        for way in given.ways.split(","):
            started = time.perf_counter()
            artifact = one_by_one(pipe, method, given.seed) if way == "one-by-one" else joint
            if artifact is None:
                artifact = joint = ep.erase(pipe, CONCEPTS, method, seed=given.seed)
            if way == "revoked":
                artifact = ep.revoke(artifact, given.revoke)
            seconds = time.perf_counter() - started
            rows.append({"method": method, "way": way, "seconds": seconds, **measured(pipe, artifact, given, way)})
            sys.stdout.write(line(rows[-1]))
            sys.stdout.flush()
    if given.json is not None:
        given.json.write_text(json.dumps(rows, indent=1), encoding="utf-8")


def one_by_one(pipe: Any, method: str, seed: int) -> Any:
    """The first concept erased, every further one added."""
    import erase_plugins as ep
    from erase_plugins.workflow.models import target_of

    target = target_of(pipe, "pocket")
    artifact = ep.erase(pipe, CONCEPTS[0], method, seed=seed)
    for concept in CONCEPTS[1:]:
        artifact = ep.add(artifact, concept, target)
    return artifact


def measured(pipe: Any, artifact: Any, given: argparse.Namespace, way: str) -> dict[str, Any]:
    """Rates of the base and of the artifact, and of a revoked concept alone."""
    import erase_plugins as ep

    report = ep.evaluate(pipe, artifact, images=given.images, seed=given.seed)
    subjects = ("base", "edited")
    found: dict[str, Any] = {name: {metric: report.row(metric, name).value for metric in METRICS} for name in subjects}
    if way == "revoked":
        back = ep.evaluate(pipe, artifact, erased=[given.revoke], images=32, seed=given.seed)
        found["back"] = [back.row("target_rate", name).value for name in subjects]
    return found


def line(row: dict[str, Any]) -> str:
    """One row of the table: before -> after."""
    shown = [f"{row['base'][name]:.0%} -> {row['edited'][name]:.0%}" for name in METRICS]
    back = f"{row['back'][1]:.0%} of {row['back'][0]:.0%}" if "back" in row else "-"
    return f"| {row['method']} | {row['way']} | {' | '.join(shown)} | {back} | {row['seconds']:.0f} |\n"


if __name__ == "__main__":
    main()
