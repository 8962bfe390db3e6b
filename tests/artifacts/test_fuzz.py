"""A seeded share of the fuzz run; ``python -m tests.artifacts.fuzz`` runs all of it."""

from __future__ import annotations

import erase_plugins as ep
from tests.artifacts.fuzz import build_corpus, run

CASES = 1500


def test_sound_material_loads(tmp_path):
    folders, files, _ = build_corpus(tmp_path / "sound")
    for folder in folders:
        assert len(ep.load_artifact(folder).edit) > 0
    assert len(files) >= 8


def test_damaged_artifacts_end_in_our_errors():
    counts, kinds, slowest = run(CASES, seed=1)
    assert counts["refused"] + counts["loaded"] == CASES
    assert counts["refused"] > CASES / 2
    assert counts["loaded"] > 20  # otherwise the damage never gets past the first check
    assert len(kinds) >= 15
    assert slowest < 5
