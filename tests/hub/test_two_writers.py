"""Two people push at once, in two processes through the real client: one wins, the other is told what to do."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

import pytest

import hub_cards
from erase_plugins import load_artifact
from tests.hub.conftest import REPO

ROOT = Path(__file__).resolve().parents[2]
WRITER = """
import sys, time
from pathlib import Path
import hub_cards
from erase_plugins.errors import PushRefused
folder, repo, ready, go = sys.argv[1:]

def together(bundle):
    Path(ready).touch()
    while not Path(go).exists():
        time.sleep(0.005)

try:
    print("PUSHED", hub_cards.push(folder, repo, license="mit", show=together).commit)
except PushRefused as error:
    print("REFUSED", error)
"""


def write_together(python, hub, folders, place):
    """What both writers print; they go on when both have looked at the repository."""
    go = place / "go"
    ready = [place / f"ready {number}" for number in range(len(folders))]
    writers = []
    for number, folder in enumerate(folders):
        env = {**os.environ, **hub.environment(place / f"home {number}"), "PYTHONPATH": str(ROOT)}
        words = [*python, "-c", WRITER, str(folder), REPO, str(ready[number]), str(go)]
        pipe = subprocess.PIPE
        writers.append(subprocess.Popen(words, env=env, cwd=ROOT, stdout=pipe, stderr=pipe, text=True))
    end = time.monotonic() + 150
    while not all(item.exists() for item in ready):
        assert time.monotonic() < end, [item.communicate(timeout=5) for item in writers if item.poll() is not None]
        time.sleep(0.01)
    go.touch()
    told = [item.communicate(timeout=120) for item in writers]
    assert [item.returncode for item in writers] == [0, 0], told
    return [out.strip() for out, _ in told]


@pytest.mark.parametrize("exists", [True, False])
def test_one_wins_and_the_other_is_told_what_changed(hub, made, preloaded_without_hub, tmp_path, exists):
    pizza, hamburger = made["pizza"], made["hamburger"]
    if exists:
        hub_cards.push(pizza, REPO, license="mit")
        for number, item in enumerate((pizza, hamburger)):  # so that both writers have something to send
            made = item.save(tmp_path / f"small {number}", ("patch",))
            pizza, hamburger = (made, hamburger) if number == 0 else (pizza, made)
    folders = [pizza.path, hamburger.path]
    told = write_together(preloaded_without_hub, hub, folders, tmp_path)
    assert sorted(text.split()[0] for text in told) == ["PUSHED", "REFUSED"], told
    winner = next(number for number, text in enumerate(told) if text.startswith("PUSHED"))
    won, refused = load_artifact(folders[winner]), told[1 - winner]
    commit = hub.store.repository(REPO).commit()
    assert told[winner] == f"PUSHED {commit.oid}"
    assert "nothing was overwritten" in refused
    assert "then run the same command again" in refused
    if "since then" in refused or exists:  # a repository that was filled before the other one made it is told in short
        assert f"{commit.oid[:12]} '{commit.title}' by tester" in refused
        assert "adapter_config.json" in refused
    assert load_artifact(f"hub:{REPO}").name == won.name
    lost = folders[1 - winner]
    hub_cards.push(lost, REPO, license="mit")  # the same command again, knowing what is there
    assert load_artifact(f"hub:{REPO}").name == load_artifact(lost).name
