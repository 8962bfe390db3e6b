"""Many concepts, one artifact each: resumable, failures apart, equal bytes on a second run."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from erase_plugins.errors import NotFiniteError, RunCancelled
from erase_plugins.hints import Hint

FAST = ("--set", "vocabulary=20")


def hashes(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*.safetensors"))
    }


def test_an_interrupted_sweep_says_how_it_goes_on(erase, loaded, tmp_path, monkeypatch) -> None:
    """`run` goes on with --resume, which a sweep has not."""
    import erase_plugins.api as api

    def cancelled(plan, *_, **__):
        raise RunCancelled(
            "cancelled at step 3 of 9; ", Hint("resume", before="run the same command with"), " to go on"
        )

    monkeypatch.setattr(api, "run_and_save", cancelled)
    ran = erase(
        "sweep", "uce", "--model", "pocket", "--erase", "pizza", "--erase", "dog", *FAST, "--out", tmp_path / "a"
    )
    assert (ran.code, ran.err.splitlines()[-1]) == (130, "error: stopped with 2 to do; the same command goes on")


def test_sweep_goes_on_where_it_stopped_and_gives_equal_bytes(erase, loaded, tmp_path, monkeypatch) -> None:
    import erase_plugins.api as api

    names = tmp_path / "names.txt"
    names.write_text("# animals\npizza\ndog\n\ncar\n")
    words = ("sweep", "uce", "--model", "pocket", "--erase-file", names, *FAST, "--json", "--out")
    plain = api.run_and_save

    def broken(plan, *arguments, **options):
        if plan.request.concepts[0].text == "dog":
            raise NotFiniteError("loss became NaN")
        return plain(plan, *arguments, **options)

    monkeypatch.setattr(api, "run_and_save", broken)
    first = erase(*words, tmp_path / "a")
    assert first.code == 1
    assert "1 of 3 concepts failed" in first.err
    assert first.data["failed"] == {"dog": "dog: loss became NaN"}, "one object, not one more for the error"
    before = hashes(tmp_path / "a")
    assert {name.split("/")[0] for name in before} == {"pizza", "car"}

    monkeypatch.setattr(api, "run_and_save", plain)
    dry = erase(*words, tmp_path / "a", "--dry-run")
    assert (dry.code, dry.data["todo"], dry.data["finished"]) == (0, ["dog"], 2)
    second = erase(*words, tmp_path / "a")
    assert (second.code, second.data["finished"], second.data["failed"]) == (0, 3, {})
    after = hashes(tmp_path / "a")
    assert {name: after[name] for name in before} == before

    for more, said in {
        ("--seed", "3"): "seed 0 then, 3 now", ("--set", "erase_scale=0.5"): "erase_scale 1.0 then, 0.5 now",
        ("--keep", "rose"): "keep nothing then, rose now", ("--layout", "diff"): "layout nothing then, diff now",
        ("--to", "cake"): "cake",
    }.items():  # fmt: skip
        other = erase(*words, tmp_path / "a", *more)
        assert (other.code, said in other.err) == (2, True), other.err
        assert "was asked something else" in other.err and "choose another --out" in other.err
    assert hashes(tmp_path / "a") == after

    (tmp_path / "a" / "car" / "edit.safetensors").write_bytes(b"cut short")
    assert erase(*words, tmp_path / "a").code == 0
    assert hashes(tmp_path / "a") == after
    assert erase(*words, tmp_path / "b").code == 0
    assert hashes(tmp_path / "b") == after
    assert not [path for path in (tmp_path / "a").iterdir() if path.name.startswith(".")]


def test_wrong_requests(erase, tmp_path) -> None:
    assert erase("sweep", "uce", "--model", "pocket", "--out", tmp_path / "a").code == 2
    same = erase("sweep", "uce", "--model", "pocket", "--erase", "a b", "--erase", "a-b", "--out", tmp_path / "a")
    assert same.code == 2
    assert "share a folder" in same.err


@pytest.mark.slow
def test_two_processes_give_the_bytes_of_one(erase, tmp_path) -> None:
    names = [part for name in ("pizza", "dog", "car") for part in ("--erase", name)]
    words = ("sweep", "uce", "--model", "pocket", *names, *FAST, "--layout", "patch", "--json", "--out")
    one, two = (erase(*words, tmp_path / jobs, "--jobs", jobs) for jobs in ("1", "2"))
    assert (one.code, two.code) == (0, 0)
    assert (two.data["finished"], two.data["failed"]) == (3, {})
    assert hashes(tmp_path / "1") == hashes(tmp_path / "2")
    assert len(hashes(tmp_path / "2")) == 3


def test_a_concept_that_fails_in_its_process_is_named(tmp_path, monkeypatch) -> None:
    from erase_plugins import api
    from erase_plugins.cli import sweep_processes

    def broken(plan, *arguments, **options):
        raise NotFiniteError("loss became NaN")

    monkeypatch.setattr(api, "run_and_save", broken)
    for name in ("target", "stop"):
        monkeypatch.setitem(sweep_processes._loaded, name, None)
    assert sweep_processes._one(None, tmp_path / "dog", ()) == "loss became NaN"


@pytest.mark.slow
def test_processes_stop_at_the_next_step(erase, tmp_path, monkeypatch) -> None:
    """The command waited until the concepts in the making were done, which may take hours."""
    from erase_plugins.engine import context

    out = tmp_path / "a"

    @contextmanager
    def pressed(cancel: threading.Event) -> Iterator[None]:
        """Ctrl-C as soon as a concept is begun."""
        monkeypatch.setattr(cancel, "is_set", lambda: any(out.glob(".*/*")))
        yield

    monkeypatch.setattr(context, "cancel_on_interrupt", pressed)
    words = ("sweep", "esd", "--model", "pocket", "--erase", "dog", "--erase", "cat", "--set", "iterations=60")
    ran = erase(*words, "--set", "checkpoint_every=5", "--out", out, "--jobs", 2)
    assert (ran.code, "stopped with 2 to do; the same command goes on" in ran.err) == (130, True), ran.err
    assert not [place.name for place in out.iterdir() if not place.name.startswith(".")]
