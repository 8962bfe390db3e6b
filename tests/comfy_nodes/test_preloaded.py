"""A script that finds the libraries imported is a process like any other, and finds nothing of ours."""

from __future__ import annotations

import json
import os
import subprocess
import time

import pytest

from tests.comfy_nodes.conftest import ROOT

pytestmark = pytest.mark.comfy

TELLS = """
import json, os, sys
ours = [name for name in sys.modules if name.split(".")[0] in ("erase_plugins", "comfy_nodes", "hub_cards", "comfy", "tests")]
print(json.dumps([os.getppid(), "torch" in sys.modules, ours, sys.argv[1:], os.getcwd(), os.environ["TOLD"], sys.path[:2]]))
print("to stderr", file=sys.stderr)
sys.exit(3)
"""


@pytest.fixture
def run(preloaded_comfy, tmp_path):
    """Runs a text as a script; the variables are added to the environment."""
    (tmp_path / "place").mkdir()

    def started(text, *words, **more):
        (tmp_path / "script.py").write_text(text, encoding="utf-8")
        environment = {**os.environ, "PYTHONPATH": str(ROOT), **more}
        return subprocess.Popen(
            [*preloaded_comfy, str(tmp_path / "script.py"), *words], cwd=tmp_path / "place", env=environment,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    return started


@pytest.mark.parametrize(
    ("variable", "other"),
    [({}, False), ({"TORCHINDUCTOR_CACHE_DIR": "/nowhere"}, False), ({"HF_ENDPOINT": "http://127.0.0.1:9"}, True)],
    ids=["same", "set by torch", "another"],
)
def test_it_runs_as_by_the_interpreter(preloaded_comfy, run, tmp_path, variable, other):
    """Where libraries would have read another variable, by the interpreter itself; torch sets one in the tests' process."""
    if len(preloaded_comfy) == 1:
        pytest.skip("no process forks here")
    process = run(TELLS, "a", "b c", TOLD="x", **variable)
    said, errors = process.communicate(timeout=120)
    parent, torch, ours, words, folder, told, path = json.loads(said)
    assert (process.returncode, errors, words, told) == (3, "to stderr\n", ["a", "b c"], "x")
    assert folder == str(tmp_path / "place")
    assert path == [str(tmp_path), str(ROOT)]
    assert torch is not other
    assert (parent == os.getpid()) is other
    assert ours == []


def test_an_error_is_told_and_a_killed_one_is_gone(run, tmp_path):
    process = run("def deep():\n    raise ValueError('said')\ndeep()")
    assert "in deep" in (errors := process.communicate(timeout=120)[1]) and "ValueError: said" in errors
    assert process.returncode == 1
    waits = run("import os, time\nprint(os.getpid(), flush=True)\ntime.sleep(300)")
    number = int(waits.stdout.readline())
    waits.kill()
    waits.communicate(timeout=20)
    until = time.monotonic() + 20
    while os.path.exists(f"/proc/{number}") and time.monotonic() < until:
        time.sleep(0.01)
    assert not os.path.exists(f"/proc/{number}")
