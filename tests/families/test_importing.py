"""The model libraries come without a search for garbage; afterwards everything is collected as before."""

from __future__ import annotations

import gc
import os
import subprocess
import sys

from erase_plugins.families.importing import without_collections

#: work is counted, seconds depend on the machine
COUNTED = """
import gc, sys
looked = []
gc.callbacks.append(lambda phase, facts: looked.append(len(sys.modules)) if (phase, facts["generation"]) == ("start", 2) else None)
from erase_plugins.cli.main import cli
cli(["run", "uce", "--model", "pocket", "--erase", "pizza", "--no-check", "--out", sys.argv[1]], standalone_mode=False)
print(len(looked), gc.isenabled(), gc.get_freeze_count() > 100_000)
"""  # fmt: skip


def test_a_first_run_looks_through_the_libraries_hardly_ever(tmp_path):
    ended = subprocess.run(
        [sys.executable, "-c", COUNTED, str(tmp_path / "a")], capture_output=True, text=True, timeout=300,
        env={**os.environ, "PYTHONWARNINGS": "ignore"},
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr[-3000:]
    searches, collecting, frozen = ended.stdout.split()[-3:]
    assert (collecting, frozen) == ("True", "True")
    assert int(searches) <= 2


def test_collecting_is_afterwards_as_it_was():
    @without_collections()
    def inside():
        with without_collections():
            assert not gc.isenabled()
        assert not gc.isenabled()

    before = gc.get_freeze_count()
    inside()
    assert gc.isenabled()
    gc.disable()
    try:
        inside()
        assert not gc.isenabled()
    finally:
        gc.enable()
    assert gc.get_freeze_count() == before  # nothing was imported
