"""Reports that lie on a disk, of an evaluation and of attacks beside it; whoever wrote them, nothing is believed."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from erase_plugins.artifacts.artifact import Artifact
from erase_plugins.artifacts.lineage import bears
from erase_plugins.errors import ArtifactError, EraseError
from erase_plugins.evaluation.attack_summary import sound
from erase_plugins.hints import Command
from erase_plugins.types import AttackReport, EvalReport

REPORT = "report.json"
#: what an attack writes
_RECORD = re.compile(r"attack-([a-z0-9][a-z0-9-]{0,60})\.json")
#: larger files are no reports; more of them are no page
_BYTES, MOST = 8 << 20, 40


def read_report(source: EvalReport | str | Path | None) -> tuple[EvalReport | None, Path | None]:
    """A report and the folder its pictures are in; no report if the folder holds reports of attacks only.

    Args:
        source: a report, a report.json, the folder it is in, or None.

    Raises:
        ArtifactError: not there, or no report.
    """
    if source is None or isinstance(source, EvalReport):
        return source, None
    place = Path(source)
    if place.is_dir() and not (place / REPORT).exists() and any(place.glob("attack-*.json")):
        return None, place
    place = place / REPORT if place.is_dir() else place
    try:
        return EvalReport.from_dict(json.loads(place.read_text(encoding="utf-8"))), place.parent
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise ArtifactError(
            f"'{place.name}' is not a report; give what ",
            Command("evaluate --out", "'erase-plugins evaluate --out'"),
            " wrote",
        ) from error


def record_name(attack: str) -> str:
    """File name of an attack's report, by its id; each attack has its own, so that several fit into one folder."""
    return f"attack-{attack}.json"


def is_record(name: str) -> bool:
    """Whether a file has the name of a report of an attack."""
    return _RECORD.fullmatch(name) is not None


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


def read_about(
    source: EvalReport | str | Path | None, artifact: Artifact, attacks: Iterable[AttackReport] | None = None
) -> tuple[EvalReport | None, tuple[AttackReport, ...], Path | None]:
    """A report and those of attacks, all about an artifact, and their folder.

    Args:
        source: as for `read_report`.
        artifact: what they have to be about.
        attacks: instead of those that lie beside the report.

    Raises:
        ArtifactError: not there, no report, or about another artifact.
    """
    report, folder = read_report(source)
    found = read_attacks(source)[0] if attacks is None else tuple(attacks)
    check_about([*found, *([] if report is None else [report])], artifact)
    return report, found, folder


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
        told = () if name in str(error) else (f"'{name}' is no report of an attack: ",)
        raise ArtifactError(*told, error) from error
    except (ValueError, TypeError, AttributeError, KeyError, RecursionError) as error:
        raise ArtifactError(
            f"'{name}' is no report of an attack; give what ",
            Command("attack --out", "'erase-plugins attack --out'"),
            " wrote",
        ) from error
    if found.attack != record_id(name):
        raise ArtifactError(f"'{name}' is about another attack than its name says")
    return found


def record_id(name: str) -> str:
    """The attack in the name of a report; empty if it is none."""
    match = _RECORD.fullmatch(name)
    return match[1] if match else ""


def check_about(reports: Iterable[EvalReport | AttackReport], artifact: Artifact) -> None:
    """Refuses reports about other artifacts, also about one of the same name: a name says the concept only.

    Raises:
        ArtifactError: names the first.
    """
    name = artifact.manifest.name
    for report in reports:
        what = record_name(report.attack) if isinstance(report, AttackReport) else "the report"
        if report.artifacts and name not in report.artifacts:
            raise ArtifactError(f"{what} is about {', '.join(report.artifacts)[:80]}, not about '{name}'")
        if report.weights and not bears(artifact, report.weights):
            raise ArtifactError(
                f"{what} measured other weights that are called '{name}' too; measure this artifact and give "
                "what that writes"
            )
