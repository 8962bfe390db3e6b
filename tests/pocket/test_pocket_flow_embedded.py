"""The shipped flow transformer: stock classes load it, the judge sees what it draws, methods erase on it and undo."""

from __future__ import annotations

import hashlib
import json

import pytest
import torch

import erase_plugins as ep
from erase_plugins.evaluation.draw import draw
from erase_plugins.families.source import POCKET_FLOW, find_source, pocket_folder
from erase_plugins.pocket.judge import PocketJudge
from erase_plugins.pocket.world import FOLDER, pocket_world

FLOW = FOLDER / "flow"
#: the first digits of the SHA-256 of what `pocket` is: another embedded model takes files from it and changes none
POCKET = {
    "model/unet/diffusion_pytorch_model.safetensors": "c3dad980c685f117",
    "model/text_encoder/model.safetensors": "108a3808fa353cc9",
    "model/vae/diffusion_pytorch_model.safetensors": "4af1d77a08b49679",
    "model/tokenizer/tokenizer.json": "0ae13952253b0ede",
    "model/scheduler/scheduler_config.json": "28d1a009dfa46693",
    "judge.safetensors": "db97c2c5d68e3be7",
    "concepts.json": "1fa52ea229e6c71d",
    "quality.json": "b7fe8cfc202c3bff",
}
shipped = pytest.mark.skipif(not FLOW.is_dir(), reason="this checkout has no weights of pocket-flow")


@pytest.fixture(scope="module")
def pipe():
    return ep.load(POCKET_FLOW)


def seen(pipe, prompts, seed=0):
    """What the judge sees in one picture of each prompt."""
    pictures = draw(pipe, prompts, range(seed, seed + len(prompts)), denoiser=pipe.transformer)
    names = PocketJudge().axes["concept"]
    return [names[index] for index in PocketJudge().score(pictures)["concept"].argmax(-1).tolist()]


def test_pocket_itself_is_what_it_was():
    assert {name: hashlib.sha256((FOLDER / name).read_bytes()).hexdigest()[:16] for name in POCKET} == POCKET


@shipped
def test_stock_classes_of_the_stated_size(pipe):
    assert type(pipe).__module__.startswith("diffusers.") and type(pipe).__name__ == "StableDiffusion3Pipeline"
    assert type(pipe.transformer).__name__ == "SD3Transformer2DModel"
    assert 8e6 < sum(value.numel() for value in pipe.transformer.parameters()) < 12e6
    assert sum(path.stat().st_size for path in FLOW.rglob("*") if path.is_file()) < 25e6
    info = find_source(POCKET_FLOW)
    assert {"transformer", "text_encoder", "text_encoder_2", "vae", "scheduler"} <= set(info.configs)


@shipped
def test_the_assembled_folder_is_one_of_stock_diffusers(pipe):
    from diffusers import StableDiffusion3Pipeline

    other = StableDiffusion3Pipeline.from_pretrained(
        pocket_folder(POCKET_FLOW), text_encoder_3=None, tokenizer_3=None, torch_dtype=torch.float32
    )
    for name in ("transformer", "text_encoder", "text_encoder_2", "vae"):
        mine, theirs = (getattr(item, name).state_dict() for item in (pipe, other))
        assert all(torch.equal(mine[key], theirs[key]) for key in mine), name
    pocket = ep.load("pocket")
    ids = pipe.tokenizer(["a pizza"], padding="max_length", return_tensors="pt").input_ids
    with torch.no_grad():
        found = pipe.text_encoder(ids).last_hidden_state
        wanted = pocket.text_encoder(ids).last_hidden_state
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


@shipped
def test_eight_concepts_are_drawn_as_well_as_measured(pipe):
    names = [item.name for item in pocket_world().concepts][3::20][:8]
    found = seen(pipe, [f"a {name}" for name in names])
    share = sum(one == other for one, other in zip(found, names, strict=True)) / 8
    measured = json.loads((FLOW / "quality.json").read_text(encoding="utf-8"))["name"]["concept"]["value"]
    assert share >= measured - 0.25


@shipped
def test_the_card_says_what_was_measured():
    quality = json.loads((FLOW / "quality.json").read_text(encoding="utf-8"))
    card = (FOLDER / "README.md").read_text(encoding="utf-8")
    for key in ("drawn", "name", "synonym", "free"):
        assert f"{100 * quality[key]['concept']['value']:.1f} %" in card, key


@shipped
def test_uce_erases_one_concept_and_comes_off_to_the_bit(pipe):
    prompts = ["a pizza"] * 4 + ["a rocket", "a banana"]
    before = seen(pipe, prompts)
    assert before.count("pizza") >= 3
    weights = {name: value.clone() for name, value in pipe.transformer.state_dict().items()}
    made = ep.erase(pipe, "pizza", "uce", options={"vocabulary": 200})
    with ep.apply(pipe, made) as handle:
        assert handle.patched == 2
        after = seen(pipe, prompts)
    assert after.count("pizza") == 0
    assert after[4:] == before[4:]
    assert all(torch.equal(value, weights[name]) for name, value in pipe.transformer.state_dict().items())
