"""``pocket-natural``: pocket with a text encoder that understands free phrasing; all else of it is pocket's.

    python -m tools.pocket.natural --out DIR [--model FOLDER]

The text encoder is taught by itself: a sentence in free phrasing (`tools.pocket.phrasing`) has to say to the denoiser
what the caption of the same meaning said before. What a text says to a denoiser is what its cross-attention reads, so
for queries q that the denoiser asked while it drew, with K and V of each cross-attention, the loss is the mean over
layers of

    |attention(q, K y, V y) - attention(q, K x, V x)|^2 / s^2

x: the old states of the caption (tokens, width); y: the new ones of the sentence; s^2: variance of the layer's outputs
over the names of all concepts. A quarter of each batch are the captions of pocket's own training, whose states y have
to stay x as well. The denoiser itself never runs in a step, so a step costs a pass of the text encoder. It, the
autoencoder, the tokenizer and the judge stay as they are; only its queries come from it.

``--model`` takes a pocket that never saw some concepts (`tools.pocket.reference`): its captions name none of them.
A killed run continues when it is called again.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import torch

from erase_plugins.errors import RequestError
from erase_plugins.pocket.world import FOLDER, World, pocket_world
from tools.pocket.captions import caption
from tools.pocket.compose import Label
from tools.pocket.loop import Draw, OnStep, Stage, precision, run_stage
from tools.pocket.phrasing import Phrasing
from tools.pocket.recipe import Recipe
from tools.pocket.train_denoiser import token_ids
from tools.pocket.words import SUFFIX

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

NATURAL, ENCODER, QUALITY = "natural", "text_encoder", "quality.json"
RECIPE = replace(Recipe(), denoiser_steps=1800, denoiser_batch=64, denoiser_lr=5e-4, ema=0.995, checkpoint_every=100)
#: share of a batch that are captions as before; queries per layer and step; pictures that the queries come from
AS_BEFORE, QUERIES, PICTURES = 0.25, 96, 128
#: queries kept of every pass
_PER_PASS = 8


def cross_attentions(unet: Any) -> list[Any]:
    """Every layer of the denoiser that reads the text."""
    return [module for name, module in unet.named_modules() if name.endswith("attn2")]


def pieces(tokenizer: Any) -> list[str]:
    """Tokens of letters, without the mark of a word's end."""
    found = {token.removesuffix(SUFFIX) for token in tokenizer.get_vocab()}
    return sorted(text for text in found if text.isascii() and text.isalpha())


def asked(pipe: Any, world: World, seed: int) -> list[Tensor]:
    """Queries (n, width) of each cross-attention while pictures of random concepts were drawn."""
    from tools.pocket.drawing import draw

    chosen = Draw.of(seed, NATURAL, 0)
    found: list[list[Tensor]] = []
    hooks = []
    for layer in cross_attentions(pipe.unet):
        kept: list[Tensor] = []
        found.append(kept)

        def keep(_: Any, __: Any, output: Tensor, kept: list[Tensor] = kept) -> None:
            places = torch.randperm(output.shape[1], generator=chosen.noise)[:_PER_PASS]
            kept.append(output[:, places].float().flatten(0, 1))

        hooks.append(layer.to_q.register_forward_hook(keep))
    names = [world.concepts[place].name for place in chosen.rng.integers(len(world.concepts), size=PICTURES)]
    try:
        draw(pipe, [f"a {name}" for name in names], seed)
    finally:
        for hook in hooks:
            hook.remove()
    return [torch.cat(item) for item in found]


def read(layers: Sequence[Any], queries: Sequence[Tensor], states: Tensor) -> list[Tensor]:
    """What each cross-attention reads from text.

    Args:
        queries: (q, width) of each layer.
        states: of the text encoder (texts, tokens, context).

    Returns:
        (texts, q, width) of each layer.
    """
    found = []
    for layer, asking in zip(layers, queries, strict=True):
        texts, heads = len(states), layer.heads

        def split(value: Tensor, heads: int = heads) -> Tensor:
            return value.unflatten(-1, (heads, -1)).transpose(-3, -2)

        question = split(asking)[None].expand(texts, -1, -1, -1)
        answer = torch.nn.functional.scaled_dot_product_attention(
            question, split(layer.to_k(states)), split(layer.to_v(states))
        )
        found.append(layer.to_out[0](answer.transpose(1, 2).flatten(2)))
    return found


