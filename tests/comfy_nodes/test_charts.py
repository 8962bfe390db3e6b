"""Charts are pictures as ComfyUI hands them around; bars are as long as their values."""

from __future__ import annotations

import torch

from comfy_nodes.charts import BLUE, RED, WIDTH, Bar, bars, below, table


def width_of(picture, colour):
    """Pixels of a colour in its widest line."""
    wanted = torch.tensor([int(colour[place : place + 2], 16) for place in (1, 3, 5)]) / 255
    return int(((picture[0] - wanted).abs().max(-1).values < 1e-3).sum(1).max())


def test_bars_are_as_long_as_their_values():
    picture = bars("title", [Bar("a", 0.5, "50 %"), Bar("b", 1.7, "170 %", BLUE), Bar("c", -1, "-")])
    assert picture.shape[0] == 1
    assert (picture.shape[2], picture.shape[3]) == (WIDTH, 3)
    assert 0 <= float(picture.min()) <= float(picture.max()) <= 1
    full = width_of(picture, BLUE)
    assert abs(width_of(picture, RED) - full / 2) <= 1
    assert full < WIDTH


def test_tables_and_long_texts_fit():
    picture = table("t", ["metric", "base", "edited"], [["x" * 200, "1", "2"], ["y", "3", "4"]])
    assert below([picture, bars("", [])]).shape[1] > picture.shape[1]
    assert float(picture[0, :, -10:].min()) == 1.0
