"""Learned prompts reach the network, move as their rule says, and survive a checkpoint."""

from __future__ import annotations

import pytest
import torch

from erase_plugins.engine.attack import Attack, Attacks, Prefix, in_context, token_rows
from erase_plugins.errors import RequestError
from erase_plugins.workflow.models import target_of


@pytest.fixture(params=["tiny_sd1", "tiny_sdxl"])
def target(request):
    return target_of(request.getfixturevalue(request.param)(), "tiny")


def noise(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_rows_in_the_context_change_exactly_their_places_and_the_prediction(target):
    cond = target.encode(["pizza", "a hot dog"])
    rows = noise(3, target.info.width).requires_grad_(True)
    changed = in_context(cond, rows)
    for n, last in enumerate(cond.last):
        differs = (changed.embeds[n] != cond.embeds[n]).any(1).nonzero().flatten().tolist()
        assert differs == [last + 1, last + 2, last + 3]
    x, times = noise(2, *target.info.latent_shape), torch.tensor([300, 700])
    out = target.predict(x, times, changed)
    assert float((out - target.predict(x, times, cond)).detach().abs().max()) > 1e-6
    (grad,) = torch.autograd.grad(out.square().mean(), [rows])
    assert float(grad.abs().max()) > 0
    with pytest.raises(RequestError, match="do not fit"):
        in_context(cond, noise(40, target.info.width))


def test_signed_steps_move_every_value_by_the_rate_and_stay_in_the_cube():
    attack = Attack(noise(2, 5), 0.1, "sign", radius=0.25)
    attack.run(lambda rows, _: (rows - 10).square().sum(), 1)
    torch.testing.assert_close(attack.rows.detach(), attack.start + 0.1)
    attack.run(lambda rows, _: (rows - 10).square().sum(), 9)
    torch.testing.assert_close(attack.rows.detach(), attack.start + 0.25)


def test_no_step_leaves_the_start_and_adam_lowers_the_loss():
    attack = Attack(noise(2, 5), 0.05)
    assert attack.run(lambda rows, _: rows.sum(), 0) == []
    assert torch.equal(attack.rows.detach(), attack.start)
    losses = attack.run(lambda rows, _: rows.square().mean(), 30)
    assert losses[-1] < 0.5 * losses[0]
    with pytest.raises(RequestError, match="adam, sign"):
        Attack(noise(1, 1), 0.1, "newton")


def test_a_restored_attack_goes_on_to_the_same_bits():
    def fresh():
        return Attacks({"a": Attack(noise(2, 3), 0.1, decay=0.1), "b": Attack(noise(2, 3, seed=1), 0.1)})

    def loss(rows, step):
        return (rows - step).square().mean()

    whole, first, second = fresh(), fresh(), fresh()
    whole["a"].run(loss, 5)
    first["a"].run(loss, 3)
    second.load({name: part.clone() for name, part in first.tensors().items()})
    second["a"].run(lambda rows, step: loss(rows, step + 3), 2)
    assert torch.equal(whole["a"].rows, second["a"].rows)
    assert torch.equal(whole["b"].rows, second["b"].rows)


def test_the_plain_embeddings_give_the_plain_encoding(target):
    tokens = target.tokens(["a pizza", ""])
    rows = {name: target.token_table(name)[ids] for name, ids in tokens.ids.items()}
    plain, fed, cached = target.encode_live(tokens), target.encode_live(tokens, rows), target.encode(["a pizza", ""])
    for other in (fed, cached):
        assert torch.equal(plain.embeds, other.embeds)
        assert other.last == plain.last
        assert (plain.pooled is None) == (other.pooled is None)
        assert plain.pooled is None or torch.equal(plain.pooled, other.pooled)


def test_a_prefix_stands_before_the_whole_concept_and_takes_all_gradient(target):
    prefix = Prefix(target, 2)
    tokens = target.tokens(["a hot dog"])
    start = prefix.start(list(tokens.ids), torch.Generator().manual_seed(0))
    rows = start.clone().requires_grad_(True)
    live = prefix.encode(tokens, rows)
    assert live.last == (tokens.last[0] + 2,)
    assert live.embeds.shape == target.encode(["a hot dog"]).embeds.shape
    (grad,) = torch.autograd.grad(live.embeds.square().mean(), [rows])
    assert bool((grad.abs().amax(1) > 0).all())
    assert all(part.grad is None for part in target.pipe.text_encoder.parameters())
    with pytest.raises(RequestError, match="no room"):
        Prefix(target, 40).encode(tokens, rows)


@pytest.mark.parametrize(("concept", "splits"), [("pizza", False), ("pseudoscience", True)])
def test_a_prefix_of_real_tokens_equals_typing_them(target, concept, splits):
    """The embeddings of 'red' in front of a concept, also of one with several tokens, encode as typed."""
    typed, tokens = target.tokens([f"red {concept}"]), target.tokens([concept])
    assert (tokens.last[0] > 1) == splits
    assert typed.last[0] == tokens.last[0] + 1
    rows = torch.cat([target.token_table(name)[ids[:, 1]] for name, ids in typed.ids.items()], dim=-1)
    live = Prefix(target, 1).encode(tokens, rows)
    torch.testing.assert_close(live.embeds, target.encode([f"red {concept}"]).embeds, rtol=1e-5, atol=1e-5)


def test_rows_of_a_phrase_are_found_by_tokens(target):
    cond = target.tokens(["a hot dog picture", "hot dog"])
    rows = token_rows(target, "a hot dog picture", "hot dog")
    assert len(rows) == cond.last[1]
    assert rows[0] == target.tokens(["a"]).last[0] + 1
    with pytest.raises(RequestError, match="not in the prompt"):
        token_rows(target, "a cat", "hot dog")
