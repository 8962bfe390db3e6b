"""Two processes with a shared batch train what one process trains."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
import torch

import erase_plugins as ep
from erase_plugins.engine import distributed
from erase_plugins.testing.tiny import tiny_sd1
from erase_plugins.workflow.artifacts import load_artifact
from erase_plugins.workflow.models import target_of

ROOT = Path(__file__).parents[2]
OPTIONS = {
    "iterations": 3, "batch": 4, "trajectories": 4, "harvest": 2, "steps": 4, "keep_words": 3, "keep_batch": 3, "lr": 1e-3,
    "precision": "float32", "checkpoint_every": 1,
}  # fmt: skip
PROGRAM = f"""
import os, sys
os.environ["CUDA_VISIBLE_DEVICES"] = ""
import erase_plugins as ep
from erase_plugins.engine.distributed import processes
from erase_plugins.workflow.models import target_of
from erase_plugins.testing.tiny import tiny_sd1

ep.erase(target_of(tiny_sd1(), "tiny"), "pizza", "esd", options={OPTIONS!r}, out=sys.argv[1])
os.write(1, b"processes %d\\n" % processes())  # at once: both write to one pipe
"""


#: torchrun sets it, and an interpreter whose torch is imported without it would not do
ADDED = "TORCH_NCCL_ASYNC_ERROR_HANDLING"


def test_two_processes_equal_one(preloaded, tmp_path):
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    ep.erase(target_of(tiny_sd1(), "tiny"), "pizza", "esd", options=OPTIONS, out=tmp_path / "one")
    words = [*preloaded, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "--no-python",
             "env", "-u", ADDED, *preloaded, str(program), str(tmp_path / "two")]  # fmt: skip
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    two = subprocess.run(words, cwd=ROOT, env=env, capture_output=True, text=True, timeout=300)
    assert two.returncode == 0, two.stderr[-2000:]
    assert two.stdout.count("processes 2") == 2
    expected, found = (load_artifact(tmp_path / name).edit for name in ("one", "two"))
    assert len(expected) > 0
    moved = 0.0
    for (_, key, left), (_, other, right) in zip(expected.items(), found.items(), strict=True):
        assert key == other
        assert torch.allclose(left.dense(), right.dense(), atol=2e-6), key
        moved = max(moved, float(left.dense().abs().max()))
    assert moved > 1e-4  # it did train


def test_one_process_is_the_whole_world():
    assert distributed.processes() == 1
    assert distributed.is_main()
    assert list(range(5))[distributed.share(5)] == [0, 1, 2, 3, 4]
    tensor = torch.ones(2)
    assert distributed.average([tensor])[0] is tensor


def test_a_batch_smaller_than_the_processes_is_refused(monkeypatch):
    class Two:
        num_processes = 2
        process_index = 1

    monkeypatch.setattr(distributed, "_state", Two)
    assert list(range(5))[distributed.share(5)] == [1, 3]
    with pytest.raises(distributed.RequestError, match="batch of 1 cannot be shared by 2"):
        distributed.share(1)
