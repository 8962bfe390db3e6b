"""doctor: always exits with 0, names every fault with a fix."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import subprocess
import sys
import tempfile
import time

import pytest

from erase_plugins import extras
from erase_plugins.cli import doctor
from erase_plugins.manager import get_manager
from erase_plugins.types import PluginProblem


def found(ran, check):
    return [item for item in ran.data["findings"] if item["check"] == check]


def test_all_layouts_are_read_back_and_by_diffusers(erase):
    ran = erase("doctor", "--json")
    assert ran.code == 0
    for name in ("diffusers", "kohya"):
        (line,) = found(ran, f"layout {name}")
        assert line["status"] == "ok"
        assert "diffusers loads 8 of 8 modules" in line["text"]
    assert found(ran, "layout patch")[0]["status"] == "ok"


def test_a_layout_that_loses_modules_is_named(erase, monkeypatch):
    monkeypatch.setattr(doctor, "_stock_load", lambda pipe, layout, path: 7)
    ran = erase("doctor", "--json")
    assert ran.code == 0
    assert not ran.data["healthy"]
    assert "7 of 8" in found(ran, "layout kohya")[0]["text"]
    assert found(ran, "layout kohya")[0]["fix"]


def test_missing_and_old_packages(erase, monkeypatch):
    monkeypatch.setattr(doctor, "installed", lambda name: {"peft": None, "torch": "2.1.0"}.get(name, "99.0"))
    monkeypatch.setattr(shutil, "which", lambda name: None)
    ran = erase("doctor", "--quick", "--json")
    (bound,) = (line for line in importlib.metadata.requires("erase-plugins") if line.startswith("peft"))
    assert found(ran, "peft")[0]["fix"] == f"pip install '{bound}'"
    assert found(ran, "torch")[0]["status"] == "warning"
    assert found(ran, "npm")[0]["status"] == "info"
    assert not [item for item in ran.data["findings"] if item["check"].startswith("layout")]


def test_plugin_problems_are_listed_with_a_fix(erase, monkeypatch):
    problem = PluginProblem(
        "my-eraser", "my-eraser", "0.1", "load", "unknown hook erase_metods, did you mean erase_methods"
    )
    monkeypatch.setattr(get_manager(), "problems", [problem])
    ran = erase("doctor", "--quick", "--json")
    assert ran.code == 0
    assert not ran.data["healthy"]
    line = next(item for item in found(ran, "plugins") if item["status"] == "problem")
    assert "my-eraser 0.1" in line["text"]
    assert "did you mean erase_methods" in line["text"]
    assert "my-eraser" in line["fix"]
    assert "1 findings need a look" in erase("doctor", "--quick").out
    listed = erase("list", "methods")
    assert "problem: my-eraser 0.1" in listed.out


def test_a_method_that_lacks_an_extra(erase, monkeypatch):
    monkeypatch.setattr(extras, "installed", lambda name: None)
    assert extras.missing_extras({"plots"}) == ["plots"]
    monkeypatch.setattr(extras, "installed", lambda name: "1.0")
    assert extras.missing_extras({"plots"}) == []


def test_a_check_that_dies_is_a_finding(erase, monkeypatch):
    def broken():
        raise RuntimeError("no such thing at /home/me/x")
        yield

    broken.__name__ = "_broken"
    monkeypatch.setattr(doctor, "_system", broken)
    ran = erase("doctor", "--quick", "--json")
    assert ran.code == 0
    assert found(ran, "broken")[0]["text"] == "RuntimeError: no such thing at x"


def test_an_installation_beside_comfyui_is_told_what_it_lacks(erase, monkeypatch):
    """After ``pip install --no-deps`` neither diffusers nor the table's own library is there; methods train without."""
    monkeypatch.setattr(doctor, "installed", lambda name: None if name in ("diffusers", "rich") else "99.0")
    monkeypatch.setattr(extras, "installed", lambda name: None if name == "diffusers" else "99.0")
    for name in ("rich", "rich.box", "rich.table", "rich.text"):
        monkeypatch.setitem(sys.modules, name, None)
    ran = erase("doctor", "--quick", "--json")
    assert found(ran, "esd") == []
    assert {"uce", "esd"} <= set(found(ran, "methods")[0]["text"].replace(",", "").split())
    shown = erase("doctor", "--quick")
    assert shown.code == 0
    assert "problem  diffusers  not installed  pip install 'diffusers>=" in shown.out


@pytest.mark.skipif(os.name == "nt", reason="the command is for a POSIX shell")
def test_killed_downloads_are_named_with_the_command_that_removes_them_alone(erase, tmp_path, monkeypatch):
    from huggingface_hub import constants

    cache = tmp_path / "a cache"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    assert found(erase("doctor", "--quick", "--json"), "downloads") == []
    blobs = cache / "models--me--no-pizza" / "blobs"
    blobs.mkdir(parents=True)
    for name, minutes in (("0a.1b2c3d4e.incomplete", 90), ("0b.incomplete", 5), ("0c", 90)):
        (blobs / name).write_bytes(b"x" * 1000)
        os.utime(blobs / name, (time.time() - 60 * minutes,) * 2)
    (line,) = found(erase("doctor", "--quick", "--json"), "downloads")
    assert (line["status"], line["text"][:12]) == ("info", "1 unfinished")
    subprocess.run(line["fix"], shell=True, check=True)
    assert sorted(item.name for item in blobs.iterdir()) == ["0b.incomplete", "0c"]


@pytest.mark.skipif(os.name == "nt", reason="the command is for a POSIX shell")
def test_what_killed_programs_left_is_named_with_the_command_that_removes_it_alone(erase, tmp_path, monkeypatch):
    place = tmp_path / "a folder"
    place.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(place))
    assert found(erase("doctor", "--quick", "--json"), "leftovers") == []
    old = time.time() - 3 * 86400
    for name, days in (("erase-plugins-a b", 3), ("erase-plugins-c", 3), ("erase-plugins-busy", 0), ("other-d", 3)):
        (place / name / "inner").mkdir(parents=True)
        (place / name / "inner" / "picture.png").write_bytes(b"x" * 1000)
        for part in (*(place / name).rglob("*"), place / name):
            os.utime(part, (time.time() - 86400 * days,) * 2)
    for part in (place / "erase-plugins-busy", place / "erase-plugins-busy" / "inner"):
        os.utime(part, (old, old))  # its picture alone is new
    (place / "erase-plugins-link").symlink_to(place / "other-d")
    os.utime(place / "erase-plugins-link", (old, old), follow_symlinks=False)
    (line,) = found(erase("doctor", "--quick", "--json"), "leftovers")
    assert (line["status"], line["text"][:9]) == ("info", "2 folders")
    subprocess.run(line["fix"], shell=True, check=True)
    left = ["erase-plugins-busy", "erase-plugins-link", "other-d"]
    assert sorted(item.name for item in place.iterdir()) == left
    assert (place / "other-d" / "inner" / "picture.png").is_file()
