"""Table and picture of a search."""

from __future__ import annotations

import pytest

from erase_plugins.autotune.front import markdown, picture
from erase_plugins.autotune.space import Settings
from erase_plugins.autotune.trials import Row


def row(number, method, left, change):
    return Row(number, method, Settings(method), left, change, 2000.0, 1.0, {"name": left / 2})


BEST, BEATEN, BROKEN = row(1, "oce", 0.0025, 0.0), row(0, "uce", 0.125, 0.25), row(2, "adavd", 0.5, 4.0)


def test_the_table_has_the_front_and_what_it_beats():
    text = markdown("'pizza' erased", [BEATEN, BEST, BROKEN], [BEST], BEST, {"name": 0.96}, "size", "3 trials.")
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    assert lines[1:3] == [
        "| - | base model | 100 % | 96 % | 0.000 | - |", "| 1 (taken) | oce | 0.2 % | 0.1 % | 0.000 | 2 kB |"
    ]  # fmt: skip
    assert lines[4:] == [
        "| 0 | uce | 12.5 % | 6.2 % | 0.250 | 2 kB |", "| 2 | adavd | 50 % | 25 % | 4.000 | 2 kB |"
    ]  # fmt: skip
    assert "No better than one" not in markdown("", [BEST], [BEST], BEST, {"name": 0.96}, "size", "")


def test_the_picture_shows_what_is_beaten_and_what_is_broken_too(tmp_path):
    pytest.importorskip("matplotlib")
    from PIL import Image

    file = picture("'pizza' erased", [BEATEN, BEST, BROKEN], [BEST], BEST, tmp_path / "front.png")
    shown = Image.open(file).convert("RGB")
    plot = shown.crop((0, 0, int(0.86 * shown.width), shown.height))  # without the legend
    colours = [colour for count, colour in plot.getcolors(1 << 20) for _ in range(count)]
    assert sum(b > r + 60 and b > g + 30 for r, g, b in colours) > 20, "uce in blue"
    assert sum(r > b + 80 for r, g, b in colours) > 20, "oce in orange"
    assert sum(g > r + 40 and g > b + 40 for r, g, b in colours) > 20, "adavd in green"
