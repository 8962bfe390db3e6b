"""Which modules of a text encoder are trained, and what is held there."""

from __future__ import annotations

import pytest
import torch

from erase_plugins.engine.context import RunContext
from erase_plugins.errors import RequestError
from erase_plugins.training.plan import trainable
from erase_plugins.training.text_tuning import HeldStates, same_meaning, text_refs
from erase_plugins.types import Concept, EraseRequest
from erase_plugins.workflow.models import target_of

from .text_models import with_clip_l


@pytest.fixture
def target(tiny_sd1):
    return target_of(tiny_sd1(), "tiny")


def test_the_papers_set_has_the_papers_size(target):
    refs = text_refs(with_clip_l(target), "mlp-final-attn")
    assert len(refs) == 2 * 12 + 4
    assert trainable(refs, None) == 59_031_552
    assert {ref.path.split(".")[2] for ref in refs if "self_attn" in ref.path} == {"11"}


def test_the_first_layers_are_counted_not_matched_by_name(target):
    layers = {int(ref.path.split(".")[2]) for ref in text_refs(with_clip_l(target), "mlp-attn", 2)}
    assert layers == {0, 1}


def test_sdxl_leaves_out_what_its_context_does_not_pass(tiny_sdxl):
    target = target_of(tiny_sdxl(), "tiny")
    refs = text_refs(target.info, "mlp-final-attn")
    last = {(ref.component, int(ref.path.split(".")[2])) for ref in refs if "self_attn" in ref.path}
    assert last == {("text_encoder", 0), ("text_encoder_2", 1)}
    assert max(int(ref.path.split(".")[2]) for ref in refs if ref.component == "text_encoder_2") == 1


def test_held_states_start_at_no_loss_and_see_a_change(target):
    request = EraseRequest("tiny", (Concept("pizza"),), "advunlearn", retain=("hamburger",))
    held = HeldStates.of(target, ["pizza"], request, 6, 0.8, ("a {}",), RunContext("t"))
    held.prepare()
    assert held.prompts[:2] == ("", "hamburger")
    assert not any("pizza" in prompt for prompt in held.prompts)
    assert float(held.loss(4, 0)) == 0
    with torch.no_grad():
        weight = target.module(text_refs(target.info, "mlp")[0]).weight
        before = weight.clone()
        weight.mul_(1.5)
        assert float(held.loss(4, 0)) > 0
        weight.copy_(before)
    empty = HeldStates(target, ("", "<|endoftext|>"), RunContext("t"))
    with pytest.raises(RequestError, match="cannot be kept"):
        empty.prepare()


def test_words_of_the_same_meaning_are_found_on_the_embedded_model(pocket_target):
    found = same_meaning(pocket_target, ["pizza"], 0.9)
    assert "pizza" not in found
    assert not {"dog", "car"} & set(found)
    assert set(found) <= set(same_meaning(pocket_target, ["pizza"], 0.7))
