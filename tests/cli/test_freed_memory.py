"""What a command frees it gets back without the system clearing it again."""

from __future__ import annotations

import subprocess
import sys

import pytest

_FAULTS = """
import resource, sys
import torch
if sys.argv[1] == "keep":
    from erase_plugins.cli.freed_memory import keep_freed_memory
    assert keep_freed_memory(torch.nn.Linear(2, 2))
def faults():
    torch.ones(48 << 20, dtype=torch.uint8)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
before = [faults() for _ in range(3)][-1]
print([faults() for _ in range(10)][-1] - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's heap")
def test_freed_blocks_are_not_cleared_again():
    """48 MB ten times are 122,880 pages, each of them new unless the block was kept."""
    found = [
        int(subprocess.run([sys.executable, "-c", _FAULTS, how], capture_output=True, text=True, check=True).stdout)
        for how in ("keep", "leave")
    ]
    assert found[0] < 1_000 < 100_000 < found[1]


_CAST = """
import sys
import torch
from erase_plugins.cli.command import quiet_libraries
from erase_plugins.workflow.found import LOADED, FoundModel
if sys.argv[1] == "keep":
    quiet_libraries()
def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096
class Family:
    def open(self, *_):
        return torch.nn.ModuleList(torch.nn.Linear(3200, 3200) for _ in range(15))
before = resident()
model = FoundModel("big", None, Family()).pipeline()
for layer in model:
    layer.bfloat16()
print(resident() - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's heap")
def test_what_a_large_model_frees_goes_back_to_the_system():
    """600 MB of float32 weights, cast to half: 300 MB are left, and not what was cast from."""
    found = [
        int(subprocess.run([sys.executable, "-c", _CAST, how], capture_output=True, text=True, check=True).stdout)
        for how in ("keep", "leave")
    ]
    assert max(found) < 450 << 20, found
