"""A table of thirteen methods, measured as `compare` does it and as single evaluations did it, on pocket.

    python -m benchmarks.official --rows table

Plain: a process per method, which draws the base, the edited model, the edit at strength 0, the destroyed model and the
pictures to be shown. Ours: one process, which draws what all methods share once and nothing that is the base again to
the last bit. Both sides start with loading the model and end with written reports; erasing is left out on both. The
artifacts come from a few training steps each: what is drawn with them costs the same.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

METHODS = (
    "ace", "advunlearn", "concept-ablation", "esd", "few-shot", "leco", "mace", "realera", "rece", "receler", "spm",
    "trce", "uce",
)  # fmt: skip
#: methods whose plain evaluation is timed: one each that changes weights, hangs memories on, adds modules
TIMED = ("uce", "spm", "receler")
CONCEPT, IMAGES = "pizza", 32


def rows(place: Path, sizes: Sequence[int]) -> Iterator[dict[str, Any]]:
    """The row of the table; ``sizes`` is not asked."""
    import erase_plugins as ep
    from erase_plugins.manager import get_manager

    pipe, artifacts = ep.load("pocket"), place / "artifacts"
    for name in METHODS:
        options = getattr(get_manager().method(name), "contract_options", {})
        ep.erase(pipe, CONCEPT, name, options=options, out=artifacts / name)
    took = {name: _process("plain", artifacts, [name], "0") for name in TIMED}
    plain = sum(seconds for seconds, _ in took.values()) * len(METHODS) / len(TIMED)
    ours, hits = _process("ours", artifacts, METHODS, str(place / "kept"))
    equal = all(hits[name] == found[name] for name, (_, found) in took.items())
    yield {
        "work": f"table of {len(METHODS)} methods, {IMAGES} pictures a set, without erasing", "plain": plain,
        "ours": ours, "ratio": plain / ours, "rates": "equal" if equal else "DIFFERENT",
        "plain timed": {name: round(seconds, 1) for name, (seconds, _) in took.items()},
    }  # fmt: skip


def _process(side: str, artifacts: Path, names: Sequence[str], cache: str) -> tuple[float, dict[str, Any]]:
    """(processor seconds of a new process, hits by method)."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-m", "benchmarks.table", side, str(artifacts), *names]
    env = {**os.environ, "ERASE_PLUGINS_CACHE": cache, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    told = subprocess.run(command, env=env, check=True, stdout=subprocess.PIPE, text=True).stdout
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, json.loads(told.splitlines()[-1])


def evaluated(side: str, artifacts: Path, names: Sequence[str]) -> dict[str, Any]:
    """Measures artifacts in this process; method -> what was seen in every picture."""
    import torch

    import erase_plugins as ep
    from erase_plugins.comparison.cells import Cell, measured
    from erase_plugins.evaluation import standing

    torch.set_num_threads(1)
    if side == "plain":
        standing.standing = lambda pipe: None  # nothing is taken for the base
    pipe, found = ep.load("pocket"), {}
    for name in names:
        artifact = ep.load_artifact(artifacts / name)
        with tempfile.TemporaryDirectory() as place:
            report = measured(Cell(name, CONCEPT, images=IMAGES), pipe, artifact, Path(place))
        if side == "plain":
            texts = [report.details["prompts"][group][0] for group in ("target", "neighbour")]
            for items in ((), (artifact,)):
                ep.generate(pipe, texts, items)
        found[name] = report.details["hits"]
    return found


if __name__ == "__main__":
    print(json.dumps(evaluated(sys.argv[1], Path(sys.argv[2]), sys.argv[3:])))
