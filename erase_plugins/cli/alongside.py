"""A program that runs as long as the command that started it."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path


def call(words: Sequence[str], folder: Path) -> int:
    """Runs a program to its end in a folder; Ctrl-C, SIGTERM and an error here end it as well.

    A shell's background jobs begin with Ctrl-C switched off, and whoever ends this process means the program, too: it
    would go on alone otherwise, with its port taken and its folder left. What it puts into the folder for temporary
    files goes with it, since a signal leaves it no time for that.

    Returns:
        Its exit status.
    """
    before = {number: signal.signal(number, signal.default_int_handler) for number in (signal.SIGINT, signal.SIGTERM)}
    program = None
    passing = tempfile.TemporaryDirectory(prefix="erase-plugins-", ignore_cleanup_errors=True)
    try:
        program = subprocess.Popen(words, cwd=folder, env={**os.environ, "TMPDIR": passing.name})
        return program.wait()
    finally:
        if program is not None:
            program.terminate()
            program.wait()
        passing.cleanup()
        for number, handler in before.items():
            signal.signal(number, handler)
