"""Unlearners of classifiers: worst-case sets of digits, a dozen classes of pocket-classifier, speed of GS-LoRA.

    python -m benchmarks.unlearners --work DIR [--part sets|classes|speed|defaults] [--out docs/results-classifiers.md]

``sets`` trains a small vision transformer on scikit-learn's digits, selects 10 % of its training pictures at random
and in the worst case of several methods, and lets methods forget them with several seeds. ``classes``, ``speed`` and
``defaults`` are in the files beside this one. What is finished in DIR is kept: the same command goes on after an
interruption, and the page is written from all parts that are finished. Without ``--part`` all are done.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from erase_plugins.artifacts.atomic import atomic_file, atomic_folder

#: at the lower level of a search
LOWER = (
    "finetune", "l1-sparse", "random-label", "salun", "gradient-ascent", "negative-gradient-plus", "cf-k", "scrub",
)  # fmt: skip
SEEDS = tuple(range(5))
BUDGET = "10%"
NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
#: the recipe of the original, and of `retrain`
EPOCHS, BATCH, RATE, LAST = 20, 64, 2e-3, 2e-5
RECIPE: tuple[str, dict[str, Any]] = (
    "retrain", {"epochs": EPOCHS, "batch": BATCH, "lr": RATE, "lr_end": LAST},
)  # fmt: skip
PARTS = ("sets", "classes", "speed", "defaults")
TITLE = "# Classifiers: what is forgotten, and what it costs"
HEAD = """What methods of [classifiers.md](classifiers.md) leave of what they forget, and what that costs the rest.

    python -m benchmarks.unlearners --work DIR

makes this page on one core. Seconds are of the clock on a machine with other work, unless a section says otherwise.