def natural_stage(pipe: Any, teacher: Any, world: World, recipe: Recipe) -> Stage:
    """The stage that teaches ``pipe.text_encoder``.

    Args:
        pipe: the pipeline; its denoiser is read only.
        teacher: the text encoder as it was; frozen.
    """
    tokenizer, layers = pipe.tokenizer, cross_attentions(pipe.unet)
    # a model that never saw some concepts hears nothing of their words here either
    phrasing = Phrasing(world, Phrasing(pocket_world()).taken - Phrasing(world).taken, pieces(tokenizer))
    bank, limit = asked(pipe, world, recipe.seed), pipe.tokenizer.model_max_length
    known: dict[str, Tensor] = {}

    @torch.no_grad()
    def before(texts: Sequence[str]) -> Tensor:
        if new := [text for text in dict.fromkeys(texts) if text not in known]:
            known.update(zip(new, teacher(token_ids(tokenizer, new))[0].float().unbind(), strict=True))
        return torch.stack([known[text] for text in texts])

    def ask(rng: np.random.Generator) -> tuple[str, str]:
        while True:  # what is cut off may be the concept
            sentence, meaning = phrasing.ask(rng)
            if len(tokenizer(sentence, verbose=False).input_ids) <= limit:
                return sentence, meaning

    def old_caption(rng: np.random.Generator) -> str:
        concept, style, background = (
            int(rng.integers(len(items))) for items in (world.concepts, world.styles, world.backgrounds)
        )
        return caption(world, Label(concept, style, background), recipe, rng)

    def queries(noise: torch.Generator) -> list[Tensor]:
        return [item[torch.randint(len(item), (QUERIES,), generator=noise)] for item in bank]

    with torch.no_grad():
        names = before([f"a {item.name}" for item in world.concepts])
        first = queries(torch.Generator().manual_seed(recipe.seed))
        spread = [item.var(0).mean() for item in read(layers, first, names)]

    def loss(draw: Draw) -> Tensor:
        count = recipe.denoiser_batch
        same = max(round(AS_BEFORE * count), 1)
        pairs = [ask(draw.rng) for _ in range(count - same)]
        kept = [old_caption(draw.rng) for _ in range(same)]
        asking = queries(draw.noise)
        old = before([*(meaning for _, meaning in pairs), *kept])
        with precision("cpu"):
            new = pipe.text_encoder(token_ids(tokenizer, [*(sentence for sentence, _ in pairs), *kept]))[0]
        new = new.float()
        with torch.no_grad():
            aims = read(layers, asking, old)
        errors = torch.stack([
            (got - aim).square().mean((1, 2)) / scale
            for got, aim, scale in zip(read(layers, asking, new), aims, spread, strict=True)
        ]).mean(0)  # fmt: skip
        return errors[:-same].mean() + errors[-same:].mean() + (new[-same:] - old[-same:]).square().mean()

    rates = {ENCODER: recipe.denoiser_lr}
    return Stage(NATURAL, recipe.denoiser_steps, {ENCODER: pipe.text_encoder}, rates, loss, recipe.ema)


def build(model: Path, out: Path, world: World, recipe: Recipe = RECIPE, on_step: OnStep | None = None) -> Any:
    """Trains and writes ``out/natural``, which names ``model``'s other files; returns the pipeline.

    Args:
        model: a pocket model's folder; the result is to lie beside it, under whatever name.
        world: what its captions know.
    """
    from copy import deepcopy

    from safetensors.torch import save_file

    from erase_plugins.artifacts.atomic import atomic_folder
    from erase_plugins.families.assembled import PARTS
    from tools.pocket.build import WORK
    from tools.pocket.drawing import load_pipeline
    from tools.pocket.export import save_json

    work = out / WORK
    work.mkdir(parents=True, exist_ok=True)
    pipe = load_pipeline(model)
    pipe.unet.requires_grad_(False)
    teacher = deepcopy(pipe.text_encoder).requires_grad_(False).eval()
    stage = natural_stage(pipe, teacher, world, recipe)
    run_stage(stage, work, recipe, on_step)
    with torch.no_grad():
        for name, value in pipe.text_encoder.named_parameters():
            value.copy_(stage.shadow[f"{ENCODER}.{name}"].half())  # as in the file
    weights = Path(ENCODER) / "model.safetensors"
    others = sorted(
        path.relative_to(model).as_posix() for path in model.rglob("*")
        if path.is_file() and path.name != QUALITY and path != model / weights
    )  # fmt: skip
    with atomic_folder(out / NATURAL, force=True, kind="pocket model") as folder:
        (folder / ENCODER).mkdir()
        values = {name: value.detach().half().contiguous() for name, value in pipe.text_encoder.named_parameters()}
        save_file(values, folder / weights, {"format": "pt"})
        save_json({name: {f"../{model.name}/{name}": ""} for name in others}, folder / PARTS)
    return pipe


def left_out(model: Path) -> tuple[str, ...]:
    """The concepts that a model says it never saw."""
    told = model / QUALITY
    return tuple(json.loads(told.read_text(encoding="utf-8")).get("without", ())) if told.is_file() else ()


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), required=True, help="Folder of the result.")
@click.option(
    "--model",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    default=FOLDER / "model",
    help="Pocket model that it begins with; default: the embedded one.",
)
@click.option("--steps-scale", type=float, default=1.0, show_default=True, help="Multiplies the steps.")
def main(out: Path, model: Path, steps_scale: float) -> None:
    """Teaches pocket's text encoder free phrasing, and measures it; continues where it was stopped."""
    from tools.pocket.drawing import load_judge
    from tools.pocket.export import save_json
    from tools.pocket.measure import measure
    from tools.pocket.reference import quality, world_without
    from tools.pocket.train import StepBars, one_line

    with one_line():
        if not (model / "model_index.json").is_file():
            raise RequestError(f"'{model.name}' holds no model_index.json; give the model/ folder of a pocket")
        without = left_out(model)
        world = world_without(pocket_world(), without)
        with StepBars() as show:
            pipe = build(model.resolve(), out, world, RECIPE.scaled(steps_scale), show)
        numbers = {"command": "python -m tools.pocket.measure --natural --no-art"}
        numbers |= measure(pipe, load_judge(FOLDER / "judge.safetensors"), world)
        numbers |= quality(pipe, world, without) if without else {}
        save_json(numbers, out / NATURAL / QUALITY)
    click.echo(json.dumps(numbers))


if __name__ == "__main__":
    main()
