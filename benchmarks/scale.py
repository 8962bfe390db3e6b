"""Twenty or a hundred of pocket's 156 concepts erased together by closed forms, measured on all the others.

    python -m benchmarks.scale --out FOLDER [--concepts 20] [--methods uce,uce:aliases=true,null-space,oce]

Draws every erased concept, each of its synonyms (never given to a method) and every other concept ``--pictures`` times
in changing phrasings, and prints shares of pictures in which the judge sees what the prompt names, with 95 % intervals.
Pictures that were judged are noted in ``--out`` under the edit that they were drawn with, so a killed run goes on where
it was and an edit that changed is measured anew.

``--set held-apart`` takes other concepts, to choose settings on; the numbers to quote are those of ``--set test``.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.many import CONCEPTS

SETS = ("test", "held-apart")
PARTS = ("target", "synonyms", "kept", "style")
METHODS = "uce,uce:aliases=true,null-space,null-space:anchor=safe-span,oce"
#: pictures that are drawn and noted together
_PART = 128


def main() -> None:
    """Prints the table row by row."""
    from erase_plugins.comparison.run import parse_methods

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", default=METHODS, help="as for erase-plugins compare")
    parser.add_argument("--concepts", type=int, default=20)
    parser.add_argument("--set", choices=SETS, default=SETS[0], dest="which")
    parser.add_argument("--pictures", type=int, default=2, help="of every word")
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True, help="folder of what was judged")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    gone = erased(given.concepts, given.which)
    sets = prompts(gone, given.pictures, given.seed)
    base = hits(sets, None, given)
    sys.stdout.write("| method | " + " | ".join(PARTS) + " | kept lost | seconds |\n" + "|---" * 7 + "|\n")
    sys.stdout.write(line("base", base, base, 0.0))
    for method, options in parse_methods([given.methods]):
        artifact, seconds = made(method, options, gone)
        label = ":".join([method, *(f"{name}={value}" for name, value in options.items())])
        sys.stdout.write(line(label, hits(sets, artifact, given), base, seconds))
        sys.stdout.flush()


def erased(count: int, which: str) -> tuple[str, ...]:
    """The concepts that are erased.

    The test set of twenty is that of `benchmarks.many`, the other one none of them; sets of a hundred overlap.
    """
    from erase_plugins.pocket.world import pocket_world

    names = [item.name for item in pocket_world().concepts]
    if which == "test" and count == len(CONCEPTS):
        return CONCEPTS
    others = [name for name in names if name not in CONCEPTS]
    pool = others if which != "test" and count <= len(others) - len(CONCEPTS) else names
    return tuple(random.Random(SETS.index(which)).sample(pool, count))


def prompts(gone: tuple[str, ...], pictures: int, seed: int) -> dict[str, list[Any]]:
    """Target, synonym and kept prompts; every word in another phrasing each time."""
    from erase_plugins.evaluation.prompts import worded_prompts
    from erase_plugins.pocket.judge import PocketJudge

    judge = PocketJudge()
    concepts = judge.world().concepts
    words = {
        "target": [(name, name) for name in gone],
        "synonyms": [(word, item.name) for item in concepts if item.name in gone for word in item.synonyms],
        "kept": [(item.name, item.name) for item in concepts if item.name not in gone],
    }
    return {
        name: [
            prompt
            for turn in range(pictures)
            for prompt in worded_prompts(
                judge, gone, [part[0]] * turn + part, 1000 * seed + 100 * number + turn
            )[turn:]
        ]
        for number, (name, part) in enumerate(words.items())
    }  # fmt: skip


def made(method: str, options: dict[str, str], gone: tuple[str, ...]) -> tuple[Any, float]:
    """An artifact and the processor seconds that it took."""
    import erase_plugins as ep

    pipe, started = ep.load("pocket"), time.process_time()
    return ep.erase(pipe, gone, method, options=options), time.process_time() - started


def hits(sets: dict[str, list[Any]], artifact: Any, given: argparse.Namespace) -> dict[str, list[int]]:
    """One 0/1 per picture; what was judged before is read."""
    import erase_plugins as ep
    from erase_plugins.evaluation.draw import draw
    from erase_plugins.pocket.judge import PocketJudge

    every = [prompt for part in sets.values() for prompt in part]
    place = given.out / f"{_name(every, artifact, given.steps)}.json"
    seen: list[list[str]] = json.loads(place.read_text(encoding="utf-8")) if place.is_file() else []
    if len(seen) < len(every):
        pipe, judge = ep.load("pocket"), PocketJudge()
        if artifact is not None:
            ep.apply(pipe, artifact)
    while len(seen) < len(every):
        part = every[len(seen) : len(seen) + _PART]
        scores = judge.score(draw(pipe, [one.text for one in part], [one.seed for one in part], steps=given.steps))
        best = [
            [judge.axes[axis][place] for place in scores[axis].argmax(-1).tolist()] for axis in ("concept", "style")
        ]
        seen += [list(labels) for labels in zip(*best, strict=True)]
        place.write_text(json.dumps(seen), encoding="utf-8")
    found: dict[str, list[int]] = {}
    for name, part in sets.items():
        labels, seen = seen[: len(part)], seen[len(part) :]
        pairs = list(zip(part, labels, strict=True))
        found[name] = [int(one.expected["concept"] == label[0]) for one, label in pairs]
        if name == "kept":
            found["style"] = [int(one.expected["style"] == label[1]) for one, label in pairs if "style" in one.expected]
    return found


def _name(every: list[Any], artifact: Any, steps: int) -> str:
    digest = hashlib.sha256(json.dumps([steps, *([one.text, one.seed] for one in every)]).encode())
    for component, key, delta in artifact.edit.items() if artifact is not None else ():
        config = json.dumps(dict(getattr(delta, "config", {})), sort_keys=True, default=str)
        digest.update(f"{component} {key} {config}".encode())
        for name, tensor in sorted(delta.tensors().items()):
            digest.update(name.encode() + tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def line(method: str, found: dict[str, list[int]], base: dict[str, list[int]], seconds: float) -> str:
    """One row of the table."""
    from erase_plugins.evaluation.bootstrap import mean_interval, paired_difference

    rates = [mean_interval(found[name]) for name in PARTS]
    cells = [f"{mean:.1%} [{low:.0%}..{high:.0%}]" for mean, low, high in rates]
    lost, low, high = (-100 * value for value in paired_difference(base["kept"], found["kept"], 0))
    return f"| `{method}` | {' | '.join(cells)} | {lost:.1f} [{high:.1f}..{low:.1f}] | {seconds:.0f} |\n"


if __name__ == "__main__":
    main()
