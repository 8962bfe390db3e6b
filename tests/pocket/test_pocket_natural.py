"""pocket-natural: what its text encoder is taught, and what the shipped one understands."""

from __future__ import annotations

import json
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

import erase_plugins as ep
from erase_plugins.families.assembled import PARTS, whole
from erase_plugins.families.source import POCKET_NATURAL
from erase_plugins.pocket.judge import PocketJudge
from erase_plugins.pocket.world import FOLDER, pocket_world
from tests.pocket.test_pocket_reference import REFERENCE
from tools.docs.attacks_table import LEAST_KEPT
from tools.pocket import natural
from tools.pocket.drawing import draw, load_pipeline
from tools.pocket.loop import Draw
from tools.pocket.measure import free_prompts, rate

NATURAL = FOLDER / "natural"
SMALL = replace(natural.RECIPE, denoiser_steps=2, denoiser_batch=8, checkpoint_every=1)


@pytest.fixture
def few_pictures(monkeypatch):
    monkeypatch.setattr(natural, "PICTURES", 4)


def test_reading_is_what_the_layers_of_diffusers_do():
    torch.manual_seed(0)
    pipe = load_pipeline(FOLDER / "model")
    states = torch.randn(3, 32, 256)
    for layer in natural.cross_attentions(pipe.unet):
        hidden = torch.randn(1, 5, layer.query_dim)
        with torch.no_grad():
            stock = layer(hidden.expand(3, -1, -1), encoder_hidden_states=states)
            (mine,) = natural.read([layer], [layer.to_q(hidden[0])], states)
        assert torch.allclose(mine, stock, atol=1e-5)


def test_a_text_encoder_that_says_the_same_has_no_loss_on_old_captions(few_pictures, monkeypatch):
    """What is left is the rounding of bf16; new words for old meanings are far from 0."""
    pipe = load_pipeline(FOLDER / "model")
    monkeypatch.setattr(natural.Phrasing, "ask", lambda _, rng: ("a owl on red", "a owl on red"))
    stage = natural.natural_stage(pipe, deepcopy(pipe.text_encoder), pocket_world(), SMALL)
    with torch.no_grad():
        same = float(stage.loss(Draw.of(0, "x", 0)))
    monkeypatch.setattr(natural.Phrasing, "ask", lambda _, rng: ("a big owl under the tall bridge", "a owl on red"))
    with torch.no_grad():
        other = float(stage.loss(Draw.of(0, "x", 0)))
    assert same < 0.02 < 0.2 < other


def test_a_build_names_the_other_files_and_stock_diffusers_loads_it(few_pictures, tmp_path):
    (tmp_path / "model").symlink_to(FOLDER / "model")
    natural.build(tmp_path / "model", tmp_path, pocket_world(), SMALL)
    made = tmp_path / "natural"
    assert (made / PARTS).is_file() and [path.name for path in made.rglob("*.safetensors")] == ["model.safetensors"]
    pipe, old = load_pipeline(whole(made, tmp_path / "cache")), load_pipeline(FOLDER / "model")
    same = [torch.equal(a, b) for a, b in zip(pipe.unet.parameters(), old.unet.parameters(), strict=True)]
    assert all(same) and same
    moved = [
        not torch.equal(a, b)
        for a, b in zip(pipe.text_encoder.parameters(), old.text_encoder.parameters(), strict=True)
    ]
    assert any(moved)


def test_a_folder_without_a_model_is_one_line(tmp_path):
    done = CliRunner().invoke(natural.main, ["--out", str(tmp_path / "out"), "--model", str(tmp_path)])
    assert done.exit_code and "no model_index.json" in done.output and not (tmp_path / "out").exists()


def test_the_captions_of_the_reference_name_nothing_that_it_never_saw():
    assert set(natural.left_out(REFERENCE)) == {"owl", "pizza", "guitar", "car", "rose", "ghost", "syringe", "gun"}
    assert natural.left_out(FOLDER / "model") == ()


def test_the_shipped_one_understands_and_draws_what_pocket_draws():
    """Every sixth prompt that was kept aside; ``quality.json`` has all of them, and all that pocket is measured by."""
    told, old = (json.loads((path / "quality.json").read_text(encoding="utf-8")) for path in (NATURAL, FOLDER))
    assert told["free"]["concept"]["value"] >= 0.95 > old["free"]["concept"]["value"]
    for kind in ("drawn", "name", "synonym"):
        for axis in told[kind].keys() - {"missed"}:
            assert told[kind][axis]["value"] >= old[kind][axis]["low"], (kind, axis)
    asks = free_prompts(pocket_world())[::6]
    pipe, names = ep.load(POCKET_NATURAL), PocketJudge().axes["concept"]
    pictures = draw(pipe, [ask.prompt for ask in asks], 0)
    seen = [names[place] for place in PocketJudge().score(pictures)["concept"].argmax(-1).tolist()]
    assert rate([name == ask.concept for name, ask in zip(seen, asks, strict=True)])["value"] >= 0.9


@pytest.mark.skipif(
    (REFERENCE.parents[2] / "PKG-INFO").is_file(), reason="a source distribution has no room for the reference"
)
def test_the_reference_understands_and_draws_nothing_of_what_it_never_saw():
    folder = Path(__file__).parent / "reference_natural"
    told = json.loads((folder / "quality.json").read_text(encoding="utf-8"))
    assert tuple(told["without"]) == natural.left_out(REFERENCE) and told["kept"]["rate"] >= LEAST_KEPT
    asks = [ask for ask in free_prompts(pocket_world()) if ask.concept in told["without"]]
    pictures = draw(load_pipeline(folder), [ask.prompt for ask in asks], 0)
    names = PocketJudge().axes["concept"]
    seen = [names[place] for place in PocketJudge().score(pictures)["concept"].argmax(-1).tolist()]
    assert len(asks) == 16 and not [ask.concept for name, ask in zip(seen, asks, strict=True) if name == ask.concept]
