"""Pictures that were kept come back as they were written, whatever order the file has them in."""

from __future__ import annotations

import torch

from erase_plugins.engine import disk_cache
from erase_plugins.evaluation import kept_pictures


def test_sets_come_back_in_their_order(tmp_path, monkeypatch):
    monkeypatch.setenv(disk_cache.VARIABLE, str(tmp_path))
    names = ["target", "synonym", "neighbour", "kept"]  # of a contact sheet's rows
    pictures = {name: torch.full((place, 3, 2, 2), 0.25 * place) for place, name in enumerate(names)}
    labels = {name: [{"concept": "dog"}] * place for place, name in enumerate(names)}
    kept_pictures.write("drawn-x", pictures, labels)
    found, told = kept_pictures.read("drawn-x")
    assert (list(found), told) == (names, labels)
    assert all(torch.equal(found[name], pictures[name]) for name in names)
