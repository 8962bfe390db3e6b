"""Programs that find the libraries imported: one process imports them and forks for each program.

Importing torch, transformers and diffusers takes seconds of a processor. Only libraries are imported beforehand: ComfyUI
and our packages are imported by every program anew. `command` gives what to run in place of the interpreter; it takes a
script, ``-c TEXT`` or ``-m MODULE`` and arguments, and is an ordinary process with streams, exit status and an environment
of its own. Where a process cannot fork, or libraries would have been imported in another environment, the interpreter
itself runs the program. A test of importing, of memory or of dying at a certain moment starts the interpreter.

Usage: python preloaded.py --serve SOCKET LIBRARY... (the process that forks), python preloaded.py SOCKET PROGRAM ARGUMENT...
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

#: what ComfyUI and our nodes import of others
COMFY = (
    "torch", "torchvision", "transformers.modeling_utils", "transformers.models.clip.modeling_clip", "scipy.stats", "kornia",
    "spandrel", "torchsde", "av", "aiohttp", "psutil", "diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion",
)  # fmt: skip
#: what a command that loads a pipeline imports of others
PIPELINES = (
    "torch", "scipy.stats", "PIL.Image", "safetensors.torch", "transformers.modeling_utils", "transformers.models.clip.modeling_clip",
    "transformers.models.clip.tokenization_clip", "diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion", "peft",
)  # fmt: skip
#: of these, what reads no variable of the Hub's client: for programs with a Hub of their own
WITHOUT_HUB = (
    "torch",
    "torch._dynamo",
    "torch._inductor.compile_fx",
    "torchvision",
    "scipy.stats",
    "scipy.optimize",
    "PIL.Image",
)
#: variables that libraries read when they are imported begin with one of these; TORCHINDUCTOR_CACHE_DIR is not among them:
#: torch itself sets it in a worker that has loaded a model, which could not share this process with one that has not
_READ = ("TORCH_", "PYTORCH_", "CUDA_", "OMP_", "MKL_", "PYTHON")
#: the same for libraries that need not be among those imported
_READ_BY = {
    "huggingface_hub": ("HF_", "HUGGINGFACE_"),
    "transformers": ("TRANSFORMERS_",),
    "diffusers": ("DIFFUSERS_",),
}


#: the environment of a run of tests; some test or library may have changed that of a worker by the time it asks
AT_FIRST: dict[str, str] = {}


def command(python: str | Path, place: Path, name: str, libraries: tuple[str, ...]) -> list[str]:
    """What runs a program in place of ``python``.

    Args:
        python: interpreter with the libraries.
        place: folder that the workers of a run share.
        name: of the process that forks, in that folder.
        libraries: what it imports.
    """
    if not sys.platform.startswith("linux"):
        return [str(python)]
    from filelock import FileLock

    path = place / name
    with FileLock(place / f"{name}.lock"):
        if not _lease(path):
            path.unlink(missing_ok=True)
            environment = {name: value for name, value in (AT_FIRST or os.environ).items() if name != "PYTHONPATH"}
            words = [str(python), __file__, "--serve", str(path), *libraries]
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
    read = (*_READ, *(part for name, parts in _READ_BY.items() if name in sys.modules for part in parts))
    return {name: value for name, value in environment.items() if name.startswith(read) and name != "PYTHONPATH"}


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


def _serve(path: str, libraries: list[str]) -> None:
    """Imports, then forks for whoever asks until nobody is left who might."""
    import gc
    import importlib
    import selectors

    before = dict(os.environ)
    gc.disable()
    for name in libraries:
        importlib.import_module(name)
    gc.freeze()  # what is forked need not look through them
    gc.enable()
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
    """Runs a program as the interpreter would, in this process, and ends it."""
    import atexit
    import random
    import threading
    import traceback

    for number, (stream, name) in enumerate(zip(streams, ("stdin", "stdout", "stderr"), strict=True)):
        os.dup2(stream, number)
        os.close(stream)
        # anew, because an object knows from its beginning whether it can seek
        was = getattr(sys, name)
        lines = name == "stderr" or os.isatty(number)
        kind, buffering = ("r", -1) if name == "stdin" else ("w", 1 if lines else -1)
        made = open(number, kind, buffering, was.encoding, was.errors, closefd=False)  # noqa: SIM115  (until it ends)
        setattr(sys, name, made)
        setattr(sys, f"__{name}__", made)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    paths = [item for item in environment.get("PYTHONPATH", "").split(os.pathsep) if item]
    sys.path[:1] = paths
    random.seed()
    status = 0
    try:
        _begin(words)
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


def _begin(words: list[str]) -> None:
    """A text, a module or a script, as the first of the words says."""
    import importlib
    import runpy
    from types import ModuleType

    sys.modules.pop("sitecustomize", None)
    with contextlib.suppress(ImportError):
        importlib.import_module("sitecustomize")  # there may be one in PYTHONPATH
    first, *rest = words
    if first == "-c":
        text, *rest = rest
        sys.path.insert(0, "")
        sys.argv = ["-c", *rest]
        main = sys.modules["__main__"] = ModuleType("__main__")
        exec(compile(text, "<string>", "exec"), vars(main))
    elif first == "-m":
        sys.path.insert(0, os.getcwd())
        sys.argv = rest
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    else:
        sys.path.insert(0, os.path.dirname(os.path.abspath(first)))
        sys.argv = list(words)
        runpy.run_path(first, run_name="__main__")


if __name__ == "__main__":
    if sys.argv[1] == "--serve":
        _serve(sys.argv[2], sys.argv[3:])
    else:
        _ask(sys.argv[1], sys.argv[2:])
