"""What push and pull cost beside the bare client: ``python -m benchmarks.hub [--megabytes 50] [--repeats 5] [--json]``.

A test Hub in another process, on loopback. One warm process does all timed work: bare and ours take turns, each with
bytes the server has not seen and with an empty cache, and the quickest turns are compared: what else the machine does
only ever adds. How far memory rises is measured in fresh processes.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PAIRS = (("bare push", "bare pull"), ("push", "pull"))
_SERVE = """
import sys
import huggingface_hub.repocard  # what the server needs later must not count as the client's time
from erase_plugins.testing.hub_server import HubServer
with HubServer() as hub:
    print(hub.url, hub.token, flush=True)
    sys.stdin.read()
"""


def artifact(folder: Path, megabytes: int, seed: int = 0) -> Path:
    """A saved artifact whose one weight file has about this size; another seed gives other bytes."""
    import torch

    from erase_plugins.artifacts.artifact import Artifact
    from erase_plugins.artifacts.edit import Delta, Dense, Edit
    from erase_plugins.artifacts.manifest import Manifest
    from erase_plugins.types import Concept

    generator = torch.Generator().manual_seed(seed)
    deltas: dict[str, Delta] = {
        f"block.{number}.weight": Dense(torch.randn(500, 500, generator=generator)) for number in range(megabytes)
    }
    base = {"family": "sd1", "model": "pocket"}
    manifest = Manifest(name="large", method={"id": "test"}, concepts=(Concept("pizza"),), base=base)
    Artifact(manifest, Edit("sd1", {"unet": deltas})).save(folder, ("patch",))
    return folder


def _memory(name: str) -> int:
    """A line of this process's status, in bytes; 0 where there is none."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return 0
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith(name)), 0)


def run(action: str, repo: str, folder: Path) -> float:
    """Seconds of one action in this process."""
    import hashlib

    from huggingface_hub import CommitOperationAdd, HfApi, hf_hub_download

    import hub_cards

    names = [item.name for item in folder.iterdir()]
    started = time.perf_counter()
    if action == "bare push":
        HfApi().create_repo(repo)
        operations = [CommitOperationAdd(name, folder / name) for name in names]
        HfApi().create_commit(repo, operations, commit_message="x")
    elif action == "push":
        hub_cards.push(folder, repo, license="mit")
    elif action == "bare pull":
        for name in names:
            with open(hf_hub_download(repo, name), "rb") as file:
                hashlib.file_digest(file, "sha256")
    else:
        hub_cards.pull(repo)
    return time.perf_counter() - started


def prepare() -> None:
    """Everything that happens once in a process: imports, plugins, the first connection."""
    import huggingface_hub
    import torch  # noqa: F401

    import hub_cards.pulling
    import hub_cards.pushing  # noqa: F401
    from erase_plugins.manager import get_manager
    from erase_plugins.workflow.artifacts import load_artifact  # noqa: F401

    get_manager().check()
    huggingface_hub.HfApi().whoami()
    huggingface_hub.utils.disable_progress_bars()


def rise(action: str, repo: str, folder: str) -> int:
    """How many bytes the memory of this fresh process rises in one action."""
    prepare()
    with suppress(OSError):  # forgets the highest use so far, where the system can
        Path("/proc/self/clear_refs").write_text("5")
    before = _memory("VmRSS")
    run(action, repo, Path(folder))
    return _memory("VmHWM") - before


def turns(place: str, megabytes: int, repeats: int) -> dict[str, list[float]]:
    """Seconds of every action, in this process; a round with a small artifact comes first and does not count."""
    from huggingface_hub import constants

    prepare()
    found: dict[str, list[float]] = {action: [] for pair in PAIRS for action in pair}
    for number in range(repeats + 1):
        for turn, pair in enumerate(PAIRS if number % 2 else PAIRS[::-1]):
            folder = artifact(Path(place) / "artifact", megabytes if number else 1, seed=2 * number + turn)
            for action in pair:
                shutil.rmtree(constants.HF_HUB_CACHE, ignore_errors=True)
                seconds = run(action, f"tester/repository-{number}-{turn}", folder)
                found[action] += [seconds] if number else []
            shutil.rmtree(folder)
    return found


@contextmanager
def server() -> Iterator[dict[str, str]]:
    """A test Hub in a process of its own; gives the variables that point a client there."""
    process = subprocess.Popen(
        [sys.executable, "-c", _SERVE], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    assert process.stdout is not None
    url, token = process.stdout.readline().split()
    try:
        yield {
            "HF_ENDPOINT": url, "HF_TOKEN": token, "HF_HUB_DISABLE_XET": "1", "HF_HUB_OFFLINE": "0",
            "HF_HUB_DISABLE_TELEMETRY": "1", "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1",
        }  # fmt: skip
    finally:
        process.communicate()


def measure(megabytes: int = 50, repeats: int = 5) -> dict[str, Any]:
    """Medians in seconds, ratios to the bare client, and the rise of memory relative to the file's size."""
    with tempfile.TemporaryDirectory() as name, server() as variables:
        found = _child("turns", (name, megabytes, repeats), {**variables, "HF_HOME": f"{name}/home"})
    rises = memory(megabytes)
    seconds = {action: min(values) for action, values in found.items()}
    return {
        "seconds": seconds, "push_ratio": seconds["push"] / seconds["bare push"],
        "pull_ratio": seconds["pull"] / seconds["bare pull"],
        "push_memory": rises["push"], "pull_memory": rises["pull"],
    }  # fmt: skip


def memory(megabytes: int = 50) -> dict[str, float]:
    """How far memory rises during a push and a pull, relative to the file's size; each in a process of its own."""
    with tempfile.TemporaryDirectory() as name, server() as variables:
        folder = artifact(Path(name) / "large", megabytes)
        size = sum(item.stat().st_size for item in folder.iterdir())
        home = {**variables, "HF_HOME": f"{name}/home"}
        return {action: _child("rise", (action, "tester/large", str(folder)), home) / size for action in PAIRS[1]}


def _child(function: str, arguments: tuple[Any, ...], variables: dict[str, str]) -> Any:
    """What a function of this file gives in a process of its own."""
    code = f"import json, sys; from benchmarks import hub; print(json.dumps(hub.{function}(*json.loads(sys.argv[1]))))"
    # one thread: client and server are two busy processes, more threads than cores would only wait for each other
    env = {**os.environ, **variables, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    words = [sys.executable, "-c", code, json.dumps(arguments)]
    done = subprocess.run(words, env=env, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{function} failed: {done.stderr.strip().splitlines()[-1]}")
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    """Prints times, ratios and memory."""
    parser = argparse.ArgumentParser(description="push and pull beside the bare client, on loopback")
    parser.add_argument("--megabytes", type=int, default=50)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    found = measure(options.megabytes, options.repeats)
    if options.json:
        print(json.dumps(found, indent=2))
        return
    print(f"{options.megabytes} MB, quickest of {options.repeats}")
    for what in ("push", "pull"):
        bare, ours = found["seconds"][f"bare {what}"], found["seconds"][what]
        print(
            f"{what}: bare client {bare:.3f} s, erase-plugins {ours:.3f} s, ratio {found[f'{what}_ratio']:.2f}; "
            f"memory rose by {found[f'{what}_memory']:.2f} x the file"
        )


if __name__ == "__main__":
    main()
