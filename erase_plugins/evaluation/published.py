"""The files of reports that go along when something is published, by the names that they have there.

What an attack found (a prompt, a learned token) brings the concept back for whoever has it, so it stays at home unless
somebody asks for it to be published; the numbers always go along.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from erase_plugins.artifacts.artifact import Artifact
from erase_plugins.artifacts.links import is_inside
from erase_plugins.errors import ArtifactError
from erase_plugins.evaluation.attack_summary import without_found
from erase_plugins.evaluation.saved import MOST, REPORT, check_about, is_record, parse, record_name
from erase_plugins.evaluation.sensitive import blurred, is_png
from erase_plugins.types import AttackReport, EvalReport

#: pictures of an evaluation that may be published, by their name in the report
PICTURES = {"contact_sheet": "images/contact_sheet.png", "chart": "images/chart.png"}
#: other pictures that a suite attached to its report
FIGURE = "images/figure-{}"
_FIGURE_NAME = re.compile(r"images/figure-[A-Za-z0-9][A-Za-z0-9_.-]*\.png")
#: where published files with what an attack found lie
FOUND = "attacks"
_FOUND_NAME = re.compile(r"attack-[A-Za-z0-9_-]{1,80}\.(json|txt|safetensors)")


def report_files(
    report: EvalReport | None, folder: Path | None, pictures: bool, blur: bool = False
) -> dict[str, bytes | Path]:
    """The report and its pictures, as far as they are on disk and really are pictures; unrecognisable with ``blur``."""
    if report is None:
        return {}
    text = json.dumps(report.to_dict(), indent=2, sort_keys=True)
    found: dict[str, bytes | Path] = {REPORT: text.encode()}
    if folder is None or not pictures:
        return found
    figures = {key: FIGURE.format(name) for key, name in report.files.items() if key not in PICTURES}
    for key, name in (*PICTURES.items(), *figures.items()):
        place = folder / Path(str(report.files.get(key, ""))).name
        shown = is_picture(name) and place.is_file() and is_inside(place, folder)
        data = place.read_bytes() if shown else b""
        if is_png(data):
            found[name] = blurred(data) if blur else place
    return found


def titles(report: EvalReport | None) -> dict[str, str]:
    """Names of published pictures that have a title -> it."""
    attached = {} if report is None else report.attached
    return {FIGURE.format(name): str(entry.get("title", "")) for name, entry in attached.items()}


def attack_files(reports: Iterable[AttackReport], folder: Path | None, found: bool) -> dict[str, bytes | Path]:
    """Reports of attacks; with ``found`` also what they found, in a folder of its own."""
    files: dict[str, bytes | Path] = {}
    for report in reports:
        data = {**report.to_dict(), "files": {}, "attached": {}} if found else without_found(report)
        name = record_name(report.attack)
        files[name] = json.dumps(data, indent=2, sort_keys=True).encode()
        for other in map(str, report.attached if found and folder is not None else ()):
            place = Path(str(folder)) / other
            mine = _FOUND_NAME.fullmatch(other) and other.startswith(f"{Path(name).stem}-")
            if mine and place.is_file() and not place.is_symlink():
                files[f"{FOUND}/{other}"] = place
    return files


def is_picture(name: str) -> bool:
    """Whether a published file has the name of a picture of a report."""
    return name in PICTURES.values() or _FIGURE_NAME.fullmatch(name) is not None


def is_text(name: str) -> bool:
    """Whether a published file has the name of a report, of an attack's too, or of what one found."""
    folder, _, inner = name.rpartition("/")
    return name == REPORT or is_record(name) or (folder == FOUND and _FOUND_NAME.fullmatch(inner) is not None)


def replaced(new: Mapping[str, str], there: Collection[str]) -> set[str]:
    """Published files that are replaced with others: another report has its own pictures, another attack finds its own.

    Args:
        new: files of a push with their states.
        there: what is published.
    """
    found = set() if new.get(REPORT, "same") == "same" else set(filter(is_picture, there))
    for name in (name for name, state in new.items() if is_record(name) and state != "same"):
        stem = f"{FOUND}/{name.removesuffix('.json')}"
        found |= {other for other in there if other.startswith((f"{stem}-", f"{stem}."))}
    return found


def read_back(names: Collection[str], text: Callable[[str], str], artifact: Artifact) -> dict[str, Any]:
    """Of published files, what is sound and about an artifact: its ``report``, ``pictures`` and ``attacks`` by id.

    Args:
        names: what is published.
        text: reads such a file.
        artifact: what they have to be about.
    """
    pictures = (*PICTURES.values(), *sorted(filter(is_picture, names)))  # in the order of the page
    shown = tuple(dict.fromkeys(item for item in pictures if item in names))
    found: dict[str, Any] = {"pictures": shown, "attacks": {}}
    with suppress(ValueError, TypeError, KeyError, AttributeError, RecursionError):
        report = EvalReport.from_dict(json.loads(text(REPORT) if REPORT in names else ""))
        if not report.artifacts or artifact.manifest.name in report.artifacts:
            found["report"] = report
    for name in sorted(filter(is_record, names))[:MOST]:
        with suppress(ArtifactError):
            attack = parse(name, text(name))
            check_about([attack], artifact)
            found["attacks"][attack.attack] = attack
    return found
