"""Attacks against the plain procedures of their papers, on the embedded model: passes at equal success, counted.

    python -m benchmarks.attacks [--concept owl] [--methods uce,esd] [--attacks ...] [--out attack_passes.json]

Passes are samples that go forward through the denoiser while the edited model is attacked (a backward pass doubles both
sides alike); for ``ring-a-bell``, which asks no denoiser, rows that go through the text encoder. Controls, and pictures
that measure the result, are left out on both sides. The plain procedures (`benchmarks.plain.attacks`) are run to the
end with the settings of the papers (`PLAIN`), with the same prompts, seeds and pictures. Where the plain one ends above
ours it is charged only for what it needed to be as good as ours, without a charge for looking. Rows that are done are
read from ``--out`` when the command is called again, and what a row has so far from the folder beside it, which may go
when all are done.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.plain.attacks import Way, genetic, learned_token, prefix_way, words_by_gradient

#: settings of the papers; of the learned token 1000 of the 5000 official steps, which is where others stop
PLAIN: dict[str, dict[str, Any]] = {
    "concept-inversion": {"steps": 1000, "batch": 16, "rate": 0.08},
    "unlearndiffatk": {"timesteps": 50, "steps": 40, "rate": 0.01},
    "ring-a-bell": {"population": 200, "generations": 3000},
}
#: of the learned token, which are prepared for both sides: pictures of the concept, and steps between looks
_PICTURES, _EVERY = 25, 50
#: what is demanded of ours
LEAST = 5.0
#: losses of the same row differ by so much where it is computed beside others
_ROUNDING = 1e-6


def inversion_passes(details: Mapping[str, Any], batch: int, steps: int, picture: int) -> int:
    """Passes of a learned token by the details of its report: training and looks; ``picture`` are those of one."""
    looks = details["looks"]["learned token, edited"]
    return batch * steps + len(looks) * max(details["images"] // 3, 1) * picture


def prefix_passes(details: Mapping[str, Any], picture: int) -> int:
    """Passes of words by gradient on the edited model: steps (forward), the screen, pictures that were looked at."""
    mine = details["results"]["on"]
    return int(mine["gradient_passes"]) // 2 + int(mine["screen_passes"]) + int(mine["looked"]) * picture


def needed(way: Way, goal: float) -> int:
    """Passes after which a plain procedure was as good as ``goal``; all of them if it never was."""
    return next((passes for passes, value in way if value >= goal), way[-1][0])


def charged(item: Mapping[str, Any]) -> int:
    """Passes of the plain procedure at the success of ours: all, or what it needed where it ended above ours.

    Zero where only the plain one found anything: no number of passes is as good as nothing.
    """
    if not item["plain_ends_better"]:
        return int(item["plain"])
    return int(item["in_time"]) if item["ours_found"] else 0


def _opened(pipe: Any, artifact: Any, attack: str, work: Path, settings: Mapping[str, Any]) -> tuple[Any, Any, Any]:
    """Attack, subject and budget as `erase_plugins.attack` makes them, with ``work`` for what is done."""
    from erase_plugins.evaluation.budget import Budget, find_budget
    from erase_plugins.evaluation.context import suite_options
    from erase_plugins.manager import get_manager
    from erase_plugins.workflow.measure import open_subject

    runner = get_manager().evaluator(attack, "attack")
    subject = open_subject(pipe, [artifact], runner)
    options = suite_options(runner, settings, "attack")
    work.mkdir(parents=True, exist_ok=True)
    name, queries = find_budget(runner, "quick", options)
    budget = Budget(subject.seed, "cpu", work, options, lambda stage, done, total: None, name, queries)
    return runner, subject, budget


def searched(pipe: Any, artifact: Any, prompts: Sequence[Mapping[str, Any]], work: Path) -> list[dict[str, Any]]:
    """What the plain genetic search finds for the prompts that ours was given: words, loss, and how it came there."""
    from erase_plugins.evaluation.attacks.encoder_search import direction, encoder_fitness
    from erase_plugins.evaluation.attacks.ring_a_bell import RingABellOptions, encoding, usual_words
    from erase_plugins.evaluation.attacks.vocabulary import forbidden_words, word_table
    from erase_plugins.judge_world import world_of

    _, subject, budget = _opened(pipe, artifact, "ring-a-bell", work, {})
    options, target, size = RingABellOptions(), subject.target, PLAIN["ring-a-bell"]
    table = word_table(target, forbidden_words(world_of(subject.judge), subject.erased, options.forbid))
    directions = {name: direction(subject, name, options.pairs) for name in subject.erased}
    made, places = [], usual_words(target)
    for number, item in enumerate(prompts):
        wanted = encoding(target, item["source"]) + item["eta"] * directions[item["shows"]]
        fitness = encoder_fitness(target, table, wanted)
        row, way = budget.remember(
            f"genetic-{number}", lambda fitness=fitness, number=number: genetic(
                fitness, places, len(table.words), size["population"], size["generations"], subject.seed + number
            )
        )  # fmt: skip
        made.append({**item, "prompt": table.text(row), "loss": way[-1][1], "way": way})
    return made


def _token(pipe: Any, artifact: Any, attack: str, ours: Any, work: Path) -> dict[str, Any]:
    from erase_plugins.evaluation.attacks.rates import picture_passes, rate

    runner, subject, budget = _opened(pipe, artifact, attack, work, {"pictures": _PICTURES})
    hits, way = budget.remember("plain", lambda: learned_token(runner, subject, budget, **PLAIN[attack], every=_EVERY))
    success = rate("", "", hits, subject.seed)
    return {
        "ours": inversion_passes(ours.details, 8, ours.found["steps"], picture_passes(subject)),
        "plain": way[-1][0], "in_time": needed(way, ours.success.value), "plain_success": _row(success),
        "plain_ends_better": success.value > ours.success.value, "ours_found": ours.success.value > 0,
    }  # fmt: skip


def _words(pipe: Any, artifact: Any, attack: str, ours: Any, work: Path) -> dict[str, Any]:
    from erase_plugins.evaluation.attacks.rates import picture_passes, rate
    from erase_plugins.evaluation.attacks.unlearndiffatk import _SIZES

    _, subject, budget = _opened(pipe, artifact, attack, work, {})
    size, picture = PLAIN[attack], picture_passes(subject)
    found = words_by_gradient(subject, budget, _SIZES["quick"][0], **size)
    way = prefix_way(found["found"], size["timesteps"], size["steps"], picture)
    success = rate("", "", found["hits"], subject.seed)
    return {
        "ours": prefix_passes(ours.details, picture), "plain": way[-1][0], "in_time": needed(way, ours.success.value),
        "plain_success": _row(success), "plain_ends_better": success.value > ours.success.value,
        "ours_found": ours.details["results"]["on"]["hits"] != ours.details["results"]["on"]["before"],
    }  # fmt: skip


def _genetic(pipe: Any, artifact: Any, attack: str, ours: Any, work: Path) -> dict[str, Any]:
    """Success is the loss here, which is what both search for; what is drawn of the prompts is told beside it."""
    import erase_plugins as ep
    from erase_plugins.evaluation.attacks import ring_a_bell

    prompts = ours.details["prompts"]
    made = searched(pipe, artifact, prompts, work)
    place = work / "prompts.json"
    file = {"kind": ring_a_bell.KIND, "concepts": list(ours.erased), "prompts": made}
    place.write_text(json.dumps(file), encoding="utf-8")
    drawn = ep.attack(pipe, artifact, attack, settings={"prompts": str(place)})
    ways = [[(asked, -loss) for asked, loss in item["way"]] for item in made]
    goals = [-item["loss"] * (1 + _ROUNDING) for item in prompts]
    losses = [sum(item["loss"] for item in items) / len(items) for items in (prompts, made)]
    return {
        "ours": ours.details["encoder_passes"], "plain": sum(way[-1][0] for way in ways),
        "in_time": sum(map(needed, ways, goals)), "plain_success": _row(drawn.success), "losses": losses,
        "plain_ends_better": losses[1] < losses[0] * (1 - _ROUNDING), "ours_found": True,
    }  # fmt: skip


def _row(success: Any) -> list[float]:
    return [success.value, success.low, success.high, success.n]


#: attack -> the plain side; settings of ours, by what a table calls them
SIDES = {"concept-inversion": _token, "unlearndiffatk": _words, "ring-a-bell": _genetic}
OURS: dict[str, dict[str, dict[str, Any]]] = {"ring-a-bell": {"": {}, "by gradient": {"search": "gradient"}}}


def row(attack: str, variant: str, method: str, concept: str, work: Path) -> dict[str, Any]:
    """Runs ours and the plain procedure on one erased model."""
    import erase_plugins as ep

    pipe, place = ep.load("pocket"), work / f"{concept}-{method}"
    artifact = place if place.is_dir() else ep.erase(pipe, concept, method, out=place)
    settings = OURS.get(attack, {"": {}})[variant]
    ours = ep.attack(pipe, artifact, attack, settings=settings, out=work / f"ours-{variant}", force=True)
    side = work / f"{concept}-{attack}" / ("" if attack == "ring-a-bell" else method)  # it asks no edit
    return {
        "attack": attack, "variant": variant, "method": method, "concept": concept, "success": _row(ours.success),
        **SIDES[attack](pipe, artifact, attack, ours, side),
    }  # fmt: skip


def table(rows: list[Mapping[str, Any]]) -> str:
    """Markdown; a row that does not hold what is demanded says so."""
    names = ("attack", "success, plain", "ours", "passes, plain", "until as good as ours", "ours", "times fewer")
    lines = [f"| {' | '.join(names)} |", "|---" * len(names) + "|"]
    for item in rows:
        asked, ratio = charged(item), charged(item) / max(item["ours"], 1)
        shares = [f"{value:.0%} [{100 * low:.0f}..{100 * high:.0f}]" for value, low, high, _ in
                  (item["plain_success"], item["success"])]  # fmt: skip
        if "losses" in item:
            shares = [f"{share}, loss {loss:.0f}" for share, loss in zip(shares, item["losses"][::-1], strict=True)]
        what = ", ".join(part for part in (f"`{item['attack']}`", f"`{item['method']}`", item["variant"]) if part)
        told = (
            f"{ratio:.1f}"
            if ratio >= LEAST
            else f"{ratio:.1f} (less than {LEAST:g})"
            if asked
            else "ours found nothing"
        )
        lines.append(
            f"| {' | '.join((what, *shares))} | {item['plain']} | {item['in_time']} | {item['ours']} | {told} |"
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
    done = {(item["attack"], item["variant"], item["method"], item["concept"]) for item in rows}
    for attack in given.attacks.split(","):
        for variant in OURS.get(attack, {"": {}}):
            for method in given.methods.split(","):
                if (attack, variant, method, given.concept) in done:
                    continue
                rows.append(row(attack, variant, method, given.concept, given.out.with_suffix(".work")))
                with atomic_file(given.out) as work:
                    work.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    sys.stdout.write(table(rows) + "\n")


if __name__ == "__main__":
    main()
