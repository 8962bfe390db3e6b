"""Quality of a checkpoint: autoencoder PSNR and what the judge sees in drawn pictures.

``python -m tools.pocket.measure`` measures the embedded checkpoint.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from erase_plugins.pocket.world import FOLDER, World, pocket_world
from tools.pocket.drawing import (
    GUIDANCE,
    STEPS,
    OnDrawn,
    draw,
    grid,
    judge_images,
    load_flow_pipeline,
    load_judge,
    load_pipeline,
)

if TYPE_CHECKING:
    import numpy as np

    from tools.pocket.compose import Pictures


FREE = Path(__file__).with_name("free_prompts.txt")


@dataclass(frozen=True)
class Ask:
    """A prompt with what its picture has to show (None: not asked)."""

    prompt: str
    concept: str
    style: str | None = None
    background: str | None = None


def full_prompts(world: World, rng: np.random.Generator) -> list[Ask]:
    """One prompt for each concept, with a random style and background."""
    styles = rng.integers(len(world.styles), size=len(world.concepts))
    backgrounds = rng.integers(len(world.backgrounds), size=len(world.concepts))
    asks = []
    for item, style, background in zip(world.concepts, styles, backgrounds, strict=True):
        look, ground = world.styles[style], world.backgrounds[background]
        asks.append(Ask(f"a {look} {item.name} on a {ground} background", item.name, look, ground))
    return asks


def name_prompts(world: World) -> list[Ask]:
    """ "a <concept>" for each concept."""
    return [Ask(f"a {item.name}", item.name) for item in world.concepts]


def synonym_prompts(world: World) -> list[Ask]:
    """ "a <synonym>" for each synonym of each concept."""
    return [Ask(f"a {word}", item.name) for item in world.concepts for word in item.synonyms]


def free_prompts(world: World) -> list[Ask]:
    """Two prompts in free phrasing for each concept, written by hand; no training knows any of them."""
    texts: dict[str, list[str]] = {}
    for line in FREE.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            name, text = line.split(" | ")
            texts.setdefault(name, []).append(text)
    return [Ask(texts[item.name][turn], item.name) for turn in (0, 1) for item in world.concepts if item.name in texts]


def rate(hits: Sequence[bool]) -> dict[str, float | int]:
    """Share of hits with Wilson's 95 % interval."""
    n, share, z = len(hits), sum(hits) / len(hits), 1.959964
    middle, scale = (share + z * z / (2 * n)), 1 + z * z / n
    half = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    low, high = max(0.0, (middle - half) / scale), min(1.0, (middle + half) / scale)
    return {"value": round(share, 4), "low": round(low, 4), "high": round(high, 4), "n": n}


def measure(
    pipe: Any,
    judge: tuple[Any, dict[str, list[str]]],
    world: World,
    seed: int = 0,
    pictures: Pictures | None = None,
    on_drawn: OnDrawn | None = None,
) -> dict[str, Any]:
    """All numbers of ``quality.json``.

    Args:
        pipe: the pipeline; its scheduler is not touched.
        judge: from `load_judge`.
        world: what to ask for.
        seed: of prompts and noise.
        pictures: training pictures, for PSNR and the judge's own accuracy; without them these are null.
        on_drawn: progress (pictures drawn, all).
    """
    import torch

    from tools.pocket.loop import Draw
    from tools.pocket.train_vae import psnr

    groups = {
        "drawn": full_prompts(world, _rng(seed)),
        "name": name_prompts(world),
        "synonym": synonym_prompts(world),
        "free": free_prompts(world),
    }
    asks = [ask for group in groups.values() for ask in group]
    images = draw(pipe, [ask.prompt for ask in asks], seed, on_drawn)
    seen = judge_images(*judge, images)
    result: dict[str, Any] = {"vae_psnr_db": None, "vae_psnr_pooled_db": None, "judge_on_training_pictures": None}
    if pictures is not None:
        pixels, labels = pictures.sample(1024, Draw.of(seed, "sprites", 0).rng)
        verdicts = judge_images(*judge, torch.from_numpy(pixels) / 255)
        right = [(world.concepts[a.concept].name, world.styles[a.style], world.backgrounds[a.background])
                 for a in labels]  # fmt: skip
        mean, pooled = psnr(pipe.vae, pictures, seed)
        result |= {"vae_psnr_db": round(mean, 2), "vae_psnr_pooled_db": round(pooled, 2)}
        result["judge_on_training_pictures"] = {
            axis: rate([verdict[axis] == names[index] for verdict, names in zip(verdicts, right, strict=True)])
            for index, axis in enumerate(("concept", "style", "background"))
        }
    at = 0
    for key, group in groups.items():
        if group:
            pairs = list(zip(group, seen[at : at + len(group)], strict=True))
            axes = ("concept", "style", "background") if key == "drawn" else ("concept",)
            result[key] = {axis: rate([verdict[axis] == getattr(ask, axis) for ask, verdict in pairs]) for axis in axes}
            result[key]["missed"] = [
                f"{ask.prompt} -> {v['concept']}" for ask, v in pairs if v["concept"] != ask.concept
            ]
        at += len(group)
    return {"seed": seed, "sampler": f"DPM-Solver++, {STEPS} steps, guidance {GUIDANCE:g}, bf16", **result}


