"""Rows around a concept and their partners."""

from __future__ import annotations

import pytest
import torch

from erase_plugins.engine.context_rows import context_rows, gram_factor, pair_places
from erase_plugins.workflow.models import target_of


@pytest.fixture
def target(tiny_sd1):
    return target_of(tiny_sd1(), "tiny")


def test_few_rows_stand_for_many():
    rows = torch.randn(40, 3, generator=torch.Generator().manual_seed(0)) @ torch.randn(3, 8)
    few = gram_factor(rows)
    assert few.shape == (3, 8)
    torch.testing.assert_close(few.T @ few, rows.T @ rows, rtol=1e-4, atol=1e-3)


def test_context_rows_keep_their_partners_and_leave_the_concept_out():
    # <start> a photo of a van gogh house <end> pads, against <start> a photo of a painting house <end> pads
    mine, theirs = pair_places([5, 6], last=7, other_last=6, tokens=12)
    assert mine == [1, 2, 3, 4, 7, 8, 9, 10, 11]
    assert theirs == [1, 2, 3, 4, 6, 7, 8, 9, 10]
    # a shorter concept than its guide: as many as both have
    mine, theirs = pair_places([2], last=2, other_last=4, tokens=8)
    assert (mine, theirs) == ([1, 3, 4, 5], [1, 5, 6, 7])


def test_rows_before_the_concept_are_those_of_the_guide_already(target):
    """Causal text encoder: the words before see nothing of it."""
    rows, guides = context_rows(["pizza"], "rocket", ["a picture {} here"], target)
    torch.testing.assert_close(rows[:2], guides[:2], rtol=1e-5, atol=1e-5)
    assert (rows[2:] - guides[2:]).abs().max() > 1e-3
    assert len(rows) == target.info.tokens - 2  # without the start row and the concept's
    blank, becomes = context_rows(["pizza"], " ", ["a picture {} here"], target)
    plain = target.encode(["a picture here"]).embeds[0]
    torch.testing.assert_close(becomes, plain[1 : 1 + len(becomes)].float())
    assert len(blank) == len(rows)
