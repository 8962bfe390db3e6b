"""Which states are led astray and where, by hand."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from erase_plugins.errors import RequestError
from erase_plugins.families.texts import IGNORED, Texts
from erase_plugins.methods.rmu import RMU


def test_the_first_token_never_counts_and_padding_neither():
    labels = torch.tensor([[IGNORED, IGNORED, 7, 2], [IGNORED, 5, 2, IGNORED]])
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0]])
    texts = Texts(torch.ones(2, 4, dtype=torch.long), labels, mask)
    counted = {name: RMU().counted(texts, SimpleNamespace(tokens=name)).tolist() for name in ("text", "answer")}
    assert counted["text"] == [[0, 1, 1, 1], [0, 1, 1, 0]]
    assert counted["answer"] == [[0, 0, 1, 1], [0, 1, 1, 0]]


@pytest.mark.parametrize(("layer", "blocks"), [(-1, [1, 2, 3]), (5, [3, 4, 5]), (1, [0, 1]), (11, [9, 10, 11])])
def test_the_block_at_a_quarter_of_the_depth_and_the_two_before_it(layer, blocks):
    info = SimpleNamespace(model="twelve", modules=lambda name: list(range(12)) if name == "mlp_out" else [])
    assert RMU().modules(info, SimpleNamespace(layer=layer)) == blocks


def test_a_block_that_is_not_there_is_refused():
    info = SimpleNamespace(model="twelve", modules=lambda name: list(range(12)))
    with pytest.raises(RequestError, match="twelve has blocks 0 to 11, no 12"):
        RMU().modules(info, SimpleNamespace(layer=12))