def main(arguments: list[str] | None = None) -> None:
    """Measures a checkpoint and prints its numbers as JSON."""
    import argparse

    from tools.pocket.train import one_line

    parser = argparse.ArgumentParser(prog="python -m tools.pocket.measure", description=main.__doc__)
    parser.add_argument("--folder", type=Path, default=FOLDER, help="folder with model/ and judge.safetensors")
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument("--flow", action="store_true", help="measure the flow transformer in flow/ of that folder")
    kind.add_argument("--natural", action="store_true", help="measure the model in natural/ of that folder")
    parser.add_argument("--art", type=Path, help="art folder; default: the cache, filled by npm")
    parser.add_argument("--no-art", action="store_true", help="skip what needs training pictures")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--sheet", type=Path, help="also write a contact sheet of the drawn pictures (PNG)")
    parser.add_argument("--out", type=Path, help="also write the numbers to this file")
    options = parser.parse_args(arguments)
    with one_line():
        result = _measure_folder(options)
    print(json.dumps(result, indent=1))


def _measure_folder(options: Any) -> dict[str, Any]:
    from erase_plugins.errors import RequestError
    from erase_plugins.families.assembled import PARTS
    from tools.pocket import art
    from tools.pocket.compose import Pictures
    from tools.pocket.export import save_json
    from tools.pocket.recipe import Recipe

    name = "flow" if options.flow else "natural" if options.natural else "model"
    if not any((options.folder / name / file).is_file() for file in ("model_index.json", PARTS)):
        raise RequestError(f"'{options.folder.name}' has no {name}/ folder; give the --out folder of a training run")
    world, pictures = pocket_world(), None
    if not options.no_art:
        pictures = Pictures(world, art.load_sprites(world, options.art or art.fetch(world)), Recipe())
    started = time.perf_counter()
    pipe = (load_flow_pipeline if options.flow else load_pipeline)(options.folder / name)
    judge = load_judge(options.folder / "judge.safetensors")
    result = measure(pipe, judge, world, options.seed, pictures)
    result = {"command": f"python -m tools.pocket.measure{'' if name == 'model' else f' --{name}'}", **result}
    if options.out:
        save_json(result, options.out)  # without the time, which belongs to the machine
    result["seconds"] = round(time.perf_counter() - started, 1)
    if options.sheet:
        prompts = [ask.prompt for ask in full_prompts(world, _rng(options.seed))]
        grid(draw(pipe, prompts, options.seed), columns=13).save(options.sheet)
    return result


def _rng(seed: int) -> np.random.Generator:
    from tools.pocket.loop import Draw

    return Draw.of(seed, "measure", 0).rng


if __name__ == "__main__":
    main()
