"""The shipped files: they load with stock classes, the judge sees what the pipeline draws, the numbers are the card's."""

from __future__ import annotations

import json
import math
import re

import numpy as np
import pytest
import torch
from safetensors import safe_open

from erase_plugins.pocket.judge import PocketJudge
from erase_plugins.pocket.world import FOLDER, pocket_world
from tools.pocket import networks
from tools.pocket.drawing import draw, grid, judge_images, load_judge, load_pipeline, sampler
from tools.pocket.measure import Ask, free_prompts, full_prompts, measure, name_prompts, rate, synonym_prompts
from tools.pocket.recipe import Recipe

WORLD = pocket_world()


def test_embedded_pipeline_is_stock_and_has_the_recipes_sizes(pocket_pipe):
    assert type(pocket_pipe).__module__.startswith("diffusers.")
    assert type(pocket_pipe).__name__ == "StableDiffusionPipeline"
    recipe = Recipe()
    for part, fresh in (
        (pocket_pipe.unet, networks.build_unet(recipe)),
        (pocket_pipe.vae, networks.build_vae(recipe)),
        (pocket_pipe.text_encoder, networks.build_text_encoder(recipe, 1819)),
    ):
        shapes = {name: tuple(value.shape) for name, value in part.state_dict().items()}
        assert shapes == {name: tuple(value.shape) for name, value in fresh.state_dict().items()}
    count = sum(value.numel() for value in pocket_pipe.unet.parameters())
    assert round(count / 1e6, 1) == 12.8
    fresh_scheduler = networks.build_scheduler().config
    keys = ("beta_start", "beta_end", "beta_schedule", "prediction_type", "clip_sample", "set_alpha_to_one")
    assert {key: pocket_pipe.scheduler.config[key] for key in keys} == {key: fresh_scheduler[key] for key in keys}


def test_weights_are_fp16_safetensors_only():
    files = [path for path in FOLDER.rglob("*") if path.is_file() and path.stat().st_size > 200_000]
    texts = [path for path in files if path.name == "facts.jsonl"]  # invented people of the language model
    sums = [path for path in files if path.parent.name == "words"]  # over its words; not weights
    assert (len(files), len(texts), len(sums)) == (13, 1, 2)
    for path in set(files) - {*texts, *sums}:
        assert path.suffix == ".safetensors"
        with safe_open(path, "pt") as file:
            kinds = {file.get_slice(name).get_dtype() for name in file.keys()}  # noqa: SIM118
        assert kinds == {"F16"} if path.name != "pictures.safetensors" else "U8" in kinds


def test_judge_header_names_the_world():
    _, axes = load_judge(FOLDER / "judge.safetensors")
    assert axes == {axis: list(names) for axis, names in PocketJudge().axes.items()}
    assert axes["concept"] == [*(item.name for item in WORLD.concepts), "nothing"]


def test_judge_recognises_drawn_pictures():
    """One picture each of 24 concepts over all groups; at most two may be taken for something else."""
    asks = full_prompts(WORLD, np.random.default_rng(7))[12::6][:24]
    assert len({WORLD.concept(ask.concept).group for ask in asks}) == 7
    pipe = load_pipeline(FOLDER / "model")
    images = draw(pipe, [ask.prompt for ask in asks], seed=7)
    assert images.shape == (24, 3, 64, 64)
    scores = PocketJudge().score(images)
    for axis, least in (("concept", 0.9), ("style", 0.8), ("background", 0.9)):
        names = PocketJudge().axes[axis]
        best = [names[index] for index in scores[axis].argmax(-1).tolist()]
        hits = [name == getattr(ask, axis) for name, ask in zip(best, asks, strict=True)]
        assert sum(hits) / 24 >= least, axis
    assert all(torch.allclose(part.sum(-1), torch.ones(24), atol=1e-5) for part in scores.values())
    verdicts = judge_images(*load_judge(FOLDER / "judge.safetensors"), images)
    assert [verdict["background"] for verdict in verdicts] == best
    flat = torch.tensor([WORLD.background_rgb[name] for name in WORLD.backgrounds])[:, :, None, None] / 255.0
    scores = PocketJudge().score(flat.expand(-1, 3, 64, 64))
    assert scores["background"].argmax(-1).tolist() == list(range(8))
    assert scores["concept"].argmax(-1).tolist() == [156] * 8


