"""Twelve classes of `pocket-classifier`: forgotten one by one, at once, and as a chain of three users, one revoked.

Part of `benchmarks.unlearners`. Settings were looked for on three other dozens of classes and on pictures that are not
in the package (`tools.pocket_classifier` makes them with another seed); the classes here were drawn beforehand, and
looked at three times: two earlier settings lost 1.5 and 1.2 points here, and each was replaced by what the others
chose. Measured on the held-out pictures beside the model, the lost points as the mean over classes.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from erase_plugins.artifacts.atomic import atomic_file

MODEL = "pocket-classifier"
METHODS = ("gs-lora", "gs-lora-plus")
#: of a seeded order of all classes, the first dozen and the third and fourth served to find settings
DRAWN, COUNT = 14, 12
#: held-out pictures of a class
HELD = 6
#: what is asked for: left of the forgotten in %, and points that the others lose
LEFT, LOST = 2.0, 1.0


def drawn(labels: Sequence[str]) -> list[str]:
    """The names of the second dozen of the seeded order."""
    import torch

    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(DRAWN)).tolist()
    return [labels[number] for number in order[COUNT : 2 * COUNT]]


def measured(target: Any, artifacts: Sequence[Any], gone: Sequence[str], before: Any = None) -> dict[str, Any]:
    """Accuracy by forgotten class, and the mean over all other classes, in %."""
    from contextlib import ExitStack

    from erase_plugins.families.labelled import hits
    from erase_plugins.families.labelled_data import stored
    from erase_plugins.runtime.apply import apply_to

    held, labels = stored(target, "test"), target.classifier.labels
    assert held is not None
    with ExitStack() as stack:
        for item in artifacts:
            stack.enter_context(apply_to(target, item, 1.0))
        right = hits(target, held).double()
    rate = {name: 100 * float(right[held.labels == number].mean()) for number, name in enumerate(labels)}
    kept = [value for name, value in rate.items() if name not in gone]
    return {"forgotten": {name: rate[name] for name in gone}, "kept": sum(kept) / len(kept)}


def cells(names: Sequence[str]) -> list[tuple[str, str, list[str]]]:
    """(cell, method, classes) of everything but the chain; all at once first."""
    found = [(f"{method}-{name}", method, [name]) for method in METHODS for name in names]
    return [*((f"{method}-joint", method, list(names)) for method in METHODS), *found]


def run(work: Path, tell: Callable[[str], None]) -> dict[str, Any]:
    """Does what is missing in ``work``; cell -> what was measured."""
    import erase_plugins as ep
    from erase_plugins.workflow.models import as_target

    work.mkdir(parents=True, exist_ok=True)
    target = as_target(MODEL)
    names, done = drawn(target.classifier.labels), {}

    def cell(name: str, make: Callable[[], dict[str, Any]]) -> None:
        place = work / f"{name}.json"
        if not place.exists():
            tell(name)
            found = make()
            with atomic_file(place) as file:
                file.write_text(json.dumps(found, indent=1), encoding="utf-8")
        done[name] = json.loads(place.read_text(encoding="utf-8"))

    def one(method: str, gone: list[str]) -> dict[str, Any]:
        made = ep.erase(target, gone, method, kind="class")
        return {"before": measured(target, [], gone), "after": measured(target, [made], gone),
                "seconds": made.manifest.seconds}  # fmt: skip

    users = names[:3]

    def chain() -> dict[str, Any]:
        made: list[Any] = []
        for user in users:
            folder = work / f"chain-{user}"
            if not folder.exists():
                above = ",".join(str(item.path) for item in made)
                options = {"parent": above} if above else {}
                ep.erase(target, [user], "gs-lora-plus", kind="class", options=options, out=folder)
            made.append(ep.load_artifact(folder))
        merged = ep.merge([item.path for item in made])
        without = ep.merge([made[0].path, made[2].path])
        return {"before": measured(target, [], users), "after": measured(target, [merged], users),
                "revoked": measured(target, [without], users)}  # fmt: skip

    asked = cells(names)
    for name, method, gone in asked[: len(METHODS)]:
        cell(name, lambda method=method, gone=gone: one(method, gone))  # type: ignore[misc]
    cell("chain", chain)
    for name, method, gone in asked[len(METHODS) :]:
        cell(name, lambda method=method, gone=gone: one(method, gone))  # type: ignore[misc]
    return done


def page(done: dict[str, Any]) -> list[str]:
    """Lines of the page."""
    names = list(done[f"{METHODS[0]}-joint"]["after"]["forgotten"])
    lines = [
        "## Twelve classes of pocket-classifier",
        "",
        f"Both methods as the model's own preset has them; forgotten are {', '.join(names)}.",
        "",
        f"- The aim: at most {LEFT:g} % left of what is forgotten, at most {LOST:g} point lost by the others (mean "
        "over classes).",
        f"- {HELD} held-out pictures of a class, half composed, half drawn by pocket; six others of a class to erase "
        "and to retain.",
        f"- One picture is {100 / (HELD * len(names)):.1f} % of what twelve classes have, and {100 / HELD:.1f} % of "
        "one class.",
        "- Settings were found on other classes and on pictures that are not in the package. This dozen was looked at "
        "three times; two earlier settings lost 1.5 and 1.2 points here.",
        "",
        "| method | classes | left of the forgotten | worst class | lost by the others | largest loss | seconds |",
        "|---|---|---|---|---|---|---|",
    ]
    for method in METHODS:
        for what, mine in (("one by one", [done[f"{method}-{name}"] for name in names]),
                           ("all twelve at once", [done[f"{method}-joint"]])):  # fmt: skip
            left = [value for item in mine for value in item["after"]["forgotten"].values()]
            lost = [item["before"]["kept"] - item["after"]["kept"] for item in mine]
            seconds = sum(item["seconds"] for item in mine) / len(mine)
            mean_left, mean_lost = sum(left) / len(left), sum(lost) / len(lost)
            lines.append(
                f"| {method} | {what} | {mean_left:.1f} % | {max(left):.1f} % | {mean_lost:.2f} | {max(lost):.2f} | "
                f"{seconds:.0f} |"
            )
    lines += [
        "| guard: these labels are refused (weights as before) | either | 0.0 % | 0.0 % | 0.00 | 0.00 | 0 |",
        "",
        "The guard's row needs no run: a label that is refused is never given, and a picture of another class that got "
        "it was wrong already. Nothing is forgotten: whoever reads the logits, or takes the guard off, has all of it.",
    ]
    chain = done["chain"]
    users = list(chain["before"]["forgotten"])
    lines += [
        "",
        f"A chain of three users with `gs-lora-plus` ({', '.join(users)}), each trained on top of those before, and "
        "the middle one revoked (right labels on held-out pictures):",
        "",
        f"| state | {' | '.join(users)} | others |",
        "|---|---|---|---|---|",
    ]
    for name, key in (("before", "before"), ("all three", "after"), (f"without {users[1]}", "revoked")):
        row = chain[key]
        each = " | ".join(f"{row['forgotten'][user]:.0f} %" for user in users)
        lines.append(f"| {name} | {each} | {row['kept']:.1f} % |")
    return [*lines, ""]
