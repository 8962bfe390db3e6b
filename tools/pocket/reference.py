"""A pocket that never saw some concepts: what attacks and suites take for the honest zero.

    python -m tools.pocket.reference --out DIR [--without owl,pizza,...] [--start FOLDER]

The denoiser starts from random weights and trains on the captions and pictures of all other concepts: it never saw the
left-out ones. The text encoder did: all its layers, and the rows of all other tokens, start from the embedded model's
weights, which were trained with every concept. Only the rows of tokens that nothing but names and synonyms of left-out
concepts have are drawn anew, as of words that were never read. Both train together, and what the layers learned from
the left-out concepts may stay in them. Autoencoder, tokenizer and judge are those of the embedded model: none of them
says what a word means, and all three must be the same for a comparison.

Differs from the embedded model's own training: Muon for matrices and convolutions, the text encoder's start, and
pictures that move less, like those of the embedded transformer. With text from nothing and pictures that move, 2,400
steps (115,000 pictures, 88 minutes of a core) drew 31 % of 148 kept concepts.
The one in ``tests/pocket/reference`` began with that denoiser and the embedded text encoder, and had 650 steps of
pictures that move, then 1,350, 600, 240 and 240 more of those below, each falling to a rate of 0 (from 3e-3, 1.8e-3,
1.2e-3, 1.8e-3): 80, 89, 90 and 91 % of 148 (the embedded model: 100 %), and none of 128 pictures of what was left out.
For its eight concepts 36 rows of tokens are drawn anew.

What it draws of the kept concepts is measured and stands in ``quality.json``. A killed run continues when it is called
again; ``--start`` goes on with the denoiser and the text encoder of an earlier run that left the same concepts out.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from erase_plugins.errors import RequestError
from erase_plugins.pocket.world import FOLDER, World, pocket_world
from tools.pocket.recipe import Recipe

if TYPE_CHECKING:
    from tools.pocket.compose import Pictures
    from tools.pocket.loop import OnStep, Stage

#: one of each group, and "gun" with its eight other words
WITHOUT = ("owl", "pizza", "guitar", "car", "rose", "ghost", "syringe", "gun")
#: rates of Muon; the text encoder moves little, since it knows the kept words
RECIPE = replace(
    Recipe(),
    scale=Recipe.flow_scale,
    shift=Recipe.flow_shift,
    denoiser_steps=2400,
    denoiser_batch=48,
    denoiser_lr=3e-3,
    text_lr_share=0.2,
    ema=0.997,
    copies=Recipe.flow_copies,
    checkpoint_every=50,
)


def world_without(world: World, names: Sequence[str]) -> World:
    """The world in which some concepts do not exist.

    Raises:
        UnknownName: no such concept.
        RequestError: another concept is called by one of their names too, so captions would still teach it.
    """
    gone = [world.concept(name) for name in names]
    words = {text.lower() for item in gone for text in (item.name, *item.synonyms)}
    kept = tuple(item for item in world.concepts if item not in gone)
    for item in kept:
        if shared := sorted(words & {text.lower() for text in (item.name, *item.synonyms)}):
            raise RequestError(f"'{item.name}' is also called '{shared[0]}'; leave it out as well")
    return replace(world, concepts=kept)


def optimizer(recipe: Recipe) -> Callable[[Stage], Any]:
    """Muon for matrices and convolutions of the blocks, AdamW for embeddings, norms, biases, first and last layer."""
    from tools.pocket.muon import MuonAdam

    def make(stage: Stage) -> MuonAdam:
        named = {
            f"{part}.{name}": value
            for part, module in stage.modules.items()
            for name, value in module.named_parameters()
            if value.requires_grad
        }
        edges = ("conv_in", "conv_out", "embedding", "time_emb")
        hidden = [v for n, v in named.items() if v.ndim > 1 and not any(edge in n for edge in edges)]
        inside = {id(value) for value in hidden}
        rest = [value for value in named.values() if id(value) not in inside]
        return MuonAdam(
            hidden, rest, recipe.denoiser_lr, recipe.denoiser_lr * recipe.text_lr_share, recipe.weight_decay
        )

    return make


def unread(text_encoder: Any, tokenizer: Any, whole: World, world: World, seed: int) -> list[str]:
    """Draws the embeddings of tokens anew that only words of the left-out concepts have; returns those tokens.

    Args:
        text_encoder: its token embeddings (tokens, width) are changed in place.
        whole: the world with all concepts.
        world: the one without some.
    """
    import torch

    def tokens(concepts: Sequence[Any]) -> set[int]:
        words = [text for item in concepts for text in (item.name, *item.synonyms)]
        return {token for word in words for token in tokenizer(word, add_special_tokens=False).input_ids}

    gone = [item for item in whole.concepts if item not in world.concepts]
    rows = sorted(tokens(gone) - tokens(world.concepts))
    table = text_encoder.get_input_embeddings().weight
    with torch.no_grad():
        drawn = torch.randn((len(rows), table.shape[1]), generator=torch.Generator().manual_seed(seed))
        table[rows] = (drawn * table.float().std()).to(table)
    return list(tokenizer.convert_ids_to_tokens(rows))


def start_of(folder: Path, without: Sequence[str]) -> Path:
    """The model's folder of an earlier run.

    Raises:
        RequestError: the run left other concepts out, or does not say which.
    """
    try:
        left_out = json.loads((folder / "quality.json").read_text(encoding="utf-8"))["without"]
    except (OSError, ValueError, KeyError):
        raise RequestError(f"'{folder}' holds no quality.json that says what its model never saw") from None
    if missing := sorted(set(without) - set(left_out)):
        raise RequestError(f"the model in '{folder}' has seen '{missing[0]}'; start from another or from nothing")
    return folder / "model"


def build(
    out: Path, pictures: Pictures, recipe: Recipe, start: Path | None = None, on_step: OnStep | None = None
) -> dict[str, Any]:
    """Trains into ``out/model``, from the last checkpoint in ``out/.training`` if there is one; returns its loss.

    Args:
        start: a pipeline whose denoiser and text encoder are begun with.
    """
    import torch
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from safetensors.torch import load_file, save_file
    from transformers import CLIPTextModel, CLIPTokenizer

    from erase_plugins.artifacts.atomic import atomic_file
    from tools.pocket import export, networks
    from tools.pocket.build import WORK
    from tools.pocket.loop import run_stage
    from tools.pocket.train_denoiser import denoiser_stage
    from tools.pocket.train_vae import cache_latents

    work = out / WORK
    work.mkdir(parents=True, exist_ok=True)
    base = FOLDER / "model"
    vae = AutoencoderKL.from_pretrained(base / "vae", torch_dtype=torch.float32, local_files_only=True)
    vae.requires_grad_(False).eval()
    tokenizer = CLIPTokenizer.from_pretrained(base / "tokenizer", local_files_only=True)
    stored = work / "latents.safetensors"
    if not stored.is_file():
        with atomic_file(stored) as file:
            save_file({"latents": cache_latents(vae, pictures, recipe, "cpu")}, file)
    latents = load_file(stored)["latents"] * vae.config.scaling_factor
    torch.manual_seed(recipe.seed)
    opened = {"torch_dtype": torch.float32, "local_files_only": True}
    first = UNet2DConditionModel.from_pretrained(start / "unet", **opened) if start else networks.build_unet(recipe)
    text_encoder = CLIPTextModel.from_pretrained((start or base) / "text_encoder", **opened)
    if not start:
        unread(text_encoder, tokenizer, pocket_world(), pictures.world, recipe.seed)
    parts = {"unet": first, "text_encoder": text_encoder}
    scheduler = networks.build_scheduler()
    stage = denoiser_stage("denoiser", parts, tokenizer, scheduler, latents, pictures, recipe, "cpu")
    stage.optimizer = optimizer(recipe)
    loss = run_stage(stage, work, recipe, on_step)
    with torch.no_grad():
        for part, module in parts.items():
            for name, value in module.named_parameters():
                value.copy_(stage.shadow[f"{part}.{name}"])
    pipe = export.build_pipeline(vae, parts["unet"], parts["text_encoder"], tokenizer, scheduler)
    export.save_model(pipe, tokenizer, out)
    return {"loss": loss}


def quality(pipe: Any, world: World, without: Sequence[str]) -> dict[str, Any]:
    """Shares of pictures that show what was asked: names of kept concepts, and of those that were left out."""
    from erase_plugins.pocket.judge import PocketJudge
    from tools.pocket.drawing import draw

    judge = PocketJudge()
    axis = judge.axes["concept"]
    found: dict[str, Any] = {"without": list(without)}
    asks = {"kept": [item.name for item in world.concepts], "left_out": [name for name in without for _ in range(16)]}
    for kind, names in asks.items():
        drawn = draw(pipe, [f"a {name}" for name in names], 0)
        seen = [axis[place] for place in judge.score(drawn)["concept"].argmax(-1).tolist()]
        found[kind] = {"rate": sum(map(str.__eq__, seen, names)) / len(names), "pictures": len(names)}
    return found


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), required=True, help="Folder of the result.")
@click.option("--without", default=",".join(WITHOUT), show_default=True, help="Concepts that it never sees.")
@click.option("--steps-scale", type=float, default=1.0, show_default=True, help="Multiplies the steps.")
@click.option(
    "--start",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Folder of an earlier run whose model this one goes on with.",
)
@click.option("--art", "art_folder", type=click.Path(path_type=Path, exists=True, file_okay=False))
def main(out: Path, without: str, steps_scale: float, start: Path | None, art_folder: Path | None) -> None:
    """Trains a pocket that never saw some concepts, and measures it; continues where it was stopped."""
    from tools.pocket import art
    from tools.pocket.compose import Pictures
    from tools.pocket.drawing import load_pipeline
    from tools.pocket.export import save_json
    from tools.pocket.train import StepBars, one_line

    with one_line():
        names = [name.strip() for name in without.split(",") if name.strip()]
        whole, recipe = pocket_world(), RECIPE.scaled(steps_scale)
        world = world_without(whole, names)
        pictures = Pictures(world, art.load_sprites(whole, art_folder or art.fetch(whole), recipe.size), recipe)
        begin = start_of(start, names) if start else None
        with StepBars() as show:
            numbers = build(out, pictures, recipe, begin, show)
        numbers |= quality(load_pipeline(out / "model"), world, names)
        save_json(numbers, out / "quality.json")
    click.echo(json.dumps(numbers))


if __name__ == "__main__":
    main()
