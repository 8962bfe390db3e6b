"""Attacks on an artifact: what of their reports is published, and their numbers on the card.

What was found (a prompt, a learned token) brings the concept back for whoever has it, so it stays at home unless
somebody asks for it to be published; the numbers always go along.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from erase_plugins.evaluation.attack_summary import plain_name
from erase_plugins.evaluation.saved import is_record
from erase_plugins.types import AttackReport
from hub_cards.bundle import PushFile
from hub_cards.escape import Inert, prose

#: where published files with what an attack found lie
FOLDER = "attacks"
_FOUND = re.compile(r"attack-[A-Za-z0-9_-]{1,80}\.(json|txt|safetensors)")
#: fields of a report that cannot hold a prompt
_PLAIN = (
    "schema", "attack", "model", "budget", "artifacts", "erased", "strength", "judge", "judge_hash", "seeds", "queries",
    "passes", "seconds",
)  # fmt: skip
#: a page of ours never calls anything by this word, whoever wrote the report
_PROMISE = re.compile(r"(?i)\bsafe(ly|ty|r|st)?\b")


def of_attack(name: str) -> bool:
    """Whether a file in a repository is a report of an attack, or holds what one found."""
    folder, _, inner = name.rpartition("/")
    return is_record(name) or (folder == FOLDER and _FOUND.fullmatch(inner) is not None)


def found_by(name: str, record: str) -> bool:
    """Whether a file in a repository holds what the attack with this report found."""
    stem = record.removesuffix(".json")
    return name.startswith((f"{FOLDER}/{stem}-", f"{FOLDER}/{stem}."))


def published(report: AttackReport, found: bool) -> dict[str, Any]:
    """The report as it is published: rates, counts and names; with ``found`` all of it.

    The subject of a rate may be the prompt that was found, so it is written anew.
    """
    data = report.to_dict()
    if found:
        return {**data, "files": {}, "attached": {}}
    plain = plain_name(report)
    return {
        **{name: data[name] for name in _PLAIN}, "rows": [] if plain is None else [plain.to_dict()],
        "success": {**data["success"], "subject": "attacked"}, "control": {**data["control"], "subject": "control"},
        "published": "without what was found",
    }  # fmt: skip


def attack_files(reports: Iterable[AttackReport], folder: Path | None, found: bool) -> list[PushFile]:
    """Reports of attacks as files of a push; with ``found`` what they found goes into a folder of its own."""
    files = []
    for report in reports:
        text = json.dumps(published(report, found), indent=2, sort_keys=True)
        files.append(PushFile(f"attack-{report.attack}.json", text.encode()))
        if not found or folder is None:
            continue
        for name in map(str, report.attached):
            mine = _FOUND.fullmatch(name) and name.startswith(f"attack-{report.attack}-")
            if mine and (folder / name).is_file() and not (folder / name).is_symlink():
                files.append(PushFile(f"{FOLDER}/{name}", folder / name))
    return files


def words(text: str) -> Inert:
    """Text of a report on a page of ours, without words that promise."""
    return prose(_PROMISE.sub("***", text))
