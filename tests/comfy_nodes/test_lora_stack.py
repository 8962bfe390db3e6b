"""LORA_STACK of other packs is read as they write it."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from comfy_nodes import host, lora_stack
from erase_plugins.errors import ArtifactError, BaseMismatch, RequestError


@pytest.fixture
def loras(monkeypatch):
    monkeypatch.setattr(host, "lora_names", lambda: ["style.safetensors", "x/other.safetensors"])
    monkeypatch.setattr(host, "lora_path", lambda name: Path(name) if name in host.lora_names() else None)


@pytest.mark.parametrize("listed", ["x/other.safetensors", "x\\other.safetensors"])
def test_a_file_is_found_by_the_name_that_it_has_on_the_other_kind_of_computer(monkeypatch, tmp_path, listed):
    place = SimpleNamespace(
        get_filename_list=lambda kind: [listed, "old.ckpt"], get_full_path=lambda kind, name: tmp_path / name
    )
    monkeypatch.setitem(sys.modules, "folder_paths", place)
    for name in ("x/other.safetensors", "x\\other.safetensors"):
        assert host.lora_path(name) == tmp_path / listed
    assert host.lora_path("old.ckpt") is None
    assert host.lora_path("gone.safetensors") is None


def test_rows_are_read_and_none_is_left_out():
    assert lora_stack.read_stack([("a", 1, 0.5), ["None", 1.0, 1.0]]) == (("a", 1.0, 0.5),)
    assert lora_stack.read_stack(None) == ()
    with pytest.raises(RequestError, match="each entry must be"):
        lora_stack.read_stack(["a"])


def test_a_missing_file_is_named_with_the_nearest(loras):
    with pytest.raises(ArtifactError, match=r"no LoRA 'stile\.safetensors'.* nearest is 'style\.safetensors'"):
        lora_stack.put_on(None, None, [("stile.safetensors", 1.0, 1.0)])


def test_a_file_that_fits_nothing_is_refused_and_0_is_not_loaded(loras, monkeypatch):
    monkeypatch.setattr(lora_stack, "_load", lambda model, clip, *_: (model, clip, 0))
    with pytest.raises(BaseMismatch, match="fits nothing of this model"):
        lora_stack.put_on("m", None, [("style.safetensors", 1.0, 1.0)])
    assert lora_stack.put_on("m", None, [("style.safetensors", 0.0, 1.0)]) == (
        "m",
        None,
        ["LoRA style.safetensors: off"],
    )


def test_the_file_of_an_artifact_is_found_by_name_and_content(monkeypatch, tmp_path):
    file = tmp_path / "style.safetensors"
    file.write_bytes(b"x")
    monkeypatch.setattr(host, "lora_names", lambda: ["style.safetensors"])
    monkeypatch.setattr(host, "lora_path", lambda name: file)

    def artifact(path, *files):
        listed = tuple(SimpleNamespace(name=name, layout=layout, sha256=value) for name, layout, value in files)
        return SimpleNamespace(path=path, manifest=SimpleNamespace(files=listed))

    right = hashlib.sha256(b"x").hexdigest()
    assert lora_stack.kohya_file(artifact(None, ("style.safetensors", "kohya", right))) == "style.safetensors"
    assert lora_stack.kohya_file(artifact(None, ("style.safetensors", "kohya", "0" * 64))) is None
    assert lora_stack.kohya_file(artifact(None, ("style.safetensors", "patch", right))) is None
    assert lora_stack.kohya_file(artifact(file)) == "style.safetensors"
    assert lora_stack.kohya_file(artifact(tmp_path / "other")) is None
