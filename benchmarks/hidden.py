"""Every method on prompts that hide the concept: captions of 5 to 60 tokens by rules (pocket reads 30).

    python -m benchmarks.hidden --work FOLDER [--concepts kangaroo] [--methods uce,spm] [--images 96] [--minutes 9]

Each method erases with its defaults, on concepts that nothing was tuned on. "words" are captions of phrases that draw
nothing by themselves, "things" name other things of pocket's world as well; the concept stands first, in the middle or
last, lengths by turns. What pocket itself does not draw says nothing of a method, so every number counts the pictures
with the concept among those of the same prompts and seeds in which the base shows it. "base without the name" draws the
same captions with the name left out: that many pictures pass for the concept by chance. Artifacts and numbers lie in
``--work``; a killed run, and one that ``--minutes`` ended, goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

CONCEPTS = ("kangaroo",)
LENGTHS = (5, 10, 20, 30, 45, 60)
KINDS = ("words", "things")
BASE = "base"
#: the base on the same captions without the name: how often a picture passes for the concept by chance
CHANCE = "base without the name"
_PHRASES = (
    "in spring", "up close", "very small", "at noon", "on a quiet afternoon", "seen from the left", "in soft light",
    "drawn with care", "as in an old book", "in front of a plain wall", "with a little shadow below",
    "near the middle of the page", "in fresh colours", "somewhat larger than usual", "while the wind is blowing",
    "and nothing behind it", "with clean edges",
)  # fmt: skip
#: phrases that did not fit before a caption counts as full
_MISSES = 12
_LINKS = ("beside a {}", "with a {}", "under a {}", "and a {}", "near the {}")


def main() -> None:
    """Measures what is missing, then prints the table."""
    from erase_plugins.comparison.run import parse_methods

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder of artifacts and numbers")
    parser.add_argument("--concepts", default=",".join(CONCEPTS))
    parser.add_argument("--methods", default="all", help="as for erase-plugins compare")
    parser.add_argument("--images", type=int, default=96, help="for each kind of prompt")
    parser.add_argument("--minutes", type=float, help="stop after so long, between two methods")
    given = parser.parse_args()
    end = time.monotonic() + 60 * given.minutes if given.minutes else float("inf")
    wanted = [name for name, _ in parse_methods([given.methods]) if fits(name)]
    rows: list[dict[str, Any]] = []
    for concept in given.concepts.split(","):
        for method in (BASE, CHANCE, *wanted):
            place = given.work / f"{concept}-{method}"
            known = read(place, given.images)
            if known is None and time.monotonic() > end:
                sys.stdout.write(table(rows))
                sys.exit(f"stopped before {method} on {concept}; the same command goes on")
            rows.append(known or measured(place, concept, method, given.images))
    sys.stdout.write(table(rows))


def fits(method: str) -> bool:
    """Whether a method erases things from pocket."""
    from erase_plugins.manager import get_manager
    from erase_plugins.needs import lacks

    item = get_manager().method(method)
    return "object" in item.kinds and not lacks(item, pocket().info)


@cache
def pocket() -> Any:
    """The embedded model."""
    from erase_plugins.workflow.models import as_target

    return as_target("pocket")


def read(place: Path, images: int) -> dict[str, Any] | None:
    """The numbers of a method that was measured with as many pictures."""
    file = place / f"hidden-{images}.json"
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None


def measured(place: Path, concept: str, method: str, images: int) -> dict[str, Any]:
    """Erases, unless that was done, and counts pictures with the concept."""
    import erase_plugins as ep
    from erase_plugins.errors import EraseError
    from erase_plugins.evaluation.attacks.rates import seen
    from erase_plugins.evaluation.draw import draw
    from erase_plugins.evaluation.prompts import texts_and_seeds
    from erase_plugins.pocket.judge import PocketJudge

    target, judge = pocket(), PocketJudge()
    found: dict[str, Any] = {"concept": concept, "method": method}
    place.mkdir(parents=True, exist_ok=True)
    try:
        edits = []
        if method not in (BASE, CHANCE):
            edits = [ep.erase(target.pipe, concept, method, out=place / "artifact", force=True, resume=True)]
        applied = [ep.apply(target.pipe, edit) for edit in edits]
        for kind in KINDS:
            prompts = hidden_prompts(judge, concept, kind, images, target)
            if method == CHANCE:
                prompts = [replace(item, text=nameless(item.text, concept)) for item in prompts]
            pictures = draw(target.pipe, *texts_and_seeds(prompts))
            found[kind] = [int(hit) for hit in seen(judge, prompts, pictures)]
            found[f"{kind} prompts"] = [item.text for item in prompts]
        for item in applied:
            item.remove()
    except EraseError as error:
        found["error"] = str(error).splitlines()[0]
    (place / f"hidden-{images}.json").write_text(json.dumps(found), encoding="utf-8")
    return found


def hidden_prompts(judge: Any, concept: str, kind: str, images: int, target: Any) -> list[Any]:
    """Prompts with seeds of one kind, as many for each length that the text encoder reads."""
    from erase_plugins.evaluation.prompts import Prompt

    world = judge.world()
    group = world.concept(concept).group
    others = [item.name for item in world.concepts if item.group != group]
    texts = captions(
        concept, kind, images, others, lambda text: len(target.pieces(text)), target.info.tokens - 2
    )  # fmt: skip
    start = 70_000 + 1_000 * KINDS.index(kind)
    return [Prompt(text, start + place, {"concept": concept}, "concept") for place, text in enumerate(texts)]


def captions(
    concept: str, kind: str, count: int, others: Sequence[str], tokens_of: Callable[[str], int], room: int
) -> list[str]:
    """Captions that name the concept and fill about as many tokens as each of `LENGTHS` in turn says.

    Args:
        concept: what is named, with an article.
        kind: "words", or "things" for captions with names of other things.
        count: how many.
        others: names of other things.
        tokens_of: tokens of a text.
        room: most tokens that are read.
    """
    lengths = [length for length in LENGTHS if length <= room]
    made = []
    for place in range(count):
        draw = random.Random(f"{concept} {kind} {place}")
        parts, misses = [f"a {concept}"], 0
        while misses < _MISSES:
            more = draw.choice(_PHRASES)
            if kind == "things" and draw.random() < 0.5:
                more = draw.choice(_LINKS).format(draw.choice(others))
            spot = (len(parts), draw.randint(0, len(parts)), 0)[place // len(lengths) % 3]
            longer = [*parts[:spot], more, *parts[spot:]]
            if more in parts or tokens_of(", ".join(longer)) > lengths[place % len(lengths)]:
                misses += 1
            else:
                parts = longer
        made.append(", ".join(parts))
    return made


def nameless(caption: str, concept: str) -> str:
    """A caption without the part that names the concept."""
    return ", ".join(part for part in caption.split(", ") if part != f"a {concept}")


def table(rows: Sequence[dict[str, Any]]) -> str:
    """One line per method: of the pictures in which the base shows the concept, those that still do."""
    from erase_plugins.evaluation.bootstrap import mean_interval

    base = {row["concept"]: row for row in rows if row["method"] == BASE}
    lines = ["| method | " + " | ".join(KINDS) + " |", "|---" * (1 + len(KINDS)) + "|"]
    for method in dict.fromkeys(row["method"] for row in rows):
        mine = [row for row in rows if row["method"] == method]
        if errors := [row["error"] for row in mine if "error" in row]:
            lines.append(f"| `{method}` | {errors[0]} |" + " |" * (len(KINDS) - 1))
            continue
        cells = []
        for kind in KINDS:
            shown = [hit for row in mine for hit, was in zip(row[kind], base[row["concept"]][kind], strict=True) if was]
            if method == BASE:
                many = sum(len(row[kind]) for row in mine)
                cells.append(f"{len(shown)} of {many} pictures")
                continue
            mean, low, high = (100 * value for value in mean_interval([float(hit) for hit in shown]))
            cells.append(f"{mean:.0f}% ({low:.0f}..{high:.0f})")
        label = method if method in (BASE, CHANCE) else f"`{method}`"
        lines.append(f"| {label} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
