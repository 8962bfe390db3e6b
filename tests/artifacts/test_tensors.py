"""Reading and writing of safetensors files, and the check of values."""

from __future__ import annotations

import json
import os
import struct

import pytest
import torch

from erase_plugins.artifacts.tensors import TensorFile, all_finite, header_bytes, read_tensors, write_tensors
from erase_plugins.errors import CorruptArtifact

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("bad", [(float("nan"),), (float("inf"),), (float("-inf"),), (float("inf"), float("-inf"))])
def test_one_bad_value_anywhere_is_seen(dtype, bad):
    generator = torch.Generator().manual_seed(0)
    for size in (3, 7, 64, 1000, 70_001):
        values = torch.randn(size, generator=generator).to(dtype)
        assert all_finite(values)
        for start in {0, size // 2, size - len(bad)}:
            broken = values.clone()
            broken[start : start + len(bad)] = torch.tensor(bad, dtype=dtype)
            assert not all_finite(broken), (size, start)


@pytest.mark.parametrize("dtype", FLOATS)
def test_finite_values_whose_sum_is_not_finite_are_finite(dtype):
    values = torch.full((1000,), torch.finfo(dtype).max, dtype=dtype)
    assert not values.sum().isfinite()
    assert all_finite(values)
    assert all_finite(-values)
    values[500] = float("nan")
    assert not all_finite(values)


def test_nothing_is_finite():
    assert all_finite(torch.empty(0, 3))


@pytest.mark.parametrize("rows", [3, 3000])
def test_tensors_do_not_depend_on_the_file_once_read(tmp_path, rows):
    """Below and above the size from which large pages are asked for."""
    place = tmp_path / "x.safetensors"
    generator = torch.Generator().manual_seed(0)
    wanted = {
        "a": torch.randn(rows, 500, generator=generator),
        "b": torch.randn(7, generator=generator).half(),
        "c": torch.arange(5),
        "none": torch.empty(0, 4),
    }
    write_tensors(place, wanted, {"format": "pt"})
    found, header = read_tensors(place)
    place.write_bytes(b"\0" * place.stat().st_size)
    assert header == {"format": "pt"}
    assert set(found) == set(wanted)
    for name, tensor in wanted.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor), name
    found["a"].zero_()
    assert torch.equal(found["b"], wanted["b"])


def test_tensors_that_are_not_aligned_are_read(tmp_path):
    """Other programs write tensors in any order, so that a number may start at an odd byte."""
    place, numbers = tmp_path / "x.safetensors", torch.tensor([1.5, -2.25])
    header = {
        "first": {"dtype": "U8", "shape": [3], "data_offsets": [0, 3]},
        "second": {"dtype": "F32", "shape": [2], "data_offsets": [3, 11]},
    }
    text = json.dumps(header).encode()
    place.write_bytes(struct.pack("<Q", len(text)) + text + b"\1\2\3" + numbers.numpy().tobytes())
    found, _ = read_tensors(place)
    assert found["first"].tolist() == [1, 2, 3]
    assert torch.equal(found["second"], numbers)
    assert torch.equal(TensorFile(place).get("second"), numbers)


def test_a_file_that_became_shorter_is_refused(tmp_path):
    place = tmp_path / "x.safetensors"
    write_tensors(place, {"a": torch.ones(100)}, {})
    file = TensorFile(place)
    place.write_bytes(place.read_bytes()[:-4])
    with pytest.raises(CorruptArtifact, match="changed while it was read"):
        file.get("a")


@pytest.mark.parametrize("way", ["whole", "part", "short", "cannot", "absent"])
def test_a_range_is_copied_however_far_the_system_gets(tmp_path, monkeypatch, way):
    """Whatever it does of the work, the bytes and the place after them are right."""
    source, copied = tmp_path / "x.safetensors", tmp_path / "copied"
    write_tensors(source, {"a": torch.randint(0, 255, (700_001,), dtype=torch.uint8)}, {})
    file, real, calls = TensorFile(source), getattr(os, "copy_file_range", None), []

    def copy(one, other, count):
        calls.append(count)
        if way == "cannot" or (way == "part" and len(calls) > 2):
            raise OSError(18, "not between these disks")
        return real(one, other, min(count, 100) if way == "short" else count)

    if way == "absent" or real is None:
        monkeypatch.delattr(os, "copy_file_range", raising=False)
    else:
        monkeypatch.setattr(os, "copy_file_range", copy)
    with copied.open("wb", buffering=0) as goal:
        goal.write(b"before")
        file.copy_to(goal, 1000, 600_001)
        file.copy_to(goal, 5, 12)
        goal.write(b"after")
    assert copied.read_bytes() == b"before" + bytes(file.read(1000, 600_001)) + bytes(file.read(5, 12)) + b"after"


@pytest.mark.parametrize("start", [8, 88, 4096, 70_000])
def test_data_of_a_copy_starts_at_the_same_place_of_a_page(start):
    """The system copies whole pages then; padding is spaces, which every reader of the format takes."""
    made = header_bytes({"a": {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]}}, like=start)
    assert len(made) % 4096 == start % 4096
    assert struct.unpack("<Q", made[:8])[0] == len(made) - 8
    assert json.loads(made[8:]) == {"a": {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]}}
