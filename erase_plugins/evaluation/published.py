"""The files of reports that go along when something is published, by the names that they have there.

What an attack found (a prompt, a learned token) brings the concept back for whoever has it, so it stays at home unless
somebody asks for it to be published; the numbers always go along.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path

from erase_plugins.artifacts.links import is_inside
from erase_plugins.evaluation.attack_summary import without_found
from erase_plugins.evaluation.saved import REPORT, is_record, record_name
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
