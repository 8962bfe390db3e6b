"""Rebuilds the embedded classifier: a small vision transformer that tells pocket's 156 concepts apart.

``python -m tools.pocket_classifier --out my-classifier`` takes about ten minutes on one core and the art of
`tools.pocket.art`. It trains on sprites over flat backgrounds (`tools.pocket.compose`), blurred, noisy and with other
contrast, and writes a folder of transformers with ``pictures.safetensors`` beside the weights: pictures to erase with,
and held-out ones, half of them drawn by the embedded pipeline and kept only if pocket's judge sees what was asked.
A run that was stopped goes on from its last checkpoint.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional

from erase_plugins.artifacts.atomic import atomic_file, atomic_folder
from erase_plugins.pocket.world import FOLDER, pocket_world
from tools.pocket import art
from tools.pocket.compose import Label, Pictures
from tools.pocket.drawing import draw, judge_images, load_judge, load_pipeline
from tools.pocket.loop import Draw, Stage, precision, run_stage
from tools.pocket.recipe import Recipe
from tools.pocket.train import StepBars
from tools.pocket.train_judge import augment
from tools.pocket.train_vae import to_tensor

if TYPE_CHECKING:
    from torch import Tensor

#: pixels per side, pictures of a step, steps, peak rate, pictures of a class in each half of a split
SIZE, BATCH, STEPS, RATE, SHOTS = 32, 128, 1500, 1.5e-3, 3


def build_network(names: list[str]) -> Any:
    """An untrained vision transformer with these labels, 0.9 million parameters."""
    from transformers import ViTConfig, ViTForImageClassification

    config = ViTConfig(
        image_size=SIZE, patch_size=8, hidden_size=128, num_hidden_layers=4, num_attention_heads=4,
        intermediate_size=512, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
        id2label=dict(enumerate(names)), label2id={name: number for number, name in enumerate(names)},
    )  # fmt: skip
    return ViTForImageClassification(config)


def small(pictures: Tensor) -> Tensor:
    """Pictures (n, 3, h, w) at the size of the classifier."""
    return functional.interpolate(pictures, size=(SIZE, SIZE), mode="area")


def train(network: Any, pictures: Pictures, folder: Path, recipe: Recipe, steps: int) -> None:
    """Cross-entropy on fresh pictures at every step."""

    def loss(draw: Draw) -> Tensor:
        pixels, labels = pictures.sample(BATCH, draw.rng)
        inputs = small(augment(to_tensor(pixels), draw))
        with precision("cpu"):
            logits = network(inputs).logits
        return functional.cross_entropy(logits.float(), torch.tensor([label.concept for label in labels]))

    with StepBars() as show:
        run_stage(Stage("classifier", steps, {"classifier": network}, {"classifier": RATE}, loss), folder, recipe, show)


def composed(pictures: Pictures, stream: str, seed: int, each: int) -> tuple[Tensor, Tensor]:
    """Bytes (n, 3, 64, 64) and classes (n,): each class in turn over the styles, on random backgrounds."""
    rng, world = Draw.of(seed, stream, 0).rng, pictures.world
    labels = [
        Label(concept, index % len(world.styles), int(rng.integers(len(world.backgrounds))))
        for concept in range(len(world.concepts))
        for index in range(each)
    ]
    return torch.from_numpy(pictures.render(labels, rng)), torch.tensor([label.concept for label in labels])


def drawn(seed: int, folder: Path) -> tuple[Tensor, Tensor]:
    """Bytes (n, 3, 64, 64) and classes (n,) of pictures that the pipeline draws, one for each style.

    Those in which the judge does not see the concept are left out. They are kept in ``folder`` for a second run.
    """
    from safetensors.torch import load_file, save_file

    path = folder / "drawn.safetensors"
    if not path.is_file():
        world, rng = pocket_world(), Draw.of(seed, "drawn", 0).rng
        asked = [(number, style) for number in range(len(world.concepts)) for style in world.styles[:SHOTS]]
        prompts = [
            f"a {style} {world.concepts[number].name} on a {rng.choice(world.backgrounds)} background"
            for number, style in asked
        ]
        images = draw(
            load_pipeline(FOLDER / "model"), prompts, seed, lambda done, total: print(f"drawn {done}/{total}")
        )
        seen = judge_images(*load_judge(FOLDER / "judge.safetensors"), images)
        good = [row for row, (number, _) in enumerate(asked) if seen[row]["concept"] == world.concepts[number].name]
        pictures = (images[good] * 255).round().byte().contiguous()
        tensors = {"pictures": pictures, "labels": torch.tensor([asked[row][0] for row in good])}
        with atomic_file(path) as work:
            save_file(tensors, work)
    stored = load_file(path)
    return stored["pictures"], stored["labels"]


@torch.no_grad()
def accuracy(network: Any, pictures: Tensor, labels: Tensor) -> float:
    """Share of pictures (bytes at the classifier's size) whose most likely class is the right one."""
    found = torch.cat([network(part.float() / 127.5 - 1).logits.argmax(-1) for part in pictures.split(256)])
    return round(float((found == labels).float().mean()), 4)


def export(network: Any, splits: dict[str, tuple[Tensor, Tensor]], out: Path) -> dict[str, float]:
    """Writes the folder: weights in fp16, configuration, preprocessor, pictures, measured accuracy."""
    from safetensors.torch import save_file
    from transformers import ViTImageProcessor

    numbers = {name: accuracy(network, *split) for name, split in splits.items()}
    tensors = {"train.pictures": splits["train"][0], "train.labels": splits["train"][1]}
    for axis, key in enumerate(("test.pictures", "test.labels")):
        tensors[key] = torch.cat([splits["composed"][axis], splits["drawn"][axis]])
    processor = ViTImageProcessor(
        size={"height": SIZE, "width": SIZE}, image_mean=[0.5] * 3, image_std=[0.5] * 3, do_resize=True
    )
    with atomic_folder(out, force=True, kind="classifier") as work:
        network.half().save_pretrained(work)
        processor.save_pretrained(work)
        save_file({name: part.contiguous() for name, part in tensors.items()}, work / "pictures.safetensors")
        facts = {"command": "python -m tools.pocket_classifier", "accuracy": numbers}
        (work / "quality.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    return numbers


def main(arguments: list[str] | None = None) -> None:
    """Trains the classifier, makes its pictures, and prints its accuracy as JSON."""
    parser = argparse.ArgumentParser(prog="python -m tools.pocket_classifier", description=main.__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder of the result")
    parser.add_argument("--work", type=Path, required=True, help="folder of checkpoints; a run goes on from there")
    parser.add_argument("--art", type=Path, help="art folder; default: the cache, filled by npm")
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    torch.manual_seed(options.seed)
    options.work.mkdir(parents=True, exist_ok=True)
    world, recipe = pocket_world(), Recipe(seed=options.seed, checkpoint_every=100)
    pictures = Pictures(world, art.load_sprites(world, options.art or art.fetch(world)), recipe)
    network = build_network([item.name for item in world.concepts])
    train(network, pictures, options.work, recipe, options.steps)
    fresh = {
        "train": composed(pictures, "classifier-train", options.seed, 2 * SHOTS),
        "composed": composed(pictures, "classifier-test", options.seed, SHOTS),
        "drawn": drawn(options.seed, options.work),
    }
    splits = {name: (small(each.float()).round().byte(), labels) for name, (each, labels) in fresh.items()}
    print(json.dumps(export(network, splits, options.out)))


if __name__ == "__main__":
    main()
