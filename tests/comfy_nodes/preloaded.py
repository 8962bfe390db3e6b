"""Scripts for the ComfyUI interpreter that find the libraries imported: one process imports them and forks for each script.

Importing torch, transformers and diffusers takes seconds of a processor. Only libraries are imported beforehand: ComfyUI
and our packages are imported by every script anew. `command` gives what to run in place of the interpreter; it takes a
script and its arguments, and is an ordinary process with streams, exit status and an environment of its own. Where a
process cannot fork, or libraries would have been imported in another environment, the interpreter itself runs the script.

Usage: python preloaded.py --serve SOCKET (the process that forks), python preloaded.py SOCKET SCRIPT ARGUMENT...
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

#: what ComfyUI and our nodes import of others
LIBRARIES = (
    "torch", "torchvision", "transformers.modeling_utils", "transformers.models.clip.modeling_clip", "scipy.stats", "kornia",
    "spandrel", "torchsde", "av", "aiohttp", "psutil", "diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion",
)  # fmt: skip
#: variables that libraries read when they are imported begin with one of these; TORCHINDUCTOR_CACHE_DIR is not among them:
#: torch itself sets it in a worker that has loaded a model, which could not share this process with one that has not
_READ = (
    "HF_",
    "HUGGINGFACE_",
    "TRANSFORMERS_",
    "DIFFUSERS_",
    "TORCH_",
    "PYTORCH_",
    "CUDA_",
    "OMP_",
    "MKL_",
    "PYTHONHASH",
)


def command(python: Path, place: Path) -> list[str]:
    """What runs a script in place of ``python``.

    Args:
        python: interpreter with the libraries.
        place: folder that the workers of a run share.
    """
    if not sys.platform.startswith("linux"):
        return [str(python)]
    from filelock import FileLock

    path = place / "preloaded"
    with FileLock(place / "preloaded.lock"):
        if not _lease(path):
            path.unlink(missing_ok=True)
            environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
            words = [str(python), __file__, "--serve", str(path)]
            quiet = subprocess.DEVNULL
            _STARTED.append(subprocess.Popen(words, env=environment, stdin=quiet, stdout=quiet, stderr=quiet))
            while not _lease(path):
                if _STARTED[-1].poll() is not None:
                    return [str(python)]
                time.sleep(0.05)
    return [str(python), "-S", __file__, str(path)]


_LEASES: list[socket.socket] = []
_STARTED: list[subprocess.Popen[bytes]] = []


def _lease(path: Path) -> bool:
    """Whether it answers; then it lives at least as long as this process."""
    channel = socket.socket(socket.AF_UNIX)
    try:
        channel.connect(str(path))
    except OSError:
        return False
    channel.sendall(b"stay\n")
    _LEASES.append(channel)
    return True


def _read_by_libraries(environment: dict[str, str]) -> dict[str, str]:
    return {name: value for name, value in environment.items() if name.startswith(_READ)}


def _ask(path: str, words: list[str]) -> None:
    """Ends as the script does; whoever kills this process kills the script."""
    channel = socket.socket(socket.AF_UNIX)
    channel.connect(path)
    socket.send_fds(channel, [b"run "], [0, 1, 2])
    asked = {"words": words, "cwd": os.getcwd(), "environment": dict(os.environ)}
    channel.sendall(json.dumps(asked).encode() + b"\n")
    answer = channel.makefile().readline().strip()
    if answer == "other environment":
        os.execv(sys.executable, [sys.executable, *words])
    os._exit(int(answer or 1))


def _serve(path: str) -> None:
    """Imports, then forks for whoever asks until nobody is left who might."""
    import importlib
    import selectors

    before = dict(os.environ)
    for name in LIBRARIES:
        importlib.import_module(name)
    added = {name: value for name, value in os.environ.items() if name not in before}
    door = socket.socket(socket.AF_UNIX)
    door.bind(path)
    door.listen(64)
    staying = selectors.DefaultSelector()
    staying.register(door, selectors.EVENT_READ)
    asked: list[int] = []
    while True:
        for key, _ in staying.select():
            asked = [number for number in asked if os.waitpid(number, os.WNOHANG) == (0, 0)]
            if key.fileobj is not door:
                staying.unregister(key.fileobj)
                key.fileobj.close()  # type: ignore[union-attr]
                if len(staying.get_map()) == 1:
                    os.unlink(path)
                    return
                continue
            channel, _ = door.accept()
            first, streams, _, _ = socket.recv_fds(channel, 4, 3)
            if first == b"stay":
                channel.recv(1)
                staying.register(channel, selectors.EVENT_READ)
                continue
            asked.append(os.fork())
            if asked[-1] == 0:
                staying.close()
                door.close()
                _watch(channel, streams, before, added)
            channel.close()
            for stream in streams:
                os.close(stream)


def _watch(channel: socket.socket, streams: list[int], before: dict[str, str], added: dict[str, str]) -> None:
    """Forks the script's process, tells its exit status, and kills it when the one who asked is gone.

    Args:
        channel, streams: of the one who asks.
        before, added: variables that libraries found when they were imported, and those that they set.
    """
    import select

    asked = json.loads(channel.makefile().readline())
    environment = asked["environment"]
    if _read_by_libraries(environment) != _read_by_libraries(before):
        channel.sendall(b"other environment\n")
        os._exit(0)
    ended, ending = os.pipe()
    child = os.fork()
    if child == 0:
        channel.close()
        os.close(ended)  # the other end stays open as long as this process lives
        _run(asked["words"], asked["cwd"], {**added, **environment}, streams)
    os.close(ending)
    ready, _, _ = select.select([channel, ended], [], [])
    if ended not in ready:
        os.kill(child, signal.SIGKILL)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    try:
        channel.sendall(f"{status if status >= 0 else 128 - status}\n".encode())
    finally:
        os._exit(0)


def _run(words: list[str], cwd: str, environment: dict[str, str], streams: list[int]) -> None:
    """Runs a script as the interpreter would, in this process, and ends it."""
    import atexit
    import random
    import runpy
    import threading
    import traceback

    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    paths = [item for item in environment.get("PYTHONPATH", "").split(os.pathsep) if item]
    sys.path[:1] = [os.path.dirname(os.path.abspath(words[0])), *paths]
    sys.argv = list(words)
    random.seed()
    status = 0
    try:
        runpy.run_path(words[0], run_name="__main__")
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
        status = 1
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


if __name__ == "__main__":
    if sys.argv[1] == "--serve":
        _serve(sys.argv[2])
    else:
        _ask(sys.argv[1], sys.argv[2:])
