"""Kept tensors come back whole or not at all, whatever happens to the files."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

from erase_plugins.engine import disk_cache

TENSORS = {"a": torch.arange(6, dtype=torch.float64).view(2, 3), "b": torch.tensor([1, 2**60])}
LIKE = {name: (tuple(value.shape), value.dtype) for name, value in TENSORS.items()}


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.setenv(disk_cache.VARIABLE, str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_what_was_written_is_read_to_the_last_bit(place):
    assert disk_cache.read("key", LIKE) is None
    disk_cache.write("key", TENSORS)
    found = disk_cache.read("key", LIKE)
    assert found.keys() == TENSORS.keys()
    assert all(torch.equal(found[name], TENSORS[name]) for name in TENSORS)
    assert [file.name for file in place.iterdir()] == ["key.safetensors"]


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "text"])
def test_a_damaged_file_is_as_good_as_none_and_is_written_anew(place, damage):
    disk_cache.write("key", TENSORS)
    file = place / "key.safetensors"
    whole = file.read_bytes()
    flipped = whole[:-12] + bytes([whole[-12] ^ 1]) + whole[-11:]
    file.write_bytes({"cut": whole[:-5], "flipped": flipped, "empty": b"", "text": b"not tensors"}[damage])
    assert disk_cache.read("key", LIKE) is None
    disk_cache.write("key", TENSORS)
    assert file.read_bytes() == whole


@pytest.mark.parametrize(
    "other",
    [{"a": LIKE["a"]}, {**LIKE, "a": ((3, 2), torch.float64)}, {**LIKE, "a": ((2, 3), torch.float32)}],
    ids=["names", "shapes", "types"],
)
def test_other_contents_than_expected_are_not_taken(place, other):
    disk_cache.write("key", TENSORS)
    assert disk_cache.read("key", other) is None


def test_what_is_not_finite_is_not_kept(place):
    disk_cache.write("key", {"a": torch.tensor([1.0, float("nan")])})
    assert not place.exists()


def test_it_can_be_switched_off_and_cannot_be_in_the_way(place, monkeypatch):
    place.write_text("a file where the folder should be")
    disk_cache.write("key", TENSORS)
    assert disk_cache.read("key", LIKE) is None
    monkeypatch.setenv(disk_cache.VARIABLE, "0")
    assert disk_cache.folder() is None
    disk_cache.write("key", TENSORS)
    assert disk_cache.read("key", LIKE) is None


def test_without_the_variable_it_lies_in_the_users_cache(monkeypatch):
    from platformdirs import user_cache_path

    monkeypatch.delenv(disk_cache.VARIABLE)
    assert disk_cache.folder() == user_cache_path("erase-plugins") / "tensors"


@pytest.mark.parametrize("named", [False, True])
def test_without_platformdirs_too(monkeypatch, tmp_path, named):
    monkeypatch.delenv(disk_cache.VARIABLE)
    monkeypatch.setitem(sys.modules, "platformdirs", None)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "named") if named else "")
    assert disk_cache.folder() == tmp_path / ("named" if named else ".cache") / "erase-plugins" / "tensors"


def test_the_entry_used_longest_ago_goes_first(place, monkeypatch):
    for number, key in enumerate(("old", "older", "new")):
        disk_cache.write(key, TENSORS)
        os.utime(place / f"{key}.safetensors", (number, number))
    os.utime(place / "older.safetensors", (0, 0))
    assert disk_cache.read("old", LIKE) is not None  # used just now
    size = (place / "old.safetensors").stat().st_size
    monkeypatch.setattr(disk_cache, "MOST_BYTES", 3 * size)
    disk_cache.write("newest", TENSORS)
    assert {file.stem for file in place.iterdir()} == {"old", "new", "newest"}


def test_half_written_files_of_killed_processes_are_cleared_away(place):
    place.mkdir()
    for name, age in (("dead.part", 1), ("at_work.part", 4e9)):
        (place / name).write_bytes(b"x")
        os.utime(place / name, (age, age))
    disk_cache.write("key", TENSORS)
    assert sorted(file.name for file in place.iterdir()) == ["at_work.part", "key.safetensors"]


def test_two_processes_never_see_half_a_file(place, preloaded):
    script = (
        "import torch; from erase_plugins.engine import disk_cache\n"
        "own = {'a': torch.ones(300, 300)}; like = {'a': ((300, 300), torch.float32)}\n"
        "disk_cache.write('key', own)\n"
        "for _ in range(200):\n"
        "    disk_cache.write('key', own)\n"
        "    found = disk_cache.read('key', like)\n"
        "    assert found is not None and torch.equal(found['a'], own['a'])\n"
    )
    runs = [subprocess.Popen([*preloaded, "-c", script], stderr=subprocess.PIPE, text=True) for _ in range(2)]
    for run in runs:
        _, said = run.communicate(timeout=120)
        assert run.returncode == 0, said
