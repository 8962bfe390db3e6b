"""Desks whose process is killed, in a process of its own: forking a worker of the tests, full of libraries, takes long.

Usage: python -m tests.requests.lives FOLDER COUNT; prints a line of JSON per life.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

from erase_plugins.requests import decisions
from erase_plugins.requests.intake import receive
from erase_plugins.requests.store import DATABASE, Desk


def write_until_killed(folder: Path, pipe: int) -> None:
    """In a child: takes requests in and moves them on, telling each that was acknowledged."""
    desk = Desk.create(folder)
    while True:
        case, _ = receive(desk, "person", ["Zorvane Ymbrook-Quillith"])
        os.write(pipe, f"received {case}\n".encode())
        decisions.verify_identity(desk, case, "account")
        os.write(pipe, f"verified {case}\n".encode())
        decisions.decide(desk, case, "reject", "withdrawn")
        os.write(pipe, f"rejected {case}\n".encode())


def life(folder: Path, awaited: bool, seconds: float) -> dict[str, object]:
    """What one child told until it was killed, and what the ledger has then; None without a ledger.

    Args:
        folder: of the desk.
        awaited: whether the child comes as far as its first request.
        seconds: how long it lives then.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        try:
            write_until_killed(folder, writing)
        finally:
            os._exit(1)
    os.close(writing)
    with os.fdopen(reading) as told:
        first = told.readline() if awaited else ""
        time.sleep(seconds)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        lines = [line.strip() for line in [first, *told] if line]
    there = None
    if (folder / DATABASE).is_file():
        ledger = Desk.create(folder).ledger()  # replayed, every rule and the seal included
        there = [f"{line['event']} {line['case']}" for line in ledger.entries[1:]]
    return {"desk": folder.name, "told": lines, "there": there}


def main(place: str, count: str) -> None:
    chance = random.Random(7)
    for number in range(int(count)):
        folder = Path(place, f"desk{number // 10}")  # ten lives of a desk, so that making one is hit as well
        print(json.dumps(life(folder, bool(number % 2), chance.uniform(0.0, 0.04))), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
