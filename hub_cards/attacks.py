"""Attacks on an artifact: their reports beside its own, what of them is published, and their table on the card.

What was found (a prompt, a learned token) brings the concept back for whoever has it, so it stays at home unless
somebody asks for it to be published; the numbers always go along.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from erase_plugins.errors import ArtifactError, EraseError
from erase_plugins.evaluation.attack_summary import plain_name, sound
from erase_plugins.types import AttackReport, EvalRow
from hub_cards.bundle import PushFile
from hub_cards.escape import prose
from hub_cards.evidence import MISSING

#: what an attack writes, and where published files with what it found lie
_RECORD = re.compile(r"attack-([a-z0-9][a-z0-9-]{0,60})\.json")
FOLDER = "attacks"
_FOUND = re.compile(r"attack-[A-Za-z0-9_-]{1,80}\.(json|txt|safetensors)")
#: fields of a report that cannot hold a prompt
_PLAIN = (
    "schema", "attack", "model", "budget", "artifacts", "erased", "strength", "judge", "judge_hash", "seeds", "queries",
    "passes", "seconds",
)  # fmt: skip
#: larger files are no reports; more of them are no page
_BYTES, MOST = 8 << 20, 40
#: a page of ours never calls anything by this word, whoever wrote the report
_PROMISE = re.compile(r"(?i)\bsafe(ly|ty|r|st)?\b")


def is_record(name: str) -> bool:
    """Whether a file has the name of a report of an attack."""
    return _RECORD.fullmatch(name) is not None


def of_attack(name: str) -> bool:
    """Whether a file in a repository is a report of an attack, or holds what one found."""
    folder, _, inner = name.rpartition("/")
    return is_record(name) or (folder == FOLDER and _FOUND.fullmatch(inner) is not None)


def found_by(name: str, record: str) -> bool:
    """Whether a file in a repository holds what the attack with this report found."""
    stem = record.removesuffix(".json")
    return name.startswith((f"{FOLDER}/{stem}-", f"{FOLDER}/{stem}."))


def read_attacks(source: Any) -> tuple[tuple[AttackReport, ...], Path | None]:
    """Reports of attacks that lie beside a report, and their folder.

    Args:
        source: what was given as report: a folder, a report.json, a record, or None.

    Raises:
        ArtifactError: a file with the name of such a report is none.
    """
    if not isinstance(source, str | Path):
        return (), None
    folder = Path(source) if Path(source).is_dir() else Path(source).parent
    try:
        names = sorted(item.name for item in folder.iterdir() if is_record(item.name) and item.is_file())
    except OSError:
        return (), None
    found = []
    for name in names:
        if _found_file(folder, name, names):
            continue
        if (folder / name).stat().st_size > _BYTES:
            raise ArtifactError(f"'{name}' is too large for a report of an attack")
        found.append(parse(name, (folder / name).read_bytes()))
    if len(found) > MOST:
        raise ArtifactError(f"'{folder.name}' holds {len(found)} reports of attacks; a page shows at most {MOST}")
    return tuple(found), folder


def _found_file(folder: Path, name: str, names: Sequence[str]) -> bool:
    """Whether it is what another attack found (attack-ID-found.json), not a report."""
    return any(name != other and name.startswith(other.removesuffix(".json") + "-") and not _has_rates(folder / name)
               for other in names)  # fmt: skip


def _has_rates(place: Path) -> bool:
    try:
        data = json.loads(place.read_bytes()[: _BYTES + 1])
    except ValueError:
        return True  # told as damaged later
    return isinstance(data, dict) and "success" in data


def parse(name: str, data: bytes | str) -> AttackReport:
    """A report of an attack from a file of any origin.

    Raises:
        ArtifactError: it is none, or about another attack than its name says.
    """
    try:
        found = sound(AttackReport.from_dict(json.loads(data)), name)
    except EraseError as error:
        told = str(error)
        raise ArtifactError(told if name in told else f"'{name}' is no report of an attack: {told}") from error
    except (ValueError, TypeError, AttributeError, KeyError, RecursionError) as error:
        raise ArtifactError(
            f"'{name}' is no report of an attack; give what 'erase-plugins attack --out' wrote"
        ) from error
    if found.attack != record_id(name):
        raise ArtifactError(f"'{name}' is about another attack than its name says")
    return found


def record_id(name: str) -> str:
    """The attack in the name of a report; empty if it is none."""
    match = _RECORD.fullmatch(name)
    return match[1] if match else ""


def check_about(reports: Iterable[AttackReport], name: str) -> None:
    """Refuses reports about other artifacts.

    Raises:
        ArtifactError: names the first.
    """
    for report in reports:
        if report.artifacts and name not in report.artifacts:
            raise ArtifactError(
                f"attack-{report.attack}.json is about {', '.join(report.artifacts)[:80]}, not about '{name}'"
            )


def published(report: AttackReport, found: bool) -> dict[str, Any]:
    """The report as it is published: rates, counts and names; with ``found`` all of it."""
    data = report.to_dict()
    if found:
        return {**data, "files": {}, "attached": {}}
    plain = plain_name(report)
    rows = [] if plain is None else [_withoutwords(plain, plain.subject)]
    return {
        **{name: data[name] for name in _PLAIN}, "rows": rows,
        "success": _withoutwords(report.success, "attacked"), "control": _withoutwords(report.control, "control"),
        "published": "without what was found",
    }  # fmt: skip


def _withoutwords(row: EvalRow, subject: str) -> dict[str, Any]:
    """The numbers of a row; its subject may be the prompt that was found."""
    return {**row.to_dict(), "subject": subject}


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


def section(reports: Sequence[AttackReport]) -> str:
    """The table of attacks: how often the concept came back, beside a control."""
    lines = [
        "Somebody tried to bring the concept back, within a budget. A control is the same attempt where nothing can be "
        "found; only what is above it was brought back. Attacks that are not listed were not tried.",
        "",
        "| attack | budget | plain name -> attacked | control | pictures, passes |",
        "|---|---|---|---|---|",
    ]
    for report in sorted(reports, key=lambda item: item.attack):
        plain = plain_name(report)
        before = MISSING if plain is None else _share(plain)
        spent = f"{report.queries}, {report.passes}"
        cells = (words(report.attack), words(report.budget), f"{before} -> {_share(report.success)}",
                 _share(report.control), spent)  # fmt: skip
        lines.append("| " + " | ".join(cells) + " |")
    lines += ["", "Shares of pictures with 95 % intervals. Raw values: `attack-NAME.json` (and "
              f"`{FOLDER}/`, if what was found is published)."]  # fmt: skip
    return "\n".join(lines)


def _share(row: EvalRow) -> str:
    return f"{100 * row.value:.0f} % ({100 * row.low:.0f} to {100 * row.high:.0f}, n = {row.n})"


def words(text: str) -> str:
    """Text of a report on a page of ours, without words that promise."""
    return prose(_PROMISE.sub("***", text))


def merged(new: Iterable[AttackReport], kept: Mapping[str, AttackReport]) -> tuple[AttackReport, ...]:
    """Reports that a page shows: those that are brought, and those that stay published."""
    return tuple({**kept, **{report.attack: report for report in new}}.values())
