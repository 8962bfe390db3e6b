"""Unlearners of classifiers on random and on worst-case forget sets of scikit-learn's digits.

    python -m benchmarks.unlearners --work DIR [--out docs/results-classifiers.md]

Trains a small vision transformer, selects 10 % of its training pictures at random and in the worst case of several
methods, lets every method forget both with several seeds, and writes the page. What is finished in DIR is kept: the
same command goes on after an interruption.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from erase_plugins.artifacts.atomic import atomic_file, atomic_folder

METHODS = ("retrain", "finetune", "l1-sparse", "random-label", "salun", "gradient-ascent", "cf-k")
#: at the lower level of a search; the first one's set is forgotten by all methods
LOWER = ("finetune", "random-label", "salun", "gradient-ascent", "cf-k")
SEEDS = tuple(range(5))
BUDGET = "10%"
NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
#: the recipe of the original, which `retrain` follows by default
EPOCHS, BATCH, RATE = 15, 64, 2e-3


def main() -> None:
    """Does what is missing and writes the page."""
    import torch

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", required=True, type=Path, help="folder for the model, the sets and finished cells")
    parser.add_argument("--out", type=Path, default=Path("docs/results-classifiers.md"))
    given = parser.parse_args()
    torch.set_num_threads(1)
    given.work.mkdir(parents=True, exist_ok=True)
    model = trained(given.work / "digits")
    sets = selected(str(model), given.work)
    from erase_plugins.comparison.unlearners import Plan, compare_sets

    methods: list[tuple[str, dict[str, Any]]] = [(name, {}) for name in METHODS]
    worst = {f"worst case of {name}": [file] for name, file in sets["worst"].items()}
    first = next(iter(worst))
    both = {"random": sets["random"], first: worst[first]}
    table = compare_sets(Plan(str(model), methods, both, SEEDS), given.work / "table", progress=tell)
    others = {**{name: files for name, files in worst.items() if name != first}, "lowest loss": sets["lowest"]}
    again = compare_sets(Plan(str(model), methods[:1], others, SEEDS), given.work / "retrained", progress=tell)
    text = page(table, {**table["sets"], **again["sets"]}, sets)
    with atomic_file(given.out) as work:
        work.write_text(text, encoding="utf-8")
    print(f"wrote {given.out}")


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
    for _ in range(EPOCHS):
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


def page(table: Any, retrained: Any, sets: Any) -> str:
    """The page."""
    from erase_plugins.comparison.unlearners import RETRAIN, markdown
    from erase_plugins.families.forget_set import read_set

    lines = [
        "# Classifiers: unlearners on random and worst-case sets",
        "",
        "Made by `python -m benchmarks.unlearners --work DIR`: scikit-learn's digits (1438 pictures to train with, 359 "
        f"held out), a vision transformer of two blocks, {BUDGET} forgotten, {len(SEEDS)} seeds, every method with its "
        "defaults. Random sets differ from seed to seed; a worst case is one set. Rates were not tuned, so a method "
        "can do better than here.",
        "",
        "## Does retraining forget it?",
        "",
        "A retrained model has never seen the set. Where it still gets the labels right, the set cannot be forgotten: "
        "UA has to fall. The trivial selection, lowest losses before any unlearning, stands beside them. "
        f"Retraining gets {100 * (1 - retrained['random'][RETRAIN]['ra'][0]):.1f} % of what it was trained on wrong, "
        "so smaller differences say little.",
        "",
        "| set | UA of `retrain` | classes hit | same as lowest loss |",
        "|---|---|---|---|",
    ]
    for name, rows in retrained.items():
        ua = rows[RETRAIN]["ua"]
        method = name.removeprefix("worst case of ")
        facts = read_set(sets["worst"][method]) if method in sets["worst"] else None
        hit = "-" if facts is None else f"{len(facts.forget_set['classes'])} of 10"
        same = "-" if facts is None else f"{facts.baselines['lowest-loss']['overlap']:.0%}"
        lines.append(f"| {name} | {100 * ua[0]:.2f} % +- {50 * (ua[2] - ua[1]):.2f} | {hit} | {same} |")
    lines += ["", markdown(table)]
    return "\n".join(lines).rstrip() + "\n"


if __name__ == "__main__":
    main()
