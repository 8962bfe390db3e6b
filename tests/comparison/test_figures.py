"""The Pareto front and the sheet of pictures."""

from __future__ import annotations

from PIL import Image

from erase_plugins.comparison.cells import PICTURES, Cell
from erase_plugins.comparison.figures import on_the_front, pareto, sheet
from erase_plugins.comparison.summary import summarise

from .fakes import result


def test_front_holds_what_nothing_beats():
    points = {"good": (0.0, 1.0), "kind": (5.0, 0.0), "worse": (5.0, 1.0), "same": (0.0, 1.0)}
    assert on_the_front(points) == ["good", "kind", "same"]


def test_figures_are_drawn(tmp_path):
    cells = [Cell(method, concept) for method in ("uce", "esd") for concept in ("pizza", "dog")]
    results = [{**result(cell, 0.25, 0.5), "key": cell.key} for cell in cells]
    places = {cell.key: tmp_path / cell.key for cell in cells}
    assert sheet(results, places, tmp_path / "none.png") is None
    for cell in cells[:3]:
        places[cell.key].mkdir()
        strip = Image.new("RGB", (64, 16))
        for index, colour in enumerate(("red", "green", "blue", "black")):
            strip.paste(colour, (16 * index, 0, 16 * index + 16, 16))
        strip.save(places[cell.key] / PICTURES)
    with Image.open(sheet(results, places, tmp_path / "sheet.png")) as image:
        pixels = image.convert("RGB")
        found = {colour: sum(pixel == colour for pixel in pixels.getdata()) // (60 * 60) for colour in
                 [(255, 0, 0), (0, 128, 0), (0, 0, 255), (0, 0, 0)]}  # fmt: skip
    assert found == {(255, 0, 0): 2, (0, 128, 0): 4, (0, 0, 255): 2, (0, 0, 0): 4}  # base: two concepts; three cells
    with Image.open(pareto(summarise(results), tmp_path / "pareto.png")) as image:
        assert image.width > 800