| [sets](#random-and-worst-case-sets-of-digits) | is a set that is hard to forget forgotten? |
|---|---|
| [classes](#twelve-classes-of-pocket-classifier) | one class, many, one user after the other |
| [speed](#speed-of-gs-lora) | what does a training step of GS-LoRA take? |
| [defaults](#defaults-of-the-baselines-on-a-class) | do the published rates suit six pictures a class? |
"""


def main() -> None:
    """Does what is missing and writes the page."""
    import torch

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", required=True, type=Path, help="folder for models, sets and finished cells")
    parser.add_argument("--part", choices=PARTS, help="only this part; the page shows the finished ones")
    parser.add_argument("--out", type=Path, default=Path("docs/results-classifiers.md"))
    given = parser.parse_args()
    if given.out.exists() and not given.out.read_text(encoding="utf-8").startswith(TITLE):
        parser.error(f"{given.out.name} is not this page; choose another --out")
    torch.set_num_threads(1)
    given.work.mkdir(parents=True, exist_ok=True)
    from benchmarks import unlearner_classes, unlearner_defaults, unlearner_speed
    from tools.docs.width import narrow

    made: dict[str, Callable[[], list[str]]] = {
        "sets": lambda: sets_page(given.work),
        "classes": lambda: unlearner_classes.page(unlearner_classes.run(given.work / "classes", say)),
        "speed": lambda: unlearner_speed.page(unlearner_speed.run(trained(given.work / "digits"), say)),
        "defaults": lambda: unlearner_defaults.page(unlearner_defaults.run(given.work, say)),
    }
    lines: list[str] = []
    for name in PARTS:
        place = given.work / f"part-{name}.md"
        if given.part in (None, name):
            with atomic_file(place) as work:
                work.write_text("\n".join(made[name]()).rstrip() + "\n", encoding="utf-8")
        if place.is_file():
            lines += [place.read_text(encoding="utf-8"), ""]
    head = f"{TITLE}\n\n{HEAD}"
    with atomic_file(given.out) as work:
        work.write_text(narrow("\n".join([head, *lines]).rstrip() + "\n"), encoding="utf-8")
    print(f"wrote {given.out}")


def sets_page(work: Path) -> list[str]:
    """Lines about random and worst-case sets of digits."""
    from erase_plugins.comparison.unlearners import Plan, compare_sets

    model = str(trained(work / "digits"))
    sets = selected(model, work)
    methods: list[tuple[str, dict[str, Any]]] = [RECIPE, *((name, {}) for name in LOWER)]
    worst = {f"worst case of {name}": [file] for name, file in sets["worst"].items()}
    every = {"random": sets["random"], **worst, "lowest loss": sets["lowest"]}
    retrained = compare_sets(Plan(model, methods[:1], every, SEEDS), work / "retrained", progress=tell)
    both = {name: every[name] for name in ("random", "worst case of finetune")}
    table = compare_sets(Plan(model, methods, both, SEEDS), work / "retrained", progress=tell)
    return guarded(page(table, retrained["sets"], sets), *right(Path(model)))


def say(text: str) -> None:
    """A line at once."""
    print(text, flush=True)


def tell(done: int, total: int) -> None:
    """A line every ten cells."""
    if done % 10 == 0:
        print(f"{done} of {total}", flush=True)


def trained(folder: Path) -> Path:
    """The folder of the classifier with its pictures, trained once."""
    import numpy as np
    import torch
    from safetensors.torch import save_file
    from sklearn.datasets import load_digits
    from transformers import ViTConfig, ViTForImageClassification

    if folder.exists():
        return folder
    data = load_digits()
    order = np.random.default_rng(0).permutation(len(data.target))
    pictures = torch.from_numpy((data.images[order] * (255 / 16)).round().astype(np.uint8))[:, None]
    labels, cut = torch.from_numpy(data.target[order]), round(0.8 * len(order))
    torch.manual_seed(0)
    config = ViTConfig(
        image_size=8, patch_size=4, num_channels=1, hidden_size=64, num_hidden_layers=2, num_attention_heads=4,
        intermediate_size=128, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
        id2label=dict(enumerate(NAMES)), label2id={name: number for number, name in enumerate(NAMES)},
    )  # fmt: skip
    network = ViTForImageClassification(config)
    inputs, wanted = pictures[:cut].float() / 127.5 - 1, labels[:cut]
    optimizer = torch.optim.AdamW(network.parameters(), RATE)
    for epoch in range(EPOCHS):
        optimizer.param_groups[0]["lr"] = LAST + 0.5 * (RATE - LAST) * (1 + math.cos(math.pi * epoch / EPOCHS))
        for rows in torch.randperm(cut).split(BATCH):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(network(inputs[rows]).logits, wanted[rows]).backward()
            optimizer.step()
    with atomic_folder(folder, False, "model") as work:
        network.eval().save_pretrained(work)
        shape = {"height": 8, "width": 8}
        facts = {"image_processor_type": "ViTImageProcessor", "size": shape, "image_mean": [0.5], "image_std": [0.5]}
        (work / "preprocessor_config.json").write_text(json.dumps(facts), encoding="utf-8")
        split = {"train": slice(0, cut), "test": slice(cut, None)}
        save_file(
            {f"{name}.pictures": pictures[part].contiguous() for name, part in split.items()}
            | {f"{name}.labels": labels[part].contiguous() for name, part in split.items()},
            work / "pictures.safetensors",
        )
    return folder


def right(folder: Path) -> tuple[float, float]:
    """Share of right labels that the untouched classifier gives its training pictures and the held-out ones."""
    import torch
    from safetensors.torch import load_file
    from transformers import ViTForImageClassification

    network, parts = (
        ViTForImageClassification.from_pretrained(folder).eval(),
        load_file(folder / "pictures.safetensors"),
    )
    with torch.no_grad():
        learned, held_out = (
            network(parts[f"{name}.pictures"].float() / 127.5 - 1).logits.argmax(1) == parts[f"{name}.labels"]
            for name in ("train", "test")
        )
    return float(learned.float().mean()), float(held_out.float().mean())


def guarded(lines: list[str], learned: float, held_out: float) -> list[str]:
    """The same lines with a guard's row at the end of every table of methods.

    Args:
        lines: of the page.
        learned, held_out: shares of right labels of the untouched classifier.
    """
    row = (
        f"| guard: these pictures are refused (weights as before) | - | 100.0 | {100 * learned:.1f} | "
        f"{100 * held_out:.1f} | - | - | - | 0.0 |"
    )
    text, found, inside = "\n".join(lines), [], False
    for line in [*text.split("\n"), ""]:
        if inside and not line.startswith("|"):
            found.append(row)
            inside = False
        inside = inside or line.startswith("| method | seeds |")
        found.append(line)
    return [
        *found[:-1],
        "The guard's rows need no run: a picture that is refused gets no label, and all others get those of before (RA "
        "of all training pictures). It forgets nothing, and who is refused is told to be one of them, so that no "
        "attack is needed.", "",
    ]  # fmt: skip


def selected(model: str, work: Path) -> dict[str, Any]:
    """Files of the random sets, of the worst cases by method, and of the lowest losses."""
    import numpy as np

    from erase_plugins.families.forget_set import DATA, ForgetSet, read_set
    from erase_plugins.families.labelled_data import pool_of
    from erase_plugins.workflow.models import as_target
    from erase_plugins.workflow.worst_case import LOWEST, worst_case

    _, told = pool_of(as_target(model), None)
    worst = {name: work / f"worst-{name}.json" for name in LOWER}
    for name, file in worst.items():
        if not file.exists():
            print(f"searching the worst case of {name}", flush=True)
            worst_case(model, name, budget=BUDGET, out=file)
    found, random = read_set(worst[LOWER[0]]), []
    for seed in SEEDS:
        random.append(work / f"random-{seed}.json")
        rows = np.random.default_rng(seed).permutation(told["count"])[: len(found.rows)]
        if not random[-1].exists():
            ForgetSet(DATA, tuple(sorted(rows.tolist())), data=told, forget_set={"method": "random"}).save(random[-1])
    lowest = work / "lowest.json"
    if not lowest.exists():
        rows = found.baselines[LOWEST]["rows"]
        ForgetSet(DATA, tuple(rows), data=told, forget_set={"method": LOWEST}).save(lowest)
    return {"random": random, "worst": worst, "lowest": [lowest]}


def page(table: Any, retrained: Any, sets: Any) -> list[str]:
    """Lines of the page."""
    from erase_plugins.comparison.unlearners import markdown
    from erase_plugins.families.forget_set import read_set

    def aim(rows: Any) -> Any:
        (found,) = [row for label, row in rows.items() if label.partition(":")[0] == "retrain"]
        return found

    wrong = 100 * (1 - aim(retrained["random"])["ra"][0])
    lines = [
        "## Random and worst-case sets of digits",
        "",
        "scikit-learn's digits (1438 pictures to train with, 359 held out), a vision transformer of two blocks trained "
        f"for {EPOCHS} epochs, {BUDGET} forgotten, {len(SEEDS)} seeds, every method with its defaults; `retrain` "
        "follows the recipe of the original. Random sets differ from seed to seed; a worst case is one set.",
        "",
        "**Are the sets hard?** A retrained model has never seen the set. Where it still gets the labels right, the "
        "set cannot be forgotten: its UA has to fall, to 0.5 % or less. Two trivial selections stand beside the "
        "searched ones: random, and the lowest losses before any unlearning. "
        f"Retraining gets {wrong:.1f} % of what it was trained on wrong.",
        "",
        "| set | UA of `retrain` | at most 0.5 % | classes hit | same as lowest loss | taken |",
        "|---|---|---|---|---|---|",
    ]
    for name, rows in retrained.items():
        ua, method = aim(rows)["ua"], name.removeprefix("worst case of ")
        facts = read_set(sets["worst"][method]) if method in sets["worst"] else None
        good = "yes" if ua[0] <= 0.005 else "no"
        cells = ["-", "-", "-"]
        if facts is not None:
            best = facts.forget_set["best"]
            cells = [f"{len(facts.forget_set['classes'])} of 10", f"{facts.baselines['lowest-loss']['overlap']:.0%}",
                     f"round {best}" if best else "start"]  # fmt: skip
        lines.append(f"| {name} | {100 * ua[0]:.2f} % +- {50 * (ua[2] - ua[1]):.2f} | {good} | {' | '.join(cells)} |")
    return [*lines, "", markdown(table).replace("## ", "### ")]


if __name__ == "__main__":
    main()
