"""Attacks against the plain procedures of their papers, on the embedded model: passes at equal success, counted.

    python -m benchmarks.attacks [--concept owl] [--methods uce,esd] [--attacks ...] [--out attack_passes.json]

Passes are samples that go forward through the denoiser while the edited model is attacked (a backward pass doubles both
sides alike); for ``ring-a-bell``, which asks no denoiser, rows that go through the text encoder. Controls, and pictures
that measure the result, are left out on both sides. The plain procedures run by our own code with the settings of the
papers (`PLAIN`). A learned token has a fixed number of steps there; beside them stands what it would have spent had it
stopped at the look at which it was as successful as ours, without a charge for looking. A row that is done is read from
``--out`` when the command is called again.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

#: settings of the papers; of the learned token 1000 of the 5000 official steps, which is where others stop
PLAIN: dict[str, dict[str, Any]] = {
    "concept-inversion": {"early": "no", "batch": 16, "steps": 1000},
    "unlearndiffatk": {"screen": "no", "timesteps": 50, "steps": 40, "lr": 0.01},
    "ring-a-bell": {"population": 200, "generations": 3000},
}
#: what is demanded of ours
LEAST = 5.0


def inversion_passes(details: Mapping[str, Any], batch: int, steps: int, picture: int, goal: float = 2.0) -> int:
    """Passes of a learned token: training and looks until the end, or training alone until a look reaches ``goal``.

    Args:
        details: of the report.
        batch, steps: pictures per training step, and steps of the run.
        picture: passes for one picture.
        goal: share of pictures; above 1 for the whole run with its looks.
    """
    looks = {int(done): share for done, share in details["looks"]["learned token, edited"].items()}
    if goal <= 1:
        return batch * next((done for done, share in sorted(looks.items()) if share >= goal), steps)
    return batch * steps + len(looks) * max(details["images"] // 3, 1) * picture


def prefix_passes(details: Mapping[str, Any], picture: int) -> int:
    """Passes of words by gradient on the edited model: steps (forward), the screen, pictures that were looked at."""
    mine = details["results"]["on"]
    return int(mine["gradient_passes"]) // 2 + int(mine["screen_passes"]) + int(mine["looked"]) * picture


def genetic_passes(prompts: int, population: int, generations: int) -> int:
    """Rows through the text encoder for a search that evaluates all of every generation."""
    return prompts * population * generations


def row(attack: str, method: str, concept: str, work: Path) -> dict[str, Any]:
    """Runs ours and the plain procedure on one erased model."""
    import erase_plugins as ep
    from erase_plugins.evaluation.attacks import ring_a_bell, unlearndiffatk

    pipe = ep.load("pocket")
    artifact = ep.erase(pipe, concept, method)
    ours = ep.attack(pipe, artifact, attack, out=work / "ours", force=True)
    picture = (ours.passes - ours.details.get("training_passes", 0)) // max(ours.queries, 1)
    found: dict[str, Any] = {"attack": attack, "method": method, "concept": concept, "success": ours.success.value}
    if attack == "ring-a-bell":  # searched once for all artifacts of a text encoder, by both
        count = len(ours.details["prompts"])
        asked = genetic_passes(count, *ring_a_bell._SIZES["quick"][1:])
        return {**found, "ours": ours.details["encoder_passes"], "plain": asked, "plain_success": None}
    if attack == "unlearndiffatk":
        picture = ours.details["picture_passes"] // ours.details["pictures"]
        size = unlearndiffatk._pictures(ours.details["prompts"], PLAIN[attack]["timesteps"])
        plain = ep.attack(pipe, artifact, attack, budget=size, settings=PLAIN[attack], out=work / "plain", force=True)
        counts = prefix_passes(ours.details, picture), prefix_passes(plain.details, picture)
    else:
        plain = ep.attack(pipe, artifact, attack, settings=PLAIN[attack], out=work / "plain", force=True)
        batch, steps = PLAIN[attack]["batch"], PLAIN[attack]["steps"]
        goal = min(ours.success.value, 0.9)
        found["in_time"] = inversion_passes(plain.details, batch, steps, picture, goal)
        counts = inversion_passes(ours.details, 8, ours.found["steps"], picture), batch * steps
    return {**found, "ours": counts[0], "plain": counts[1], "plain_success": plain.success.value}


def table(rows: list[Mapping[str, Any]]) -> str:
    """Markdown; a row that does not hold what is demanded says so."""
    names = ("attack", "method", "success, plain", "passes, plain", "had it stopped in time", "ours", "times fewer")
    lines = [f"| {' | '.join(names)} |", "|---" * len(names) + "|"]
    for item in rows:
        ratio = item["plain"] / max(item["ours"], 1)
        other = "same search" if item["plain_success"] is None else f"{item['plain_success']:.0%}"
        told = f"{ratio:.1f}" if ratio >= LEAST else f"{ratio:.1f} (less than {LEAST:g})"
        lines.append(
            f"| {item['attack']} | `{item['method']}` | {item['success']:.0%}, {other} | {item['plain']} | "
            f"{item.get('in_time', '-')} | {item['ours']} | {told} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Reads the command line, runs what is missing, prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--concept", default="owl")
    parser.add_argument("--methods", default="uce,esd", help="ids with commas")
    parser.add_argument("--attacks", default=",".join(PLAIN), help="ids with commas")
    parser.add_argument("--out", type=Path, default=Path("attack_passes.json"))
    given = parser.parse_args()
    from erase_plugins.artifacts.atomic import atomic_file

    rows = json.loads(given.out.read_text(encoding="utf-8")) if given.out.is_file() else []
    done = {(item["attack"], item["method"], item["concept"]) for item in rows}
    for attack in given.attacks.split(","):
        for method in given.methods.split(","):
            if (attack, method, given.concept) in done:
                continue
            with tempfile.TemporaryDirectory() as folder:
                rows.append(row(attack, method, given.concept, Path(folder)))
            with atomic_file(given.out) as work:
                work.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    sys.stdout.write(table(rows) + "\n")


if __name__ == "__main__":
    main()
