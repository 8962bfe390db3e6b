"""What a branch of the Hub names at this moment, so that a graph runs again when that changed, and only then.

Asked at the start of every queue, therefore briefly: where the Hub does not answer, what the cache holds counts.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Hashable
from pathlib import Path
from typing import Any

from erase_plugins.errors import EraseError, HubUnreachable

from . import hub
from .wording import in_the_graph

#: most seconds that a queue waits for the Hub
SECONDS = 3.0
#: seconds for which an answer holds (several nodes ask for one queue), and for which a silent Hub is not asked again
FRESH, SILENT = 2.0, 10.0
_ANSWERS: dict[Hashable, tuple[float, Any]] = {}
#: node -> the reference that came over a wire, and how often it changed; ComfyUI hides linked values from `state`
_LINKED: dict[str, tuple[str, int]] = {}


def state(spec: str, offline: bool = False) -> str:
    """A text that changes when a reference names another commit.

    Args:
        spec: "owner/name@revision#members", with or without "hub:".
        offline: look into the cache only.
    """
    if hub.is_pinned(spec):
        return spec
    try:
        source = hub.part("pulling").parse(spec)
    except EraseError:  # the run says what is wrong
        return spec
    commit = None if offline else _asked((source.repo, source.revision), lambda: _commit(source.repo, source.revision))
    return f"{spec} at {commit or cached_commit(source.repo, source.revision) or 'nothing'}"


def found(values: Hashable, search: Callable[[], list[Any]]) -> Any:
    """A text that changes when a search finds other commits; the last one while the Hub does not answer.

    Args:
        values: what is searched for.
        search: `hub_cards.searching.search` for it.
    """
    key = ("found", values)
    before = _ANSWERS.get(("kept", values))
    answer = _asked(key, lambda: "|".join(f"{item.id}@{item.revision}" for item in search()))
    if answer is None:
        return before[1] if before else float("nan")
    _ANSWERS["kept", values] = (time.monotonic(), answer)
    return answer


def came_over_a_wire(node: Any, spec: str) -> None:
    """Remembers what a node was given, for `linked_state`."""
    known, changes = _LINKED.get(str(node), ("", 0))
    _LINKED[str(node)] = (spec, changes + (known != spec))


def linked_state(node: Any, offline: bool = False) -> Any:
    """As `state`, for the reference that came over a wire in the last run; never the same where there was none."""
    if str(node) not in _LINKED:
        return float("nan")
    spec, changes = _LINKED[str(node)]
    return f"{changes}: {state(spec, offline)}"


def cached_commit(repo: str, revision: str | None) -> str | None:
    """The commit that a revision named when it was pulled last; None if it never was."""
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    wanted = revision or "main"
    if ".." in wanted or "\x00" in wanted:
        return None
    home = Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=repo, repo_type="model")
    try:
        return (home / "refs" / wanted).read_text(encoding="utf-8").strip() or None
    except (OSError, UnicodeDecodeError):
        return None


def _commit(repo: str, revision: str | None) -> str:
    from huggingface_hub import HfApi

    with hub.part("errors").reaching("pull from", repo):
        return str(HfApi().model_info(repo, revision=revision, timeout=SECONDS).sha)


def _asked(key: Hashable, ask: Callable[[], str]) -> str | None:
    """The Hub's answer, a refusal of it as text, or None where it kept silent for `SECONDS`.

    The client's own limit does not cover looking up an address, nor an answer that trickles in; so a thread waits.
    """
    when, known = _ANSWERS.get(key, (0.0, None))
    if key in _ANSWERS and time.monotonic() - when < (SILENT if known is None else FRESH):
        return known
    answers: list[str | None] = []

    def work() -> None:
        try:
            answers.append(ask())
        except HubUnreachable:
            answers.append(None)
        except Exception as error:  # a refusal: the node runs again, and tells
            answers.append(f"refused: {in_the_graph(error)}")

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(SECONDS + 1)
    answer = answers[0] if answers else None
    _ANSWERS[key] = (time.monotonic(), answer)
    return answer
