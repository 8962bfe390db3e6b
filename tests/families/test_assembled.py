"""A model folder whose files are in part those of another one."""

from __future__ import annotations

import json

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from erase_plugins.errors import RequestError
from erase_plugins.families.assembled import assembled


@pytest.fixture
def embedded(tmp_path):
    """A folder "flow" beside a folder "model" that it takes two files from."""
    (tmp_path / "model").mkdir()
    save_file({"a": np.ones(2, np.float16), "b": np.ones(4, np.float16)}, tmp_path / "model" / "text.safetensors")
    (tmp_path / "model" / "vae.bin").write_bytes(b"picture")
    flow = tmp_path / "flow"
    flow.mkdir()
    save_file({"x.b": np.zeros(3, np.float16)}, flow / "own.safetensors")
    (flow / "config.json").write_text("{}")
    parts = {
        "text/model.safetensors": {"../model/text.safetensors": "x.", "own.safetensors": ""},
        "vae/weights.bin": {"../model/vae.bin": ""},
    }
    (flow / "parts.json").write_text(json.dumps(parts))
    return flow


def test_the_whole_has_own_shared_and_merged_files(embedded, tmp_path):
    whole = assembled(embedded, tmp_path / "cache")
    names = {path.relative_to(whole).as_posix() for path in whole.rglob("*") if path.is_file()}
    assert names == {".erase-plugins", "config.json", "text/model.safetensors", "vae/weights.bin"}
    assert (whole / "vae" / "weights.bin").read_bytes() == b"picture"
    tensors = load_file(whole / "text" / "model.safetensors")
    assert {name: value.tolist() for name, value in tensors.items()} == {"x.a": [1, 1], "x.b": [0, 0, 0]}


def test_it_is_made_once_and_anew_when_a_file_changes(embedded, tmp_path):
    first = assembled(embedded, tmp_path / "cache")
    stamp = (first / "text" / "model.safetensors").stat().st_mtime_ns
    assert assembled(embedded, tmp_path / "cache") == first
    assert (first / "text" / "model.safetensors").stat().st_mtime_ns == stamp
    (tmp_path / "model" / "vae.bin").unlink()
    (tmp_path / "model" / "vae.bin").write_bytes(b"another")
    second = assembled(embedded, tmp_path / "cache")
    assert second != first
    assert (second / "vae" / "weights.bin").read_bytes() == b"another"
    assert (first / "vae" / "weights.bin").read_bytes() == b"picture"


def test_a_cache_that_is_no_folder_is_told_in_one_line(embedded, tmp_path):
    (tmp_path / "cache").write_text("")
    with pytest.raises(RequestError, match=r"^the embedded model 'flow' cannot be put together .*XDG_CACHE_HOME$"):
        assembled(embedded, tmp_path / "cache")
