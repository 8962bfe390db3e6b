"""The comparison sheet: every pixel in its place."""

from __future__ import annotations

import pytest
import torch

from comfy_nodes import NODE_CLASS_MAPPINGS
from comfy_nodes.pictures import heat
from erase_plugins.errors import RequestError


def test_sheet_heat_and_report():
    base = torch.zeros(2, 4, 5, 3)
    erased = base.clone()
    erased[1, 2, 3] = 1.0
    result = NODE_CLASS_MAPPINGS["EraseCompare"]().execute(base=base, erased=erased, scale=2)
    sheet, maps, text = result["result"]
    assert sheet.shape == (1, 2 * 4 * 2, 3 * 5 * 2, 3)
    assert maps.shape == base.shape
    white = (sheet[0].sum(-1) == 3).nonzero()
    assert white.tolist() == [[y, x] for y in (12, 13) for x in (16, 17, 26, 27)]
    assert text.splitlines() == [
        "picture 1: mean change 0.0 %, 0 % of the pixels by more than a tenth",
        "picture 2: mean change 5.0 %, 5 % of the pixels by more than a tenth",
    ]


def test_colours_of_the_heat_map():
    assert heat(torch.tensor([0.0, 1 / 3, 2 / 3, 1.0])).round().tolist() == [[0, 0, 0], [1, 0, 0], [1, 1, 0], [1, 1, 1]]


def test_pictures_that_do_not_match_are_refused():
    with pytest.raises(RequestError, match="draw both with the same latent"):
        NODE_CLASS_MAPPINGS["EraseCompare"]().execute(
            base=torch.zeros(1, 4, 4, 3), erased=torch.zeros(2, 4, 4, 3), scale=1
        )
