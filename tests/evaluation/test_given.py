"""Pairs of pictures without their model."""

from __future__ import annotations

import pytest
import torch

from erase_plugins.errors import RequestError, Unsupported
from erase_plugins.evaluation.given import CHANGE, SEEN, SHARE, measure_pictures


class Judge:
    """Sees a pizza in bright pictures."""

    id, fingerprint, axes = "j", "f", {"concept": ("pizza", "dog")}

    def score(self, pictures):
        bright = pictures.mean((1, 2, 3))
        return {"concept": torch.stack([bright, 1 - bright], -1)}


def test_changes_are_means_over_pictures():
    base = torch.zeros(4, 3, 8, 8)
    erased = base.clone()
    erased[:2, :, :4] = 0.5
    report = measure_pictures(base, erased)
    assert (report.row(CHANGE, "edited").value, report.row(CHANGE, "edited").n) == (0.125, 4)
    assert report.row(SHARE, "edited").value == 0.25
    assert report.row(CHANGE, "edited").low < 0.125 < report.row(CHANGE, "edited").high
    assert {row.metric for row in report.rows} == {CHANGE, SHARE}


def test_a_judge_tells_what_is_still_there():
    base, erased = torch.ones(4, 3, 8, 8), torch.zeros(4, 3, 8, 8)
    erased[0] = 1
    report = measure_pictures(base, erased, ["pizza"], Judge())
    assert report.row(SEEN, "base").value == 1.0
    assert report.row(SEEN, "edited").value == 0.25
    with pytest.raises(Unsupported, match="does not know 'cat'"):
        measure_pictures(base, erased, ["cat"], Judge())


@pytest.mark.parametrize("other", [torch.zeros(3, 3, 8, 8), torch.zeros(4, 3, 8, 9)])
def test_pictures_that_are_no_pairs_are_refused(other):
    with pytest.raises(RequestError, match="4 base and"):
        measure_pictures(torch.zeros(4, 3, 8, 8), other)
    with pytest.raises(RequestError, match="0 base"):
        measure_pictures(other[:0], other[:0])
