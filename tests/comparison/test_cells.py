"""A cell: its name, its result on disk, and one real run."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
from PIL import Image

from erase_plugins.artifacts.manifest import ArtifactFile
from erase_plugins.comparison.cells import (
    PICTURES,
    RESULT,
    Cell,
    finished,
    peak_memory,
    read_result,
    run_cell,
    smallest,
    write_result,
)
from erase_plugins.evaluation import run as measuring
from erase_plugins.evaluation.draw import draw
from erase_plugins.evaluation.prompts import quick_prompts
from erase_plugins.pocket.judge import PocketJudge


def test_keys_differ_for_every_difference():
    cell = Cell("uce", "pizza", {"aliases": "true"})
    assert cell.label == "uce:aliases=true"
    assert cell.key.startswith("pizza-uce_aliases_true-")
    others = [replace(cell, seed=1), replace(cell, images=8), replace(cell, options={}), replace(cell, keep=("dog",))]
    assert len({cell.key, *(other.key for other in others)}) == 5
    assert Cell.from_dict(json.loads(json.dumps(cell.to_dict()))).key == cell.key


def test_failed_and_damaged_results_are_not_finished(tmp_path):
    assert not finished(tmp_path)
    write_result(tmp_path, {"status": "failed"})
    assert not finished(tmp_path)
    write_result(tmp_path, {"status": "ok"})
    assert finished(tmp_path)
    (tmp_path / RESULT).write_text("{")
    assert read_result(tmp_path) is None


def test_peak_memory_sees_what_was_freed_again():
    with peak_memory(every=0.001) as quiet:
        pass
    with peak_memory(every=0.001) as found:
        block = np.ones(600_000_000 // 8)  # far more than what a long process gives back meanwhile
        block.sum()
        import time

        time.sleep(0.05)
        del block
    assert found["peak_mb"] >= quiet["peak_mb"] + 100


def test_a_real_cell(pocket_pipe, tmp_path, monkeypatch):
    monkeypatch.setattr(measuring, "draw", lambda *given, **named: draw(*given, **{**named, "steps": 4}))
    before = {name: part.clone() for name, part in pocket_pipe.unet.state_dict().items()}
    found = run_cell(Cell("uce", "pizza", {"vocabulary": "50"}, images=4), pocket_pipe, tmp_path / "cell")
    assert found["rates"]["target_rate"]["base"][0] == 1.0
    assert found["rates"]["target_rate"]["edited"][0] == 0.0
    assert found["bytes"] > 0 < found["peak_mb"]
    assert json.loads(json.dumps(found))["rates"] == found["rates"]
    assert {path.name for path in (tmp_path / "cell").iterdir()} == {"artifact", "report", PICTURES}
    assert all(bool((part == before[name]).all()) for name, part in pocket_pipe.unet.state_dict().items())
    # the pictures shown are measured ones: the base's first target and neighbour, and what the edit made of them
    with Image.open(tmp_path / "cell" / PICTURES) as strip:
        parts = np.split(np.asarray(strip), 4, axis=1)
    sets = quick_prompts(PocketJudge(), ["pizza"], 4, 0)
    asked = [sets["target"][0], sets["neighbour"][0]]
    drawn = draw(pocket_pipe, [item.text for item in asked], [item.seed for item in asked], steps=4)
    for part, picture in zip(parts[::2], drawn, strict=True):
        assert np.abs(part / 255 - picture.permute(1, 2, 0).numpy()).max() < 0.01
    assert np.abs(parts[0].astype(int) - parts[1]).mean() > 5


def test_the_smallest_file_is_a_layout_with_all_that_belongs_to_it():
    files = [("w.safetensors", "peft", 300), ("adapter_config.json", "peft", 10), ("edit.safetensors", "patch", 305)]
    assert smallest(ArtifactFile(name, layout, "0" * 64, size) for name, layout, size in files) == 305
    assert smallest([]) == 0
