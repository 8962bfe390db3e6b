"""Hostile and odd command lines: each ends in one line that says what to do, and nothing beside it is touched."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from erase_plugins.families.source import pocket_folder
from erase_plugins.workflow.artifacts import load_artifact
from erase_plugins.workflow.collection import build_collection
from tests.artifacts.keeping import tree

LINES = [
    line.rpartition(" | ")[::2]
    for line in Path(__file__).with_name("hostile.txt").read_text(encoding="utf-8").splitlines()
    if line and not line.startswith("#")
]


@pytest.fixture(scope="module")
def pizza_folder(pizza_folder, tmp_path_factory):
    """A copy: tests in another process may work beside the shared one while this file compares what lies there."""
    return shutil.copytree(pizza_folder, tmp_path_factory.mktemp("pizza") / pizza_folder.name)


@pytest.fixture(scope="module")
def burger_folder(burger_folder, tmp_path_factory):
    """A copy, as of the other one."""
    return shutil.copytree(burger_folder, tmp_path_factory.mktemp("burger") / burger_folder.name)


@pytest.fixture(scope="module")
def things(tmp_path_factory, pizza_folder, burger_folder):
    """What command lines may name, made once: artifacts, a model, a library, a pickle."""
    place = tmp_path_factory.mktemp("things")
    shutil.copytree(pocket_folder(), place / "model")
    build_collection([load_artifact(pizza_folder)], place / "library")
    (place / "pickle.ckpt").write_bytes(b"\x80\x04K\x01.")
    return place


@pytest.fixture
def desk(tmp_path, things, pizza_folder, burger_folder, monkeypatch):
    """A current folder full of other people's things."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    desk = tmp_path / "desk"
    (desk / "mydata" / "notes").mkdir(parents=True)
    (desk / "mydata" / "thesis.tex").write_text("years of work")
    (desk / "mydata" / "mine.md").write_text("# mine")
    (desk / "mydata" / "report.json").write_text('{"sales": 3}')
    (desk / "mydata" / "notes" / "one.txt").write_text("1")
    (desk / "mine").mkdir()
    for name in ("mine.md", "mine.png", "mine.safetensors", "mine.zip", "mine.json", "mine/picture.png"):
        (desk / name).write_text("mine")
    (desk / "latin.txt").write_bytes(b"caf\xe9")
    (desk / "project" / ".git").mkdir(parents=True)
    (desk / "project" / "code.py").write_text("code")
    (desk / "comfyui" / "custom_nodes" / "erase-plugins").mkdir(parents=True)
    (desk / "comfyui" / "nodes.py").write_text("")
    (desk / "link").symlink_to("mydata")
    (desk / "dangling").symlink_to("nowhere")
    (desk / "dangling.png").symlink_to("nowhere.png")
    shutil.copytree(pizza_folder, desk / "mixed")
    (desk / "mixed" / "notes.txt").write_text("mine")
    shutil.copytree(things / "library", desk / "library")
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "diary.txt").write_text("mine")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(desk)
    return desk


def words_of(line: str, desk: Path, things: Path, pizza: Path, burger: Path) -> list[str]:
    names = {
        "desk": desk, "home": desk.parent / "home", "art": pizza, "art2": burger, "model": things / "model",
        "pickle": things / "pickle.ckpt", "long": "x" * 250, "deep": "/".join(["y" * 200] * 25),
    }  # fmt: skip
    return [word.format(**names).replace("\\0", "\0") for word in shlex.split(line.replace("\\0", "\\\\0"))]


@pytest.mark.parametrize(("line", "says"), LINES, ids=[line[:60] for line, _ in LINES])
def test_one_line_and_nothing_touched(line, says, erase, loaded, desk, things, pizza_folder, burger_folder):
    places = (desk.parent, things, pizza_folder.parent, burger_folder.parent)
    before = [tree(place) for place in places]
    ran = erase(*words_of(line, desk, things, pizza_folder, burger_folder))
    last = ran.err.strip().splitlines()[-1]
    assert ran.code > 0
    assert last.startswith("error: ") and says in last, last
    assert "unexpected" not in last and "Traceback" not in ran.err and ran.err.count("error:") == 1, ran.err
    assert str(desk) not in ran.err and len(last) < 700
    assert [tree(place) for place in places] == before


def test_there_are_more_than_sixty_and_every_command_is_among_them():
    from erase_plugins.cli.group import COMMANDS

    assert len(LINES) >= 60
    hub = {"card", "push", "pull", "collection", "space", "search"}
    assert (set(COMMANDS) | hub) - {"doctor"} <= {word for line, _ in LINES for word in line.split()[:3]}


@pytest.mark.parametrize(
    "line",
    [
        "run uce --erase pizza --out mydata --force",
        "pull me/no-pizza --into p",
        "push {art} me/no-pizza",
        "run uce --erase pizza --model {model} --device moon --out r",
        "--from nobody list",
    ],
)
def test_as_a_process_of_its_own_without_network(
    line, desk, things, pizza_folder, burger_folder, preloaded_without_hub
):
    """The real program without the pauses of the Hub's client, at an address where nobody listens."""
    before = tree(desk.parent)
    code = "import time; time.sleep = lambda seconds: None; from erase_plugins.cli.main import main; main()"
    words = words_of(line, desk, things, pizza_folder, burger_folder)
    env = {**os.environ, "HF_ENDPOINT": "http://127.0.0.1:9", "HF_HUB_OFFLINE": "0", "HF_HOME": str(desk.parent.parent)}
    ran = subprocess.run(
        [*preloaded_without_hub, "-c", code, *words], capture_output=True, text=True, timeout=120, check=False, env=env
    )
    assert ran.returncode > 0
    assert ran.stderr.strip().splitlines()[-1].startswith("error: "), ran.stderr
    assert "Traceback" not in ran.stderr
    assert tree(desk.parent) == before
