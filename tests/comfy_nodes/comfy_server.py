"""Starts and stops the real ComfyUI server; standard library only, because both interpreters use it."""

from __future__ import annotations

import os
import socket
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path

FOLDERS = ("custom_nodes", "input", "output", "temp", "user", "models/erase_plugins", "models/loras")

#: packages that the command line needs and a ComfyUI installation lacks; the nodes must do without
ABSENT = ("diffusers", "peft", "accelerate", "click", "rich", "platformdirs")


def hide(base: Path, absent: tuple[str, ...] = ABSENT) -> Path:
    """A folder for PYTHONPATH that makes the import of some packages fail."""
    folder = base / "absent"
    folder.mkdir(exist_ok=True)
    code = f"import sys\nsys.modules.update(dict.fromkeys({absent}))\n" + (
        "for name in [*sys.modules]:\n"  # of one that finds libraries imported, see tests/preloaded.py
        f"    if name.split('.')[0] in {absent}:\n        sys.modules[name] = None\n"
    )
    (folder / "sitecustomize.py").write_text(code, encoding="utf-8")
    return folder


_HELD: list[socket.socket] = []


def own_port() -> int:
    """A port that nobody else is given while this process lives; a server that it starts may listen there.

    Two sockets may hold one address as long as they set SO_REUSEADDR, as servers do, and only one of them listens.
    """
    place = socket.socket()
    place.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    place.bind(("127.0.0.1", 0))
    _HELD.append(place)
    return place.getsockname()[1]


def prepare(base: Path, pack: Path, name: str) -> Path:
    """A base folder whose custom_nodes holds a link to the pack under ``name``."""
    for folder in FOLDERS:
        (base / folder).mkdir(parents=True, exist_ok=True)
    link = base / "custom_nodes" / name
    if not link.exists():
        link.symlink_to(pack)
    return base


def start(
    python: list[str],
    comfy: Path,
    base: Path,
    port: int,
    front: Path,
    path: str,
    *options: str,
    environment: dict[str, str] | None = None,
) -> subprocess.Popen[bytes]:
    """The server process; its log goes to BASE/server.log.

    Args:
        python: interpreter with ComfyUI's requirements, or what stands for it.
        comfy, base, front: its folder, the folder with models and outputs, the folder of the editor.
        path: PYTHONPATH.
        options: of the server.
        environment: further variables.
    """
    return subprocess.Popen(
        [
            *python, "main.py", "--cpu", "--listen", "127.0.0.1", "--port", str(port), "--base-directory",
            str(base), "--front-end-root", str(front), "--disable-auto-launch", "--disable-api-nodes",
            "--database-url", "sqlite:///:memory:", *options,
        ],
        cwd=comfy, env={"HF_HUB_OFFLINE": "1", **os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", **(environment or {})},
        stdout=(base / "server.log").open("wb"), stderr=subprocess.STDOUT,
    )  # fmt: skip


def wait_ready(process: subprocess.Popen[bytes], base: Path, port: int, seconds: float = 400.0) -> None:
    """Returns when the server answers; raises with the end of its log when it died."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if process.poll() is not None:
            break
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/system_stats", timeout=10):
                return
        except (urllib.error.URLError, TimeoutError, ConnectionError):
            time.sleep(0.1)
    raise RuntimeError("the server did not become ready:\n" + (base / "server.log").read_text(errors="replace")[-3000:])


def stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
