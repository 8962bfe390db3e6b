"""The Hub that one command starts, for people who try publishing without an account."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import urllib.request

import pytest


@pytest.mark.parametrize("ended_by", [signal.SIGINT, signal.SIGTERM])
def test_it_prints_what_another_terminal_needs_and_ends_quietly(ended_by):
    """Started as a script starts what runs beside it, with Ctrl-C switched off."""
    words = [sys.executable, "-m", "erase_plugins.testing", "hub"]
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    finally:
        signal.signal(signal.SIGINT, before)
    try:
        name, *pairs = shlex.split(process.stdout.readline())
        variables = dict(item.split("=", 1) for item in pairs)
        assert name == "export" and variables["HF_HUB_OFFLINE"] == "0" and variables["HF_TOKEN"]
        assert os.path.isdir(variables["HF_HOME"])
        with urllib.request.urlopen(f"{variables['HF_ENDPOINT']}/api/models", timeout=20) as answer:
            assert answer.read() == b"[]"
        process.stderr.readline()
        process.stderr.readline()
        process.send_signal(ended_by)
        _, said = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == 0 and "Traceback" not in said and "Error" not in said
    assert not os.path.exists(variables["HF_HOME"])
