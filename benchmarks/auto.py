"""`auto` against every single method with its defaults, on concepts that nothing was tuned on.

    python -m benchmarks.auto --work FOLDER [--concepts kangaroo,popcorn] [--minutes 5] [--methods uce,few-shot]

For each concept `auto` searches on pocket for ``--minutes`` of processor time. Then what it wrote and each method
with its defaults are measured alike, with other prompts and pictures than the search has seen: what is left
(probability that the judge gives to the concept by name, synonyms and descriptions, over that of the base) with a 95
% interval, and change elsewhere. A method is better if its change is that of `auto` or less (up to 0.005, which nobody
sees) and clearly less is left, which is: the interval of the difference over the same pictures lies below 0. Of a
method that changes more elsewhere no picture is drawn, since it cannot be better (``--all`` draws them too). Searches
and numbers lie in ``--work``; a killed run goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from functools import cache
from pathlib import Path
from typing import Any

CONCEPTS = ("shrimp", "snail", "pill", "wine", "sushi", "trophy")
#: those of docs/results.md that take less than a minute; --methods names others
METHODS = "oce,null-space,few-shot,uce,uce:aliases=true,semantic-surgery,rece,mace,trce,adavd"
AUTO = "auto"
#: differences of change that count as none
EQUAL = 0.005
#: of prompts and pictures; a search has 0
SEED = 1


def main() -> None:
    """Prints a table per concept, then who was better."""
    from erase_plugins.comparison.run import parse_methods

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder of searches and numbers")
    parser.add_argument("--concepts", default=",".join(CONCEPTS))
    parser.add_argument("--methods", default=METHODS, help="as for erase-plugins compare")
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--images", type=int, default=32, help="for each kind of prompt")
    parser.add_argument("--all", action="store_true", help="draw pictures of methods that change too much as well")
    given = parser.parse_args()
    given.work.mkdir(parents=True, exist_ok=True)
    wanted = [(AUTO, dict[str, Any]()), *parse_methods([given.methods])]
    better = []
    for concept in given.concepts.split(","):
        rows: list[dict[str, Any]] = []
        for method, options in wanted:
            most = rows[0]["change"] + EQUAL if rows and not given.all else float("inf")
            rows.append(row(given.work, concept, method, options, given, most))
            sys.stderr.write(f"{concept}: {rows[-1]['label']}, change {rows[-1]['change']:.3f}\n")
        sys.stdout.write(table(concept, rows))
        sys.stdout.flush()
        better += [f"{item['label']} on {concept}" for item in rows[1:] if beats(item, rows[0])]
    sys.stdout.write(f"\nbetter than auto: {', '.join(better) or 'none'}\n")


def row(
    work: Path, concept: str, method: str, options: dict[str, Any], given: argparse.Namespace, most: float
) -> dict[str, Any]:
    """The numbers of one method on one concept; read where they were measured. Beyond ``most`` change no picture."""
    label = ":".join([method, *(f"{name}={value}" for name, value in options.items())])
    budget = f"-{given.minutes:g}" if method == AUTO else ""
    place = work / f"{concept}-{label.replace(':', '-').replace('=', '-')}{budget}-{given.images}.json"
    if place.is_file():
        known: dict[str, Any] = json.loads(place.read_text(encoding="utf-8"))
        if known["values"] or known["change"] > most:
            return known
    artifact, seconds, told = made(work, concept, method, options, given.minutes)
    stick = yardstick(concept, given.images)
    facts = {"label": label + told, "seconds": seconds, "change": stick.change(artifact), "values": [], "parts": {}}
    if facts["change"] <= most:
        found = stick.measure(artifact)
        facts |= {"left": found.left, "parts": found.parts, "values": list(found.values)}
    place.write_text(json.dumps(facts), encoding="utf-8")
    return facts


def made(work: Path, concept: str, method: str, options: dict[str, Any], minutes: float) -> tuple[Any, float, str]:
    """An artifact, the processor seconds it took, and what of a search was taken."""
    import erase_plugins as ep

    if method != AUTO:
        pipe, started = ep.load("pocket"), time.process_time()
        return ep.erase(pipe, concept, method, options=options), time.process_time() - started, ""
    found = ep.auto("pocket", concept, minutes=minutes, out=work / concept, force=True)
    return found.artifact, found.seconds, f" ({found.taken.label}; {found.trials} trials; {found.stopped})"


@cache
def yardstick(concept: str, images: int) -> Any:
    """What measures all edits of a concept."""
    from erase_plugins.autotune.measure import Yardstick
    from erase_plugins.pocket.judge import PocketJudge
    from erase_plugins.types import Concept
    from erase_plugins.workflow.models import as_target

    return Yardstick(as_target("pocket"), Concept(concept), judges=[PocketJudge()], images=images, seed=SEED)


def beats(item: dict[str, Any], auto: dict[str, Any]) -> bool:
    """Whether clearly less is left at equal or less change elsewhere."""
    from erase_plugins.evaluation.bootstrap import paired_difference

    if item["change"] > auto["change"] + EQUAL:
        return False
    _, _, high = paired_difference(auto["values"], item["values"])
    return bool(high < 0)


def table(concept: str, rows: list[dict[str, Any]]) -> str:
    """One line per method."""
    from erase_plugins.evaluation.bootstrap import mean_interval

    kinds = list(rows[0]["parts"])
    lines = [
        "",
        f"| {concept} | left | " + " | ".join(kinds) + " | change | seconds |",
        "|---" * (len(kinds) + 4) + "|",
    ]
    for item in rows:
        shown = "-"
        if item["values"]:
            mean, low, high = (100 * value for value in mean_interval(item["values"]))
            shown = f"{mean:.1f} ({low:.1f} to {high:.1f})"
        cells = [f"{100 * item['parts'][name]:.1f}" if item["values"] else "-" for name in kinds]
        lines.append(
            f"| {item['label']} | {shown} | " + " | ".join(cells)
            + f" | {item['change']:.3f} | {item['seconds']:.0f} |"
        )  # fmt: skip
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    main()
