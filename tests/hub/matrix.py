"""Every request that an operation makes x every fault: which cases there are, and putting everything back between."""

from __future__ import annotations

import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import constants

from erase_plugins.artifacts.places import MARKER
from erase_plugins.errors import HubError
from erase_plugins.testing.hub_server import TOKEN

STATUSES = (429, 500, 503)
#: what can only happen to an answer with a body
BODIES = ("slow", "truncated", "wrong bytes")


@dataclass(frozen=True)
class Case:
    """One fault at one request (the n-th of its kind), or at all of a kind for good (``times`` 0)."""

    request: str
    kind: int | str
    times: int = 1
    after: int = 0
    after_work: bool = False

    def inject(self, hub: Any) -> None:
        """From now on the server has this fault."""
        pattern = re.escape(self.request) + "$"
        hub.fault(pattern, self.kind, self.times, after=self.after, after_work=self.after_work, seconds=0.01)


def cases(log: list[Any]) -> Iterator[Case]:
    """Everything that can go wrong at the requests of a clean run."""
    seen: Counter[str] = Counter()
    for item in log:
        request = f"{item.method} {item.path}"
        kinds = (*STATUSES, "reset", *(BODIES if item.answered else ()))
        yield from (Case(request, kind, after=seen[request]) for kind in kinds)
        if item.method in ("POST", "PUT"):
            yield from (Case(request, kind, after=seen[request], after_work=True) for kind in (500, "reset"))
        if not seen[request]:
            yield Case(request, 500, times=0)
        seen[request] += 1


class Rewind:
    """Puts the Hub and the client's cache back to how they were when this was made."""

    def __init__(self, hub: Any) -> None:
        self.hub = hub
        self.blobs = dict(hub.store.blobs)
        self.repositories = {
            name: (item, dict(item.commits), dict(item.branches)) for name, item in hub.store.repositories.items()
        }

    def __call__(self) -> None:
        self.hub.faults.clear()
        self.hub.log.clear()
        self.hub.store.blobs = dict(self.blobs)
        self.hub.store.repositories = {name: item for name, (item, _, _) in self.repositories.items()}
        for item, commits, branches in self.repositories.values():
            item.commits, item.branches = dict(commits), dict(branches)
        shutil.rmtree(constants.HF_HUB_CACHE, ignore_errors=True)


def attempt(action: Callable[[], Any]) -> HubError | None:
    """What happened: None for success, else the error; it must be ours, on one line, without the token."""
    try:
        action()
    except HubError as error:
        text = str(error)
        problems = [part for part in ("\n", TOKEN, TOKEN[5:], "://", str(constants.HF_HUB_CACHE)) if part in text]
        assert problems == [], text
        return error
    return None


def run(
    hub: Any,
    action: Callable[[], Any],
    check: Callable[[Case, HubError | None], None],
    rewind: Rewind,
    chosen: Callable[[Case], bool] = lambda case: True,
) -> Counter[str]:
    """Runs every case; counts "success" and "error".

    Args:
        hub: the server.
        action: the operation; runs once without a fault to see its requests.
        check: called after each case with what happened.
        rewind: puts things back before each case.
        chosen: which cases to run, where all take too long.
    """
    rewind()
    assert attempt(action) is None
    counted: Counter[str] = Counter()
    for case in filter(chosen, cases(list(hub.log))):
        rewind()
        case.inject(hub)
        error = attempt(action)
        assert any(item.fault == case.kind for item in hub.log), f"{case} did not happen"
        counted["success" if error is None else "error"] += 1
        hub.faults.clear()
        check(case, error)
    return counted


def leftovers(folder: Path) -> list[str]:
    """Unfinished files of ours and of the client."""
    cache = Path(constants.HF_HUB_CACHE)
    hidden = [str(item) for item in folder.rglob(".*") if item.name != MARKER]
    return hidden + [str(item) for item in cache.rglob("*.incomplete")]
