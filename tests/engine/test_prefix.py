"""What comes before the first module in training is computed once, and scores and gradients stay as they are."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from erase_plugins.engine.prefix import Prefix
from tests.classifiers import run_of


@pytest.mark.parametrize("block", [0, 2])
def test_scores_and_gradients_are_those_of_the_whole_network(host, pictures, block):
    trained = [host.vit.layers[number].mlp.fc1 for number in range(block, 3)]
    made, run = Prefix.of(host, set(trained), run_of(host), pictures), run_of(host)
    rows, weight = torch.tensor([7, 3, 19]), trained[0].weight
    with made.at(rows) as blank:
        found = run(blank)
        grad = torch.autograd.grad(found.square().sum(), weight)[0]
    wanted = run(pictures[rows])
    assert torch.allclose(found, wanted, atol=1e-6)
    assert torch.allclose(grad, torch.autograd.grad(wanted.square().sum(), weight)[0], atol=1e-5)
    assert torch.equal(run(pictures[rows]), wanted)  # nothing is left behind


def test_what_comes_before_is_not_called_again_and_dead_outputs_are_not_kept(host, pictures):
    made, calls = Prefix.of(host, {host.vit.layers[2].mlp.fc1}, run_of(host), pictures), []
    hook = host.vit.embeddings.patch_embeddings.register_forward_hook(lambda *_: calls.append(1))
    with made.at(torch.arange(4)) as blank:
        run_of(host)(blank)
    hook.remove()
    assert not calls
    sizes = {module: len(part) for module, part in made.kept.items()}
    assert sizes[host.vit.layers[0]] == 1  # only the next block reads it, and that is kept
    assert sizes[host.vit.layers[1]] == len(pictures)


def test_where_it_cannot_be(host, pictures):
    run = run_of(host)
    assert Prefix.of(host, {host.vit.layers[0].mlp.fc1}, run, pictures, limit=100) is None
    assert Prefix.of(host, {nn.Linear(2, 2)}, run, pictures) is None

    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 2)

        def forward(self, x):
            return self.b(self.a(self.a(x)))

    twice = Twice()
    assert Prefix.of(twice, {twice.b}, twice, torch.randn(6, 4)) is None
    noisy = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2), nn.Dropout(0.5))
    assert Prefix.of(noisy, {noisy[1]}, noisy, torch.randn(6, 4)) is None
