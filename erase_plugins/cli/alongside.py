"""A program that runs as long as the command that started it."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path


def call(words: Sequence[str], folder: Path) -> int:
    """Runs a program to its end in a folder; Ctrl-C, SIGTERM and an error here end it as well.

    A shell's background jobs begin with Ctrl-C switched off, and whoever ends this process means the program, too: it
    would go on alone otherwise, with its port taken and its folder left.

    Returns:
        Its exit status.
    """
    before = {number: signal.signal(number, signal.default_int_handler) for number in (signal.SIGINT, signal.SIGTERM)}
    program = None
    try:
        program = subprocess.Popen(words, cwd=folder)
        return program.wait()
    finally:
        if program is not None:
            program.terminate()
            program.wait()
        for number, handler in before.items():
            signal.signal(number, handler)
