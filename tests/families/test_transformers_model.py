"""A language model asked for the end of texts, with a beginning read before, says what it says of whole texts."""

from __future__ import annotations

import pytest
import torch

from erase_plugins.families import transformers_model
from erase_plugins.workflow.models import target_of
from tests.training.test_language import other


@pytest.fixture(params=["llama", "gpt2", "phi3"])
def model(request, tmp_path):
    import erase_plugins as ep

    return target_of(ep.load(str(other(request.param, tmp_path / request.param)))).language


IDS = torch.tensor([[1, 5, 9, 12, 7, 3, 4, 8], [1, 5, 9, 11, 6, 2, 0, 0], [1, 5, 9, 12, 8, 9, 10, 0]])
MASK = (IDS > 0).long()


@pytest.fixture
def read(monkeypatch):
    """How many tokens went through the model, and in how many rows, every time."""
    found, given = [], transformers_model.HostedCausalLM.network

    def network(self, component):
        module = given(self, component)

        def asked(*_args, **more):
            found.append(tuple(more["input_ids"].shape))
            return type(module).__call__(module, **more)

        asked.forward, asked.config = module.forward, module.config
        return asked

    monkeypatch.setattr(transformers_model.HostedCausalLM, "network", network)
    return found


def test_the_end_of_texts_with_a_common_beginning(model, read, monkeypatch):
    monkeypatch.setattr(transformers_model, "_WORTH", 1)
    whole = model.logits(IDS, MASK)
    with torch.no_grad():
        for first, common in ((4, 3), (2, 2), (7, 3)):
            read.clear()
            found = model.logits(IDS, MASK, first)
            assert read == [(1, common), (3, 8 - common)]
            assert found.shape == whole[:, first:].shape
            there = MASK[:, first:] > 0
            torch.testing.assert_close(found[there], whole[:, first:][there], rtol=1e-5, atol=1e-5)
    found = model.logits(IDS, MASK, 4)  # with gradients nothing is read apart
    assert found.requires_grad
    torch.testing.assert_close(found[MASK[:, 4:] > 0], whole[:, 4:][MASK[:, 4:] > 0], rtol=1e-5, atol=1e-5)


def test_a_beginning_of_each_row_is_read_once(model):
    begun = model.begin(IDS[:, :4])
    whole = model.logits(IDS, MASK)
    for rows in ([0, 1, 2], [2, 0]):
        found = model.logits(IDS[rows], MASK[rows], 5, begun.of(torch.tensor(rows)))
        there = MASK[rows][:, 5:] > 0
        torch.testing.assert_close(found[there], whole[rows][:, 5:][there], rtol=1e-5, atol=1e-5)


def test_texts_go_on_behind_a_common_beginning_as_alone(model, read, monkeypatch):
    monkeypatch.setattr(transformers_model, "_WORTH", 1)
    fronts = IDS[:, :5]
    found = model.sample(fronts, 3, None)
    assert read[:2] == [(1, 3), (3, 2)]
    assert torch.equal(found, torch.cat([model.generate(row[None], 3) for row in fronts]))


def test_what_is_at_its_end_is_read_no_further(model, read):
    fronts = IDS[:, :5]
    whole = model.sample(fronts, 6, None)
    end = int(whole[0, 6])  # the second token that the first row says
    read.clear()
    found = model.sample(fronts, 6, None, end)
    for row, wanted in zip(found, whole, strict=True):
        ends = (wanted[5:] == end).nonzero()[:, 0]
        stop = 6 + int(ends[0]) if len(ends) else len(wanted)
        assert torch.equal(row[:stop], wanted[:stop])
        assert (row[stop:] == end).all()
    assert read[-1][0] < len(fronts)


def test_padding_on_the_left_shifts_no_place_and_what_was_read_is_not_read_again(model, read):
    fronts = [IDS[0, :5], IDS[1, :2], IDS[2, :7]]
    alone = [model.generate(front[None], 4)[0, len(front) :] for front in fronts]
    ids, mask = (
        torch.stack([torch.cat([torch.zeros(7 - len(front), dtype=torch.long), part]) for front, part in pairs])
        for pairs in (
            [(front, front) for front in fronts], [(front, torch.ones_like(front)) for front in fronts],
        )
    )  # fmt: skip
    read.clear()
    assert torch.equal(model.generate(ids, 4, mask)[:, 7:], torch.stack(alone))
    assert read == [(3, 7), (3, 1), (3, 1), (3, 1)]