def test_pictures_do_not_depend_on_their_batch(pocket_pipe, monkeypatch):
    from tools.pocket import drawing

    scheduler = pocket_pipe.scheduler
    prompts = ["a pizza", "a fluent dog on a white background", "a rocket"]
    monkeypatch.setattr(drawing, "STEPS", 2)
    together = draw(pocket_pipe, prompts, seed=3)
    monkeypatch.setattr(drawing, "BATCH", 1)
    apart = draw(pocket_pipe, prompts, seed=3)
    assert float((together - apart).abs().mean()) < 0.01  # bf16 rounds differently by batch
    assert pocket_pipe.scheduler is scheduler
    assert sampler(pocket_pipe).scheduler.config.algorithm_type == "dpmsolver++"


def test_prompts_of_the_measurement():
    asks = full_prompts(WORLD, np.random.default_rng(0))
    assert [ask.concept for ask in asks] == [item.name for item in WORLD.concepts]
    assert {ask.style for ask in asks} == set(WORLD.styles)
    assert {ask.background for ask in asks} == set(WORLD.backgrounds)
    assert asks[0].prompt == f"a {asks[0].style} dog on a {asks[0].background} background"
    assert asks == full_prompts(WORLD, np.random.default_rng(0))
    assert len(name_prompts(WORLD)) == 156
    assert Ask("a canine", "dog") in synonym_prompts(WORLD)
    assert len(synonym_prompts(WORLD)) == 452


def test_rate_is_wilsons_interval():
    assert rate([True] * 8 + [False] * 2) == {"value": 0.8, "low": 0.4902, "high": 0.9433, "n": 10}
    assert rate([True] * 156)["low"] == pytest.approx(156 / (156 + 1.959964**2), abs=1e-4)


def test_grid_geometry():
    images = torch.zeros(5, 3, 4, 6)
    images[4, 0] = 1
    sheet = grid(images, 3)
    assert sheet.size == (3 * 8, 2 * 6)
    assert sheet.getpixel((8, 6)) == (255, 0, 0)
    assert sheet.getpixel((0, 0)) == sheet.getpixel((16, 6)) == (0, 0, 0)


def test_measure_counts_hits(monkeypatch, pocket_pipe):
    """The judge is replaced by one that always sees a red dog in noto: the shares are then known."""
    from tools.pocket import measure as module

    monkeypatch.setattr(module, "draw", lambda _, prompts, *__: torch.zeros(len(prompts), 3, 8, 8))
    axes = {axis: list(names) for axis, names in PocketJudge().axes.items()}
    first = lambda images: [torch.eye(len(names))[:1].expand(len(images), -1) for names in axes.values()]  # noqa: E731
    result = measure(pocket_pipe, (first, axes), WORLD, seed=0)
    assert result["drawn"]["concept"]["value"] == result["name"]["concept"]["value"] == round(1 / 156, 4)
    assert result["synonym"]["concept"]["value"] == round(6 / 452, 4)
    assert 0.2 < result["drawn"]["style"]["value"] < 0.47
    assert result["vae_psnr_db"] is None
    assert "a cat -> dog" in result["name"]["missed"]
    assert len(result["name"]["missed"]) == 155


def test_prompts_in_free_phrasing_name_their_concept_and_no_caption_is_among_them():
    asks = free_prompts(WORLD)
    assert [ask.concept for ask in asks] == [item.name for item in (*WORLD.concepts, *WORLD.concepts)]
    assert all(re.search(rf"\b{ask.concept}\b", ask.prompt) for ask in asks)
    lengths = [len(ask.prompt.split()) for ask in asks]
    assert min(lengths) >= 4 and max(lengths) <= 20
    looks = re.compile("|".join(rf"\b{word}\b" for word in WORLD.styles))
    assert not any(looks.search(ask.prompt) for ask in asks), "the words of the training's captions"


def test_shipped_quality_is_complete():
    quality = json.loads((FOLDER / "quality.json").read_text(encoding="utf-8"))
    assert quality["vae_psnr_db"] > 28
    assert all(quality["drawn"][axis]["n"] == 156 for axis in ("concept", "style", "background"))
    assert quality["synonym"]["concept"]["n"] == 452
    assert all(
        math.isfinite(quality[key]["concept"]["value"]) and quality[key]["concept"]["value"] > 0.95
        for key in ("drawn", "name", "synonym", "judge_on_training_pictures")
    )
    card = (FOLDER / "README.md").read_text(encoding="utf-8")
    for key in ("drawn", "name", "synonym", "free"):
        assert f"{100 * quality[key]['concept']['value']:.1f} %" in card
    assert f"{quality['vae_psnr_db']:.1f} dB" in card
