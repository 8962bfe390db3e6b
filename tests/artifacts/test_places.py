"""What is written where: only what this program wrote is replaced, one writer at a time, old or new at every moment."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

import erase_plugins as ep
from erase_plugins.artifacts.atomic import atomic_file, atomic_folder
from erase_plugins.artifacts.locks import claim, locked
from erase_plugins.artifacts.places import FILE
from erase_plugins.errors import ArtifactError
from erase_plugins.workflow.collection import build_collection
from tests.artifacts.keeping import tree
from tests.artifacts.test_store import artifact_of, random_edit

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def artifact(pocket_target):
    return artifact_of(pocket_target, random_edit(pocket_target, ("cross_k",)))


@pytest.fixture
def there(artifact, tmp_path):
    artifact.save(tmp_path / "art", ("patch",))
    return tmp_path / "art"


def mydata(folder: Path) -> Path:
    (folder / "notes").mkdir(parents=True)
    (folder / "thesis.tex").write_text("years of work")
    (folder / "notes" / "one.txt").write_text("1")
    return folder


def refused(folder: Path, write, match: str) -> None:
    before = tree(folder)
    with pytest.raises(ArtifactError, match=match):
        write()
    assert tree(folder) == before


def test_force_keeps_a_folder_of_other_files(artifact, tmp_path):
    place = mydata(tmp_path / "mydata")
    refused(
        tmp_path, lambda: artifact.save(place, ("patch",), force=True), r"thesis\.tex, notes/one\.txt.*another out="
    )


def test_a_foreign_file_inside_an_artifact_folder_is_named(artifact, there, tmp_path):
    (there / "notes.txt").write_text("mine")
    refused(tmp_path, lambda: artifact.save(there, ("patch",), force=True), r"did not write \(notes\.txt\)")


def test_an_empty_folder_and_an_artifact_folder_are_replaced(artifact, there, tmp_path):
    (tmp_path / "empty").mkdir()
    for place in (tmp_path / "empty", there):
        artifact.save(place, ("patch",), force=True)
        assert len(ep.load_artifact(place).edit) == len(artifact.edit)
    assert sorted(item.name for item in tmp_path.iterdir()) == ["art", "empty"]


def test_what_file_managers_leave_is_not_in_the_way(artifact, there, tmp_path):
    (there / ".DS_Store").write_bytes(b"x")
    artifact.save(there, ("patch",), force=True)
    assert [item.name for item in tmp_path.iterdir()] == ["art"]


def test_report_of_an_evaluation_inside_goes_with_the_artifact(artifact, there, tmp_path):
    (there / "report.json").write_text('{"judge_hash": "x", "rows": []}')
    artifact.save(there, ("patch",), force=True)
    (there / "report.json").write_text('{"sales": 3}')
    refused(tmp_path, lambda: artifact.save(there, ("patch",), force=True), r"report\.json")


@pytest.mark.parametrize("up", [0, 1, 2])
def test_current_folder_and_those_above_it(artifact, tmp_path, monkeypatch, up):
    inner = tmp_path / "one" / "two"
    inner.mkdir(parents=True)
    monkeypatch.chdir(inner)
    place = (inner, inner.parent, tmp_path)[up]
    refused(tmp_path, lambda: artifact.save(place, ("patch",), force=True), "current folder")
    refused(tmp_path, lambda: artifact.save("." + "/.." * up, ("patch",), force=True), "current folder")


def test_root_home_and_checkouts(artifact, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    refused(tmp_path, lambda: artifact.save(tmp_path / "home", ("patch",), force=True), "home folder")
    refused(tmp_path, lambda: artifact.save("/", ("patch",), force=True), "current folder")
    (tmp_path / "project" / ".git").mkdir(parents=True)
    refused(tmp_path, lambda: artifact.save(tmp_path / "project", ("patch",), force=True), "git checkout")


@pytest.mark.skipif(os.name == "nt", reason="links need rights there")
@pytest.mark.parametrize("goal", ["art", "mydata", "nowhere"])
def test_links_are_neither_followed_nor_replaced(artifact, there, tmp_path, goal):
    mydata(tmp_path / "mydata")
    (tmp_path / "link").symlink_to(tmp_path / goal)
    refused(tmp_path, lambda: artifact.save(tmp_path / "link", ("patch",), force=True), "is a link")
    (there / "more").symlink_to(tmp_path / "mydata")
    refused(tmp_path, lambda: artifact.save(there, ("patch",), force=True), r"did not write \(more\)")


def test_files_where_a_folder_should_be(artifact, tmp_path):
    (tmp_path / "file").write_text("mine")
    refused(tmp_path, lambda: artifact.save(tmp_path / "file", ("patch",), force=True), "is a file")
    refused(tmp_path, lambda: artifact.save(tmp_path / "file" / "in", ("patch",), force=True), "'file' is no folder")


def test_an_artifact_does_not_replace_a_collection(artifact, there, tmp_path):
    build_collection({"one": artifact, "two": artifact}, tmp_path / "lib")
    refused(tmp_path, lambda: artifact.save(tmp_path / "lib", ("patch",), force=True), "another kind")
    refused(tmp_path, lambda: build_collection([artifact], there, force=True), "another kind")
    (tmp_path / "lib" / "two" / "notes.txt").write_text("mine")
    refused(tmp_path, lambda: build_collection([artifact], tmp_path / "lib", force=True), r"two/notes\.txt")


def test_a_text_that_was_changed_by_hand_is_kept(tmp_path):
    for _ in range(2):
        with atomic_folder(tmp_path / "space", force=True, kind="space") as work:
            (work / "app.py").write_text("print('made')")
    (tmp_path / "space" / "app.py").write_text("print('mine')")
    with pytest.raises(ArtifactError, match="changed since"), atomic_folder(tmp_path / "space", True, "space"):
        pass
    assert (tmp_path / "space" / "app.py").read_text() == "print('mine')"


def test_a_marker_cannot_point_outside(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    (tmp_path / "space").mkdir()
    (tmp_path / "space" / ".erase-plugins").write_text('{"kind": "space", "files": {"../mine.txt": null}}')
    with atomic_folder(tmp_path / "space", True, "space") as work:
        (work / "app.py").write_text("x")
    assert (tmp_path / "mine.txt").read_text() == "mine"


def test_without_force_the_place_may_not_come_to_be_meanwhile(tmp_path):
    with pytest.raises(ArtifactError, match="exists already"), atomic_folder(tmp_path / "art") as work:
        (work / "erase.json").write_text("{}")
        (tmp_path / "art").mkdir()
    with pytest.raises(ArtifactError, match="did not write"), atomic_folder(tmp_path / "art", force=True) as work:
        (work / "erase.json").write_text("{}")
        (tmp_path / "art" / "thesis.tex").write_text("mine")
    assert [item.name for item in (tmp_path / "art").iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize("name", ["x.png", "x.safetensors", "x.zip", "README.md", "report.json"])
def test_a_file_of_somebody_else_is_kept(tmp_path, name):
    (tmp_path / name).write_bytes(b"holiday")
    with pytest.raises(ArtifactError, match="not written by erase-plugins"), atomic_file(tmp_path / name, True) as work:
        work.write_bytes(b"new")
    assert (tmp_path / name).read_bytes() == b"holiday"


def test_names_that_no_system_takes(artifact, tmp_path):
    for name in ("a\0b", "x" * 250, "x" * 5000):
        with pytest.raises(ArtifactError, match=r"NUL|too long"):
            artifact.save(tmp_path / name, ("patch",), force=True)
    assert not list(tmp_path.iterdir())


# ---- locks -------------------------------------------------------------------------------------------------------

HOLDS = """
import sys, time
sys.path.insert(0, {root!r})
from pathlib import Path
from erase_plugins.artifacts.locks import claim, locked
with claim(Path({target!r})):
    print("holds", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    code = HOLDS.format(root=str(ROOT), target=str(tmp_path / "deep" / "art"))
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline().strip() == "holds"
    yield process
    process.kill()
    process.wait(timeout=30)


def test_the_second_writer_is_told_without_waiting(holder, tmp_path, monkeypatch):
    monkeypatch.setattr(time, "sleep", lambda seconds: pytest.fail("it waits"))
    with pytest.raises(ArtifactError, match="being written by another run"), claim(tmp_path / "deep" / "art"):
        pass
    with claim(tmp_path / "deep" / "other"):
        pass


def test_who_has_patience_waits(holder, tmp_path):
    timer = threading.Timer(0.5, holder.kill)
    timer.start()
    with locked(tmp_path / "deep" / "art", patience=20):
        assert not timer.is_alive()


@pytest.mark.skipif(os.name == "nt", reason="SIGKILL is POSIX")
def test_the_lock_of_a_dead_process_is_taken_over_and_removed(holder, tmp_path):
    holder.send_signal(signal.SIGKILL)
    holder.wait(timeout=30)
    with claim(tmp_path / "deep" / "art"):
        pass
    assert not list((tmp_path / "deep").iterdir())


def test_a_lock_leaves_nothing(tmp_path):
    with pytest.raises(RuntimeError), claim(tmp_path / "a" / "b" / "art"):
        assert (tmp_path / "a" / "b").is_dir()
        raise RuntimeError
    assert not list(tmp_path.iterdir())


def test_a_thread_may_claim_again_and_another_may_not(tmp_path):
    found = []

    def other() -> None:
        try:
            with claim(tmp_path / "art"):
                found.append("got it")
        except ArtifactError as error:
            found.append(str(error))

    with claim(tmp_path / "art"), claim(tmp_path / "art"):
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
    other()
    assert "another run" in found[0] and found[1:] == ["got it"]


def test_many_writers_one_at_a_time(tmp_path):
    """Nobody gets in while somebody writes, though the lock file is removed after every turn."""
    inside, most, turns = [0], [0], [0]

    def write() -> None:
        for _ in range(150):
            try:
                with claim(tmp_path / "art"):
                    inside[0] += 1
                    most[0] = max(most[0], inside[0])
                    turns[0] += 1
                    time.sleep(0.0002)
                    inside[0] -= 1
            except ArtifactError:
                time.sleep(0.0001)

    threads = [threading.Thread(target=write) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1] and turns[0] > 6
    assert not list(tmp_path.iterdir())


# ---- killed at any point -----------------------------------------------------------------------------------------

KILLED = """
import os, sys
sys.path.insert(0, {root!r})
from pathlib import Path
from erase_plugins.artifacts import atomic
calls, step = [0], int(sys.argv[1])
def dying(name, real):
    def call(*args, **options):
        calls[0] += 1
        if calls[0] == step:
            os.kill(os.getpid(), 9)
        return real(*args, **options)
    return call
for name in ("rename", "replace", "unlink", "rmdir"):
    setattr(os, name, dying(name, getattr(os, name)))
if sys.argv[2] == "plain":
    atomic._exchange = lambda *_: False
else:
    atomic._exchange = dying("exchange", atomic._exchange)
with atomic.atomic_folder(Path({target!r}), force=True, kind="space") as work:
    (work / "app.py").write_text("new")
    (work / "more.txt").write_text("new")
print("done")
"""


@pytest.mark.skipif(os.name == "nt", reason="SIGKILL is POSIX")
@pytest.mark.parametrize("swap", ["exchange", "plain"])
def test_killed_at_every_step_leaves_old_or_new(tmp_path, swap):
    target = tmp_path / "space"
    code = KILLED.format(root=str(ROOT), target=str(target))
    for step in range(1, 40):
        with atomic_folder(target, True, "space") as work:
            (work / "app.py").write_text("old")
            (work / "old.txt").write_text("old")
        assert sorted(item.name for item in tmp_path.iterdir()) == ["space"]
        ended = subprocess.run(
            [sys.executable, "-c", code, str(step), swap], capture_output=True, text=True, check=False
        )
        if swap == "plain" and not target.exists():  # between two renames: the next run brings it back
            with pytest.raises(RuntimeError), atomic_folder(target, True, "space"):
                raise RuntimeError
        names = sorted(item.name for item in target.iterdir() if item.name != ".erase-plugins")
        assert ((target / "app.py").read_text(), names) in (
            ("old", ["app.py", "old.txt"]),
            ("new", ["app.py", "more.txt"]),
        )
        if ended.returncode == 0:
            break
        assert ended.returncode == -signal.SIGKILL, ended.stderr
    assert ended.stdout.strip() == "done" and step > 4


def test_half_a_megabyte_of_zip_is_known_by_its_comment(tmp_path):
    import zipfile

    with atomic_file(tmp_path / "x.zip", False) as work, zipfile.ZipFile(work, "w") as file:
        file.writestr("a", "b" * 500_000)
        file.comment = b"erase-plugins"
    with claim(tmp_path / "x.zip", True, FILE):
        pass
