"""Breaks the code on purpose, one change at a time, and says which changes no test notices. Run by hand, not in CI.

    python tests/mutations.py [--only TEXT ...] [--list]

`mutations.json` holds the changes: what is broken, the file, text that stands in it exactly once, what takes its place,
and the tests that must fail then. Everything happens in a temporary copy of the working tree. Each test is run on the
untouched copy first, so that a test that fails anyway kills nothing. Exit code 1 if a change survives.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
#: seconds that the tests of one change may take
LIMIT = 300.0
_FAILED = re.compile(r"^FAILED (\S+)", re.MULTILINE)


@dataclass(frozen=True)
class Change:
    """One mutation: ``old`` becomes ``new`` in ``file``, and every test of ``tests`` must notice."""

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]


def read_changes(path: Path = ROOT / "tests" / "mutations.json") -> list[Change]:
    """The listed changes, in the order of the list."""
    return [Change(**{**item, "tests": tuple(item["tests"])}) for item in json.loads(path.read_text())]


def copy_tree(place: Path) -> None:
    """The files of the working tree that git knows or would take, as they are now."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=ROOT, check=True,
        capture_output=True, text=True,
    ).stdout  # fmt: skip
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():
            (place / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, place / name)


def run_tests(place: Path, tests: Sequence[str]) -> tuple[int, set[str], str]:
    """Exit code of pytest in the copy, the tests that failed, and the last lines that it printed.

    In a fork of this process, which has imported torch and its friends already: seconds instead of many.
    """
    with tempfile.TemporaryFile() as out:
        child = get_context("fork").Process(target=_run, args=(place, tests, out.fileno()))
        child.start()
        child.join(LIMIT)
        if child.exitcode is None:
            child.kill()
            return -1, set(), f"no end after {LIMIT:.0f} s"
        out.seek(0)
        text = out.read().decode(errors="replace")
    return child.exitcode, set(_FAILED.findall(text)), "\n".join(text.splitlines()[-8:])


def _run(place: Path, tests: Sequence[str], out: int) -> None:
    """Runs pytest on the copy's own package, what it prints goes to ``out``; ends the process."""
    import pytest

    os.dup2(out, 1)
    os.dup2(out, 2)
    os.chdir(place)
    sys.dont_write_bytecode = True
    sys.path[:] = [
        str(place),
        *(path for path in sys.path if Path(path or ".").resolve() not in (ROOT, ROOT / "tests")),
    ]
    os.environ["PYTHONPATH"] = os.pathsep.join([str(place), *filter(None, [os.environ.get("PYTHONPATH")])])
    os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
    code = int(pytest.main(["-q", "-p", "no:cacheprovider", *tests]))
    found = sys.modules.get("erase_plugins")
    if found is not None and not str(found.__file__).startswith(str(place)):
        print(f"the package came from {found.__file__}, not from the copy")
        code = 4
    sys.stdout.flush()
    sys.exit(code)


def preload() -> None:
    """Imports what takes long, but nothing of this project, with the settings of `conftest.py`."""
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = "1"
    for name in ("HF_HUB_OFFLINE", "HF_HUB_DISABLE_XET", "HF_HUB_DISABLE_TELEMETRY"):
        os.environ.setdefault(name, "1")
    import diffusers
    import peft  # noqa: F401
    import transformers

    for name in ("StableDiffusionPipeline", "StableDiffusionXLPipeline", "UNet2DConditionModel", "AutoencoderKL"):
        getattr(diffusers, name)
    for name in ("CLIPTextModel", "CLIPTextModelWithProjection", "CLIPTokenizer"):
        getattr(transformers, name)


def verdict(place: Path, change: Change) -> str:
    """What became of one change: "killed by ...", or why it was not."""
    path = place / change.file
    text = path.read_text()
    if text.count(change.old) != 1:
        return f"NOT MADE: the text stands {text.count(change.old)} times in {change.file}"
    path.write_text(text.replace(change.old, change.new))
    try:
        code, failed, end = run_tests(place, change.tests)
    finally:
        path.write_text(text)
    if code not in (0, 1):
        return f"NOT RUN: {end}"
    slept = [test for test in change.tests if not any(name.split("[")[0] == test.split("[")[0] for name in failed)]
    if slept:
        return f"SURVIVED {', '.join(slept)}"
    return f"killed by {', '.join(test.rpartition('/')[2] for test in change.tests)}"


def main() -> int:
    """Runs the chosen changes; the number that survived decides the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", default=[""], help="changes whose name begins with one of these texts")
    parser.add_argument("--list", action="store_true", help="name the changes and their tests, run nothing")
    given = parser.parse_args()
    chosen = [change for change in read_changes() if change.name.startswith(tuple(given.only))]
    if given.list or not chosen:
        for change in chosen:
            print(f"{change.name}: {', '.join(change.tests)}")
        return 0 if chosen else 2
    preload()
    with tempfile.TemporaryDirectory(prefix="mutations-") as folder:
        place = Path(folder).resolve()
        copy_tree(place)
        code, failed, end = run_tests(place, sorted({test for change in chosen for test in change.tests}))
        if code:
            print(f"the tests fail without any change: {', '.join(sorted(failed)) or end}")
            return 2
        alive = 0
        for number, change in enumerate(chosen, 1):
            found = verdict(place, change)
            alive += not found.startswith("killed")
            print(f"[{number}/{len(chosen)}] {change.name}: {found}", flush=True)
        print(f"{len(chosen) - alive} of {len(chosen)} killed")
    return int(alive > 0)


if __name__ == "__main__":
    sys.exit(main())
