"""Projection, straight-through gradient, coupled decay: what can be computed by hand."""

from __future__ import annotations

import pytest
import torch

from erase_plugins.evaluation.attacks import discrete
from erase_plugins.evaluation.attacks.discrete import Choice, choice_gradient, losses, simplex
from erase_plugins.evaluation.attacks.vocabulary import word_table
from erase_plugins.workflow.models import target_of


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_the_projection_is_on_the_simplex_idempotent_and_the_nearest_point():
    rows = random(20, 6)
    found = simplex(rows)
    assert torch.allclose(found.sum(-1), torch.ones(20, dtype=torch.float64), atol=1e-12) and bool((found >= 0).all())
    assert torch.allclose(simplex(found), found, atol=1e-12)
    others = torch.rand(4000, 1, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    others = others / others.sum(-1, keepdim=True)
    assert bool(((others - rows).norm(dim=-1).min(0).values >= (found - rows).norm(dim=-1) - 1e-12).all())


@pytest.mark.parametrize("scale", [0.001, 1.0])
def test_sorting_the_largest_only_changes_nothing(scale):
    """The small scale keeps nearly all entries, so the whole row has to be sorted after all."""
    rows = random(4, 300) * scale
    assert torch.allclose(simplex(rows, top=16), simplex(rows, top=300), atol=1e-14)


def test_decay_is_part_of_the_gradient():
    """With no gradient Adam moves what has weight by its whole rate; decoupled decay would move it by rate x decay."""
    choice = Choice(1, 1, 3, torch.float64)
    choice.share = torch.tensor([[[0.7, 0.3, 0.0]]], dtype=torch.float64)
    choice.step(torch.zeros(1, 1, 3), [0], rate=0.01, decay=0.1)
    by_hand = torch.tensor([0.69, 0.29, 0.0], dtype=torch.float64) + 0.02 / 3
    assert torch.allclose(choice.share[0, 0], by_hand, atol=1e-6)


def test_prompts_that_are_done_stay():
    choice = Choice(2, 2, 5)
    choice.step(random(1, 2, 5), [1], rate=0.1)
    assert torch.equal(choice.share[0], torch.full((2, 5), 0.2)) and not torch.equal(choice.share[1], choice.share[0])


def test_words_are_drawn_by_their_share_from_a_fixed_stream():
    choice = Choice(1, 1, 4)
    choice.share = torch.tensor([[[0.0, 0.25, 0.75, 0.0]]])
    generator = torch.Generator().manual_seed(0)
    drawn = torch.cat([choice.drawn(generator) for _ in range(400)]).flatten()
    assert set(drawn.tolist()) == {1, 2} and 0.68 < (drawn == 2).double().mean() < 0.82


def test_the_gradient_is_clipped_at_1(tiny_sd1, monkeypatch):
    target = target_of(tiny_sd1(), "tiny")
    table, prompts, picks = word_table(target), target.tokens(["a dog"]), torch.tensor([[3, 5]])
    asked = (prompts, picks, random(1, 4, 8, 8).float(), random(1, 4, 8, 8, seed=1).float(), 500, 0.4)
    plain, _ = choice_gradient(target, table, *asked)
    whole = discrete.losses
    scale = 2 / float(plain.abs().max())
    monkeypatch.setattr(discrete, "losses", lambda *args: scale * whole(*args))
    found, _ = choice_gradient(target, table, *asked)
    assert float(plain.abs().max()) < 1 and float(found.abs().max()) == 1.0
    assert torch.allclose(found, (scale * plain).clamp(-1, 1), atol=1e-6)


@pytest.mark.parametrize("kind", ["tiny_sd1", "tiny_sdxl"])
def test_the_gradient_is_that_of_the_embeddings_times_the_table_and_reaches_nothing_else(kind, request):
    pipe = request.getfixturevalue(kind)()
    pipe.unet.double()
    target = target_of(pipe, "tiny")
    table = word_table(target)
    for name in table.ids:
        getattr(pipe, name).double()
    prompts = target.tokens(["a dog", "a cat on a red background"])
    picks = torch.tensor([[3, 5], [7, 3]])
    latents, noise = random(2, 4, 8, 8), random(2, 4, 8, 8, seed=1)
    before = {name: value.clone() for name, value in pipe.unet.state_dict().items()}
    found, error = choice_gradient(target, table, prompts, picks, latents, noise, 500, 0.4)
    assert found.shape == (2, 2, len(table.words)) and bool(found.abs().max() > 0)
    assert torch.allclose(error, losses(target, table.put(prompts, picks), latents, noise, 500, 0.4))
    assert all(torch.equal(value, before[name]) for name, value in pipe.unet.state_dict().items())
    assert all(parameter.grad is None for part in (pipe.unet, pipe.text_encoder) for parameter in part.parameters())
    # a step of the second prompt's first word towards another word, by finite differences
    word, step = 11, 1e-5
    embedded = {}
    tokens = table.put(prompts, picks)
    for name, ids in tokens.ids.items():
        rows = target.token_rows(name, ids).clone()
        rows[1, 1] += step * target.token_rows(name, table.ids[name][word : word + 1])[0]
        embedded[name] = rows
    moved = losses(target, tokens, latents, noise, 500, 0.4, embedded)
    assert float((moved - error)[1]) / step == pytest.approx(float(found[1, 0, word]), rel=1e-3, abs=1e-9)
    assert float((moved - error)[0]) == pytest.approx(0, abs=1e-12)
