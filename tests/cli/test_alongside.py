"""What a command starts ends with it, however it is ended."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from erase_plugins.cli.alongside import call

#: the program says its number and waits; nothing but a signal ends it
PROGRAM = "import os, time, tempfile; print(os.getpid(), tempfile.mkdtemp(), flush=True); time.sleep(600)"


@pytest.mark.skipif(os.name == "nt", reason="signals")
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_it_ends_with_the_command_that_a_script_started(how, tmp_path):
    code = (
        "import sys; from pathlib import Path; from erase_plugins.cli.alongside import call\n"
        f"call([sys.executable, '-c', {PROGRAM!r}], Path({str(tmp_path)!r}))"
    )
    command = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN),  # as a shell starts what stands before "&"
    )  # fmt: skip
    assert command.stdout is not None
    program, place = command.stdout.readline().split()
    assert Path(place).is_dir()
    command.send_signal(how)
    assert command.wait(timeout=60) != 0
    with pytest.raises(ProcessLookupError):
        os.kill(int(program), 0)
    assert not Path(place).parent.exists()


def test_its_status_is_handed_on_and_signals_are_as_before(tmp_path):
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    assert call([sys.executable, "-c", "open('here', 'w'); raise SystemExit(3)"], tmp_path) == 3
    assert Path(tmp_path, "here").exists()
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before
