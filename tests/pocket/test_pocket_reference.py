"""A pocket that never saw some concepts: what is left out, how it trains, and what it does not learn from."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from erase_plugins.errors import RequestError, UnknownName
from erase_plugins.pocket.world import FOLDER, pocket_world
from tools.docs.attacks_table import LEAST_KEPT
from tools.pocket.captions import caption
from tools.pocket.compose import Label, Pictures
from tools.pocket.drawing import load_pipeline
from tools.pocket.loop import Draw
from tools.pocket.muon import MuonAdam
from tools.pocket.reference import WITHOUT, build, quality, start_of, unread, world_without

REFERENCE = Path(__file__).parent / "reference"


def test_no_caption_of_the_embedded_reference_holds_a_word_of_what_is_left_out(small_recipe):
    world = pocket_world()
    kept = world_without(world, WITHOUT)
    gone = {word.lower() for name in WITHOUT for word in (name, *world.concept(name).synonyms)}
    assert len(kept.concepts) == len(world.concepts) - len(WITHOUT)
    assert {world.concept(name).group for name in WITHOUT} == {item.group for item in world.concepts}
    named = {word.lower() for item in kept.concepts for word in (item.name, *item.synonyms)}
    assert not named & gone
    texts = {caption(kept, Label(place, 0, 0), small_recipe, Draw.of(0, "x", place).rng) for place in range(148)}
    assert not {word for text in texts for word in text.split()} & gone


def test_only_words_of_what_is_left_out_are_as_if_never_read():
    """Rows of the table of tokens; a word that a kept concept has as well stays as it was."""
    from transformers import CLIPTextModel, CLIPTokenizer

    tokenizer = CLIPTokenizer.from_pretrained(FOLDER / "model" / "tokenizer", local_files_only=True)
    encoder = CLIPTextModel.from_pretrained(FOLDER / "model" / "text_encoder", local_files_only=True)
    before = encoder.get_input_embeddings().weight.detach().clone()
    world = pocket_world()
    redrawn = unread(encoder, tokenizer, world, world_without(world, WITHOUT), 0)
    changed = (encoder.get_input_embeddings().weight != before).any(1).nonzero().flatten().tolist()
    assert sorted(redrawn) == sorted(tokenizer.convert_ids_to_tokens(changed))
    assert {f"{name}</w>" for name in WITHOUT} <= set(redrawn) and "cat</w>" not in redrawn
    first = world.concept("owl")
    shared = replace(world_without(world, WITHOUT), concepts=(replace(world.concepts[0], synonyms=("owl",)),))
    assert first.name == "owl" and "owl</w>" not in unread(encoder, tokenizer, world, shared, 0)


def test_an_earlier_run_is_gone_on_with_if_it_never_saw_them_either(tmp_path):
    with pytest.raises(RequestError, match=r"no quality\.json"):
        start_of(tmp_path, ["owl"])
    (tmp_path / "quality.json").write_text('{"without": ["owl", "gun"]}')
    assert start_of(tmp_path, ["gun"]) == tmp_path / "model"
    with pytest.raises(RequestError, match="has seen 'pizza'"):
        start_of(tmp_path, ["owl", "pizza"])


@pytest.mark.skipif(
    (REFERENCE.parents[2] / "PKG-INFO").is_file(), reason="a source distribution has no room for the reference"
)
def test_the_stored_one_draws_what_is_kept_and_nothing_of_what_is_not():
    """Every sixth of the 148 kept concepts, and two of the eight; ``quality.json`` has all of them."""
    told = json.loads((REFERENCE / "quality.json").read_text(encoding="utf-8"))
    assert tuple(told["without"]) == WITHOUT and told["kept"]["rate"] >= LEAST_KEPT
    kept = world_without(pocket_world(), WITHOUT)
    found = quality(load_pipeline(REFERENCE), replace(kept, concepts=kept.concepts[::6]), ["owl", "pizza"])
    assert found["kept"]["pictures"] == 25 and found["kept"]["rate"] >= 0.75  # five standard errors below the rate
    assert found["left_out"] == {"rate": 0.0, "pictures": 32}
    weights = "vae/diffusion_pytorch_model.safetensors"
    assert (REFERENCE / weights).read_bytes() == (FOLDER / "model" / weights).read_bytes()


def test_it_trains_from_random_weights_to_a_stock_pipeline(small_world, small_sprites, small_recipe, tmp_path):
    """With the embedded autoencoder and tokenizer; the words of what is left out are there, and nothing taught them."""
    from diffusers import AutoencoderKL, StableDiffusionPipeline

    recipe = replace(small_recipe, vae_channels=(8, 16, 16), tokens=32, context=256, denoiser_steps=2)
    world = world_without(small_world, ["box"])
    pictures = Pictures(world, small_sprites, recipe)
    assert {label.concept for label in pictures.labels} == {0, 1}
    numbers = build(tmp_path, pictures, recipe)
    pipe = StableDiffusionPipeline.from_pretrained(tmp_path / "model", local_files_only=True)
    assert numbers["loss"] > 0
    ours = AutoencoderKL.from_pretrained(FOLDER / "model" / "vae", local_files_only=True).state_dict()
    assert all(torch.equal(value, ours[name]) for name, value in pipe.vae.state_dict().items())
    assert pipe.tokenizer.tokenize("owl") == ["owl</w>"]
    assert build(tmp_path, pictures, recipe) == {"loss": 0.0}  # finished: nothing is trained again


def test_a_concept_that_shares_a_word_has_to_go_too():
    world = pocket_world()
    first, second = world.concepts[:2]
    both = replace(world, concepts=(first, replace(second, synonyms=(first.name,)), *world.concepts[2:]))
    with pytest.raises(RequestError, match=f"'{second.name}' is also called '{first.name}'"):
        world_without(both, [first.name])
    with pytest.raises(UnknownName, match="no concept"):
        world_without(world, ["dragon lord"])


def test_a_convolution_moves_like_the_matrix_of_its_filters():
    draw = torch.Generator().manual_seed(0)
    start, slope = torch.randn(6, 4, 3, 3, generator=draw), torch.randn(6, 4, 3, 3, generator=draw)
    moved = []
    for shape in ((6, 4, 3, 3), (6, 36)):
        value = torch.nn.Parameter(start.reshape(shape).clone())
        value.grad = slope.reshape(shape)
        MuonAdam([value], [], 0.1, 0.1, 0.01).step()
        moved.append(value.detach().reshape(start.shape))
    assert torch.equal(*moved) and not torch.equal(moved[0], start)
