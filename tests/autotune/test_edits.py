"""Edits of the best trials outlive the process, as they were."""

from __future__ import annotations

import pytest

import erase_plugins as ep
from erase_plugins.artifacts.difference import difference
from erase_plugins.autotune.edits import Edits
from erase_plugins.errors import Unsupported


@pytest.fixture(scope="module")
def made():
    from erase_plugins.testing.tiny import tiny_sd1

    return ep.erase(tiny_sd1(), "pizza", options={"vocabulary": 20})


@pytest.mark.parametrize("kept", [True, False])
def test_the_three_nearest_stay(made, tmp_path, kept):
    place = tmp_path / "edits" if kept else None
    edits = Edits(place)
    for name, distance in (("a", 0.5), ("b", 0.25), ("c", 1e-12), ("d", 0.375)):
        edits.keep(name, distance, made)
    edits.keep("d", 0.125, made)
    if kept:
        (place / "half-written.tmp").mkdir()
        edits = Edits(place)
    assert [name in edits for name in "abcd"] == [False, True, True, True]
    edits.keep("e", 0.2, made)
    assert [name in edits for name in "abcde"] == [False, False, True, True, True]
    found = edits.get("d")
    assert not difference(found.edit, made.edit)
    assert bool(found.edit.statistics) == bool(made.edit.statistics)
    assert (found.manifest.to_dict(), edits.get("a")) == (made.manifest.to_dict(), None)


def test_one_that_was_damaged_is_made_again(made, tmp_path):
    edits = Edits(tmp_path)
    edits.keep("a", 0.5, made)
    (file,) = tmp_path.glob("*/*.safetensors")
    file.write_bytes(b"x")
    again = Edits(tmp_path)
    assert "a" in again
    assert again.get("a") is None
    assert "a" not in again


@pytest.mark.parametrize(
    ("error", "why"),
    [(Unsupported("a patch file carries no curve; use another"), "carries no curve"), (OSError(28, "No space left on device", "/home/me/x"), "No space left")],
)  # fmt: skip
def test_an_edit_that_cannot_be_written_is_at_hand_and_said_to_be_in_memory_only(
    made, tmp_path, monkeypatch, error, why
):
    def refused(*_):
        raise error

    monkeypatch.setattr("erase_plugins.autotune.edits.write_folder", refused)
    edits = Edits(tmp_path)
    with pytest.warns(UserWarning, match="in memory only") as told:
        edits.keep("a", 0.5, made)
    assert why in str(told[0].message)
    assert "/home" not in str(told[0].message)
    assert edits.get("a") is made
    assert Edits(tmp_path).get("a") is None
