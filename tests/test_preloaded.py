"""A program that finds the libraries imported is a process like any other, and finds nothing of ours."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests import preloaded as forking
from tests.comfy_nodes.comfy_server import hide

ROOT = Path(__file__).parent.parent

TELLS = """
import json, os, sys
ours = [name for name in sys.modules if name.split(".")[0] in ("erase_plugins", "comfy_nodes", "hub_cards", "comfy", "tests")]
print(json.dumps([os.getppid(), "torch" in sys.modules, ours, sys.argv, os.getcwd(), os.environ["TOLD"], sys.path[:2]]))
sys.stdout.reconfigure(errors="replace")
print("to stderr", file=sys.stderr)
if __name__ == "__main__":
    sys.exit(3)
"""


@pytest.fixture
def start(tmp_path):
    """Starts a text as a program by what stands for an interpreter; the variables are added to the environment."""
    (tmp_path / "place").mkdir()

    def started(python, text, *words, how="script", **more):
        script = tmp_path / "script.py"
        script.write_text(text, encoding="utf-8")
        program = {"script": [str(script)], "text": ["-c", text], "module": ["-m", "script"]}[how]
        environment = {**forking.AT_FIRST, "PYTHONPATH": str(ROOT), **more}
        return subprocess.Popen(
            [*python, *program, *words], cwd=tmp_path / "place", env=environment,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    return started


@pytest.fixture
def forks(preloaded):
    """What forks; skips where nothing does."""
    if len(preloaded) == 1:
        pytest.skip("no process forks here")
    return preloaded


@pytest.mark.parametrize("how", ["script", "text", "module"])
def test_it_runs_as_by_the_interpreter(forks, start, tmp_path, how):
    told = []
    for python in ([sys.executable], forks):
        path = os.pathsep.join([str(ROOT), str(tmp_path)])
        process = start(python, TELLS, "a", "b c", how=how, TOLD="x", PYTHONPATH=path)
        said, errors = process.communicate(timeout=120)
        parent, torch, ours, *rest = json.loads(said)
        assert (process.returncode, errors, ours) == (3, "to stderr\n", [])
        assert (parent == os.getpid(), torch) == (python is not forks, python is forks)
        told.append(rest)
    assert told[0] == told[1]
    assert told[1][0][1:] == ["a", "b c"]


@pytest.mark.parametrize(
    ("variable", "other"),
    [({"TORCHINDUCTOR_CACHE_DIR": "/nowhere"}, ()), ({"HF_ENDPOINT": "http://127.0.0.1:9"}, ("preloaded",)),
     ({"TORCH_LOGS": "+all"}, ("preloaded", "preloaded_without_hub")),
     ({"PYTHONWARNINGS": "error"}, ("preloaded", "preloaded_without_hub"))],
    ids=["set by torch", "of the Hub", "of torch", "of Python"],
)  # fmt: skip
def test_where_libraries_would_have_read_another_variable_the_interpreter_runs_it(
    forks, start, request, variable, other
):
    """torch sets one in the tests' process."""
    for name in ("preloaded", "preloaded_without_hub"):
        text = "import os, sys; print(os.getppid(), 'torch' in sys.modules)"
        said, errors = start(request.getfixturevalue(name), text, **variable).communicate(timeout=120)
        assert said.split() == [str(os.getpid()), "False"] if name in other else said.endswith("True\n"), errors


def test_what_is_hidden_cannot_be_imported_although_it_was(forks, start, tmp_path):
    """Through the sitecustomize of the path; of a package whose parts are there, too."""
    text = """
import importlib
for name in ("torch", "torch.nn.functional"):
    try:
        importlib.import_module(name)
    except ModuleNotFoundError:
        print("absent", name)
"""
    process = start(forks, text, PYTHONPATH=str(hide(tmp_path, ("torch",))))
    assert process.communicate(timeout=120) == ("absent torch\nabsent torch.nn.functional\n", "")


def test_an_error_is_told_and_a_killed_one_is_gone(preloaded, start):
    process = start(preloaded, "def deep():\n    raise ValueError('said')\ndeep()")
    assert "in deep" in (errors := process.communicate(timeout=120)[1]) and "ValueError: said" in errors
    assert process.returncode == 1
    waits = start(preloaded, "import os, time\nprint(os.getpid(), flush=True)\ntime.sleep(300)")
    number = int(waits.stdout.readline())
    waits.kill()
    waits.communicate(timeout=20)
    until = time.monotonic() + 20
    while os.path.exists(f"/proc/{number}") and time.monotonic() < until:
        time.sleep(0.01)
    assert not os.path.exists(f"/proc/{number}")
