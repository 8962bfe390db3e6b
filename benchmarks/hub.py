"""What push and pull cost beside the bare client: ``python -m benchmarks.hub [--megabytes 50] [--repeats 5] [--json]``.

A test Hub in another process, on loopback. Every measurement is a fresh process that has imported everything before the
clock starts, with an empty cache; bare and ours take turns, and the medians are compared.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
_SERVE = """
import sys
import huggingface_hub.repocard  # what the server needs later must not count as the client's time
from erase_plugins.testing.hub_server import HubServer
with HubServer() as hub:
    print(hub.url, hub.token, flush=True)
    sys.stdin.read()
"""


def artifact(folder: Path, megabytes: int) -> Path:
    """A saved artifact whose one weight file has about this size."""
    import torch

    from erase_plugins.artifacts.artifact import Artifact
    from erase_plugins.artifacts.edit import Delta, Dense, Edit
    from erase_plugins.artifacts.manifest import Manifest
    from erase_plugins.types import Concept

    generator = torch.Generator().manual_seed(0)
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


def work(action: str, repo: str, folder: str) -> dict[str, float]:
    """One measurement, in this process: seconds, and how far memory rose above where it was."""
    import hashlib

    import huggingface_hub
    import torch  # noqa: F401  imported before the clock starts, as everything else
    from huggingface_hub import CommitOperationAdd, HfApi, hf_hub_download

    import hub_cards.model_card
    import hub_cards.pulling
    import hub_cards.pushing
    import hub_cards.sending
    from erase_plugins.artifacts.artifact import load_artifact  # noqa: F401
    from erase_plugins.manager import get_manager

    get_manager().check()
    HfApi().whoami()
    huggingface_hub.utils.disable_progress_bars()
    names = [item.name for item in Path(folder).iterdir()]
    with _quiet_peak():
        before, started = _memory("VmRSS"), time.perf_counter()
        if action == "bare push":
            HfApi().create_repo(repo)
            operations = [CommitOperationAdd(name, Path(folder, name)) for name in names]
            HfApi().create_commit(repo, operations, commit_message="x")
        elif action == "push":
            hub_cards.pushing.push(folder, repo, license="mit")
        elif action == "bare pull":
            for name in names:
                with open(hf_hub_download(repo, name), "rb") as file:
                    hashlib.file_digest(file, "sha256")
        else:
            hub_cards.pulling.pull(repo)
        seconds = time.perf_counter() - started
        return {"seconds": seconds, "memory": _memory("VmHWM") - before}


@contextmanager
def _quiet_peak() -> Iterator[None]:
    """Forgets the highest memory use so far, where the system can."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    yield


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
    actions = ("bare push", "push", "bare pull", "pull")
    found: dict[str, list[dict[str, float]]] = {name: [] for name in actions}
    with tempfile.TemporaryDirectory() as name:
        folder = artifact(Path(name) / "large", megabytes)
        size = sum(item.stat().st_size for item in folder.iterdir())
        for number in range(repeats):
            for pair in (("bare push", "bare pull"), ("push", "pull")):
                with server() as variables:  # a fresh one: a server that has the bytes already is not sent them again
                    for action in pair:
                        home = Path(name) / f"{action} {number}"
                        found[action].append(_child(action, folder, {**variables, "HF_HOME": str(home)}))
    seconds = {key: statistics.median(row["seconds"] for row in rows) for key, rows in found.items()}
    return {
        "bytes": size, "seconds": seconds, "push_ratio": seconds["push"] / seconds["bare push"],
        "pull_ratio": seconds["pull"] / seconds["bare pull"],
        "push_memory": max(row["memory"] for row in found["push"]) / size,
        "pull_memory": max(row["memory"] for row in found["pull"]) / size,
    }  # fmt: skip


def _child(action: str, folder: Path, variables: dict[str, str]) -> dict[str, float]:
    code = "import json, sys; from benchmarks.hub import work; print(json.dumps(work(*sys.argv[1:])))"
    words = [sys.executable, "-c", code, action, "tester/large", str(folder)]
    env = {**os.environ, **variables, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(words, env=env, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{action} failed: {done.stderr.strip().splitlines()[-1]}")
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
    print(f"{found['bytes'] / 1e6:.1f} MB, medians of {options.repeats}")
    for what in ("push", "pull"):
        bare, ours = found["seconds"][f"bare {what}"], found["seconds"][what]
        print(
            f"{what}: bare client {bare:.3f} s, erase-plugins {ours:.3f} s, ratio {found[f'{what}_ratio']:.2f}; "
            f"memory rose by {found[f'{what}_memory']:.2f} x the file"
        )


if __name__ == "__main__":
    main()
