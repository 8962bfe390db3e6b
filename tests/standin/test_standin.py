"""What full-sized text encoders bring with them, on a trained stand-in with the real BPE and 77 rows: words, gates, stop
lists, calibration."""

from __future__ import annotations

import statistics

import pytest
import torch
from safetensors.torch import load_file

import erase_plugins as ep
from erase_plugins.artifacts.edit import Edit, LowRank
from erase_plugins.artifacts.gated import GATE, gated_lowrank
from erase_plugins.engine import disk_cache
from erase_plugins.engine.context import RunContext
from erase_plugins.engine.gating import GateRecipe, make_gate
from erase_plugins.engine.stop_words import stopped
from erase_plugins.engine.words import listed, real_words
from erase_plugins.manager import get_manager
from erase_plugins.runtime.gates import gate_table
from erase_plugins.training.retain import keep_words
from erase_plugins.training.text_tuning import same_meaning
from erase_plugins.types import Concept
from erase_plugins.workflow.applying import apply
from erase_plugins.workflow.calibrate import calibrate, concepts, save
from erase_plugins.workflow.models import as_target
from tests.runtime.test_gates import wrapped
from tests.runtime.test_prompts import captions
from tests.standin import ENTRIES, FILE, standin_sd1


@pytest.fixture(scope="module")
def target(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(disk_cache.VARIABLE, str(tmp_path_factory.mktemp("words")))
        yield as_target(standin_sd1())


@pytest.fixture(scope="module")
def found(target):
    return calibrate(target, [get_manager().method("uce")], quick=True)


def kind_of(word):
    return next((kind for kind, words in listed().items() if word in words), None)


def test_it_reads_prompts_as_full_sized_encoders_do(target):
    assert target.info.tokens == 77
    assert target.pipe.text_encoder.config.vocab_size == ENTRIES
    rows = target.encode(["a dog", "a dog and a cat"])
    assert torch.equal(rows.embeds[0, :3], rows.embeds[1, :3]), "causal"
    assert len(target.tokens(["ymbrookzorvane"]).ids["text_encoder"][0].unique()) > 3, "pieces of words"


def test_it_is_calibrated_and_same_near_and_other_words_are_told_apart(found, tmp_path):
    save(found, tmp_path / "c.json")
    rows = found["neighbours"].values()
    same = statistics.median(row["same"] for row in rows)
    near = statistics.median(value for row in rows for value in row["near"])
    assert same > 0.9 > near > 0.1
    assert 0 < found["preset"]["near"] < 1
    assert found["words"]["listed"] > 3500
    assert found["words"]["own"] > 5 * found["words"]["listed"], "fragments"
    assert "stopped" not in found["methods"]["uce"]
    plan = ep.plan("pocket", "pizza", "uce", preset=str(tmp_path / "c.json"))
    assert plan.options["near"] == found["preset"]["near"]


def test_neighbours_are_words_of_the_same_kind(found):
    """Of all listed words; chance would be a sixth."""
    hits = [
        kind_of(word) == kind_of(concept)
        for concept, row in found["neighbours"].items()
        for word, _ in row["closest"][:5]
    ]
    assert sum(hits) > 0.6 * len(hits)


def test_aliases_are_found_in_all_words(target):
    for concept, same in (("church", "churches"), ("dog", "dogs"), ("guitar", "guitars")):
        aliases = same_meaning(target, (concept,), 0.9)
        assert same in aliases
        assert set(aliases) <= set(real_words(target)) - {concept}


@pytest.mark.parametrize("concept", ["bicycle", "church"])
def test_a_gate_opens_for_captions_of_five_to_sixty_tokens_that_name_the_concept(target, concept):
    recipe = GateRecipe("probe", 300, 0.85, 0.45, 0.75)
    gate = make_gate(target, [concept], [[concept]], [Concept(concept)], recipe, RunContext("spm"))
    ref = target.modules("cross_v")[0]
    change = LowRank(torch.ones(1, ref.shape[1]), torch.ones(ref.shape[0], 1))
    made = wrapped(target, Edit("sd1", {"unet": {GATE: gate, ref.path: gated_lowrank(change, [0])}}), concept)
    named = [text for seed in range(4) for text in captions(concept, seed=seed)]
    prompts = [*named, *captions(None)]
    by_rows = gate_table(target.encode(prompts).embeds, gate.weights["embeddings"], gate.config)[:, 0]
    assert (by_rows[: len(named)] < 0.5).any(), "the embedding alone would do"
    with apply(target.pipe, made) as handle:
        gated = handle.parts["unet"].attached[0]
        gated.read(target.encode(prompts).embeds)
        seen = gated.table[:, 0]
    assert seen[: len(named)].min() == 1.0
    assert torch.equal(seen[len(named) :], by_rows[len(named) :])


def test_held_words_are_free_of_what_the_stop_lists_bar(target):
    """Clothes are close to each other, so without the list the closest words would be held, those on it among them."""
    concept, draw = Concept("underwear", kind="explicit"), torch.Generator().manual_seed(0)
    held = {
        kind: keep_words(target, ["underwear"], [Concept("underwear", kind=kind)], 200, 1.0, draw)
        for kind in ("object", "explicit")
    }
    assert len(stopped(held["object"], [concept])) >= 2
    assert not stopped(held["explicit"], [concept])


def test_every_calibrated_concept_has_its_rows(target):
    """Tokens that were never trained on are random: none of them stands for what tests ask about."""
    words = [*concepts(), *(row["same"] for row in concepts().values())]
    ids = target.tokens(words).ids["text_encoder"]
    assert set(ids.flatten().tolist()) <= set(load_file(FILE)["used"].tolist())
