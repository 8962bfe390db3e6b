"""Where attacks and suites keep what they have so far: beside their report, until the run has ended well. No torch."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from erase_plugins.errors import EraseError, RunCancelled, Unsupported
from erase_plugins.hints import ANOTHER_OUT, Hint


@contextmanager
def kept_work(
    kind: str, item: Any, subject: Any, options: Mapping[str, Any], queries: int, out: Path | None
) -> Iterator[Path]:
    """The folder of one run: temporary, or hidden in ``out`` and found again by the same call after a kill.

    Args:
        kind: "attack" or "suite".
        item: what runs.
        subject: what it runs on; artifacts that are in memory only, and what else acts on the model (a live LoRA),
            have no hash by which they could be found again.
        options: its settings.
        queries: its budget; 0 for a suite.
        out: folder of the report.

    Raises:
        Unsupported: a file is in the way.
    """
    unsaved = any(artifact.path is None for artifact in subject.artifacts)
    if out is None or unsaved or _more(subject):
        with tempfile.TemporaryDirectory(prefix=f"erase-plugins-{kind}-") as folder:
            yield Path(folder)
        return
    work = out / f".{kind}-{item.id}-{_key(item, subject, options, queries)}"
    if work.is_symlink() or (work.exists() and not work.is_dir()):
        raise Unsupported(f"'{work.name}' in ", Hint("out"), " is no folder; choose ", ANOTHER_OUT)
    work.mkdir(parents=True, exist_ok=True)
    try:
        yield work
    except RunCancelled:
        raise
    except EraseError:  # a refusal: the same call would be refused again
        shutil.rmtree(work, ignore_errors=True)
        raise
    shutil.rmtree(work, ignore_errors=True)


def _more(subject: Any) -> bool:
    from erase_plugins.evaluation.kept_pictures import acts_more

    pipe = getattr(subject, "pipe", None)
    return pipe is not None and acts_more(pipe)


def _key(item: Any, subject: Any, options: Mapping[str, Any], queries: int) -> str:
    """Hash of everything that the stages of a run depend on."""
    parts = {
        "attack": item.id,
        "artifacts": [artifact.manifest.to_json() for artifact in subject.artifacts],
        "model": {name: str(item.short) for name, item in sorted(subject.target.fingerprint().items())},
        "judge": getattr(subject.judge, "fingerprint", ""),
        "erased": list(subject.erased),
        "sampler": [subject.steps, subject.guidance, str(subject.target.dtype)],
        "run": [subject.strength, subject.seed, queries],
        "options": {name: str(value) for name, value in sorted(options.items())},
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:12]
