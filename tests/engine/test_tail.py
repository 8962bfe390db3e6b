"""Positions that nobody reads are not computed, and scores and gradients stay as they are."""

from __future__ import annotations

import torch
from torch import nn

from erase_plugins.engine.tail import Tail, _SameQueries
from tests.classifiers import run_of


def test_scores_and_gradients_are_those_of_the_whole_network(host, pictures):
    made, run = Tail.of(host, run_of(host), pictures), run_of(host)
    weights = [part for layer in host.vit.layers for part in layer.parameters()]
    wanted = run(pictures)
    grads = torch.autograd.grad(wanted.square().sum(), weights)
    with made.in_force():
        found = run(pictures)
        shorter = torch.autograd.grad(found.square().sum(), weights)
    assert torch.allclose(found, wanted, atol=1e-6)
    assert all(torch.allclose(a, b, rtol=1e-5, atol=1e-5) for a, b in zip(shorter, grads, strict=True))
    assert torch.equal(run(pictures), wanted)  # nothing is left behind


def test_the_last_block_computes_one_position_and_the_others_all(host, pictures):
    made, last, seen = Tail.of(host, run_of(host), pictures), host.vit.layers[-1], {}
    assert {last.mlp, last.layernorm_after, last.attention.o_proj, host.vit.layernorm} <= set(made.modules)
    assert made.modules[last.attention.q_proj]  # the attention counts its queries
    assert not {last.attention.k_proj, last.attention.v_proj, last.layernorm_before} & set(made.modules)
    assert not any(inner in made.modules for layer in host.vit.layers[:-1] for inner in layer.modules())
    hooks = [layer.mlp.fc1.register_forward_hook(lambda module, args, _out: seen.update({module: args[0].shape[1]}))
             for layer in host.vit.layers]  # fmt: skip
    with made.in_force():
        run_of(host)(pictures)
    for hook in hooks:
        hook.remove()
    assert seen[last.mlp.fc1] == 1
    assert all(seen[layer.mlp.fc1] > 1 for layer in host.vit.layers[:-1])


def test_an_attention_answers_equal_queries_once():
    from torch.nn.functional import scaled_dot_product_attention as attend

    generator = torch.Generator().manual_seed(0)
    one, key, value = (torch.randn(2, 3, count, 4, generator=generator) for count in (1, 6, 6))
    equal, different = one.expand(-1, -1, 5, -1), torch.randn(2, 3, 5, 4, generator=generator)
    mask = torch.randn(5, 6, generator=generator)
    with _SameQueries():
        once, asked = attend(equal, key, value, scale=0.3), attend(different, key, value)
        masked = attend(equal, key, value, attn_mask=mask)
    assert once.stride(-2) == 0
    assert torch.allclose(once, attend(equal, key, value, scale=0.3), atol=1e-6)
    assert torch.equal(asked, attend(different, key, value))
    assert torch.equal(masked, attend(equal, key, value, attn_mask=mask))


class Mean(nn.Module):
    """Positions with a residual; the head reads their mean, or the first one only."""

    def __init__(self, first):
        super().__init__()
        self.first, self.inner, self.head = first, nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, x):
        x = x + self.inner(x)
        return self.head(x[:, 0] if self.first else x.mean(1))


def test_where_all_positions_are_read_there_is_none():
    pictures = torch.randn(6, 5, 4, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    for first in (True, False):
        network = Mean(first)
        assert bool(Tail.of(network, network, pictures).modules) is first
    nn.init.zeros_(network.inner.weight)  # adds nothing now, and will in training
    nn.init.zeros_(network.inner.bias)
    assert not Tail.of(network, network, pictures).modules
    noisy = nn.Sequential(Mean(True), nn.Dropout(0.5))
    assert not Tail.of(noisy, noisy, pictures).modules
