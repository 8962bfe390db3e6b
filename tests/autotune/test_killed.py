"""A search whose process was killed at any point, gone on with, gives what one gives that was left alone."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

import erase_plugins as ep
from erase_plugins.artifacts.difference import difference

ROOT = Path(__file__).resolve().parents[2]
#: where a process of its own dies: at a base that is measured and not noted, before a trial, after the measurement of a
#: trial that is not noted, in the middle of a line of the journal, while it writes what was found
POINTS = ("base", "trial 0", "measured 1", "line 9", "trial 3", "measured 0", "line 14", "front", "artifact")

SCRIPT = """
import json, os, signal, sys
from pathlib import Path
import torch
torch.set_num_threads(1)  # what is forked below has no other threads
import erase_plugins as ep
from erase_plugins.artifacts.artifact import Artifact
from erase_plugins.autotune import run
from erase_plugins.autotune.measure import Yardstick
from erase_plugins.testing.tiny import tiny_sd1
from erase_plugins.workflow.models import target_of
from optuna.storages.journal import JournalFileBackend

target = target_of(tiny_sd1(), "tiny")
folder, points = Path(sys.argv[1]), sys.argv[2:]

def search(out, **named):
    return ep.auto(target, "pizza", methods=["uce", "rece"], trials=6, images=2, keep=["a dog"], out=out, **named)

def die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)

def counted(real, number, after=False):
    seen = [0]
    def call(*given, **named):
        result = real(*given, **named) if after else None
        seen[0] += 1
        if seen[0] > number:
            die()
        return result if after else real(*given, **named)
    return call

def killed(point, out):
    what, _, number = point.partition(" ")
    if what == "trial":
        search(out, progress=lambda label, done, most: die() if done >= int(number) else None)
    elif what == "base":
        Yardstick.__init__ = counted(Yardstick.__init__, 0, after=True)
    elif what == "measured":
        Yardstick.measure = counted(Yardstick.measure, int(number), after=True)
    elif what == "line":
        def torn(self, logs, real=JournalFileBackend.append_logs, seen=[]):
            seen.append(logs)
            if len(seen) > int(number):
                with open(self._file_path, "ab") as file:
                    file.write(json.dumps(logs[0]).encode()[:20])
                    file.flush()
                    die()
            real(self, logs)
        JournalFileBackend.append_logs = torn
    elif what == "front":
        run.picture = die
    elif what == "artifact":
        Artifact.save = die
    search(out)

def told(found):
    return {"rows": [row.to_dict() | {"seconds": 0} for row in found.front], "taken": found.taken.number,
            "trials": found.trials, "stopped": found.stopped}

for point in points:
    child = os.fork()
    if child == 0:
        try:
            killed(point, folder / "killed")
        finally:
            os._exit(1)
    print(point, os.WTERMSIG(os.waitpid(child, 0)[1]), (folder / "killed").exists(), flush=True)
print(json.dumps([told(search(folder / name)) for name in ("killed", "whole")]))
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="SIGKILL and fork are POSIX")
def test_killed_at_any_point_and_resumed_gives_the_same_front(preloaded, tmp_path):
    pytest.importorskip("optuna")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    ended = subprocess.run(
        [*preloaded, "-c", SCRIPT, str(tmp_path), *POINTS],
        capture_output=True, text=True, env=environment, cwd=ROOT, timeout=500,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr[-3000:]
    *deaths, numbers = ended.stdout.strip().splitlines()
    assert deaths == [f"{point} 9 False" for point in POINTS]
    killed, whole = json.loads(numbers)
    assert killed == whole
    assert whole["trials"] == 6
    assert not difference(*(ep.load_artifact(tmp_path / name).edit for name in ("killed", "whole")))
    assert not list((tmp_path / "killed-search").glob("*.lock"))
