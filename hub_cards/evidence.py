"""Evidence: reports of an evaluation and of attacks, as files of a repository and as numbers on a page.

What an attack found (a prompt, a learned token) brings the concept back for whoever has it, so it stays at home unless
somebody asks for it to be published; the numbers always go along.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub.repocard_data import EvalResult, eval_results_to_model_index

from erase_plugins.artifacts.links import is_inside
from erase_plugins.evaluation.attack_summary import without_found
from erase_plugins.evaluation.saved import REPORT, is_record, record_name
from erase_plugins.evaluation.sensitive import blurred, is_png
from erase_plugins.evaluation.wording import CONTROLS, DRAWS, WORDS, called, what_is_done, words_of
from erase_plugins.markdown import Inert, flat, listed, prose
from erase_plugins.types import AttackReport, EvalReport
from erase_plugins.workflow import pairs
from hub_cards.bundle import PushFile

#: pictures of an evaluation that may be published, by their name in the report
PICTURES = {"contact_sheet": "images/contact_sheet.png", "chart": "images/chart.png"}
#: other pictures that a suite attached to its report
FIGURE = "images/figure-{}"
_FIGURE_NAME = re.compile(r"images/figure-[A-Za-z0-9][A-Za-z0-9_.-]*\.png")
#: where published files with what an attack found lie
_FOUND_FOLDER = "attacks"
_FOUND = re.compile(r"attack-[A-Za-z0-9_-]{1,80}\.(json|txt|safetensors)")
#: folders of evidence; others are of a collection's artifacts
_FOLDERS = (f"{pairs.FOLDER}/", f"{_FOUND_FOLDER}/")
#: metric -> what the first sentence calls it
_TOLD = {"target_rate": None, "synonym_rate": "synonyms", "kept_rate": "other concepts", "forget_key": None,
         "retain_key": "others"}  # fmt: skip
#: one of these is in the name of a metric or subject that was measured under attack
_ATTACKED = ("attack", "mia", "probe", "relearned", "drawn_key", "int4_", "int8_")
#: a page of ours never calls anything by this word, whoever wrote the report
_PROMISE = re.compile(r"(?i)\bsafe(ly|ty|r|st)?\b")


def report_files(report: EvalReport | None, folder: Path | None, pictures: bool, blur: bool = False) -> list[PushFile]:
    """The report and its pictures, as far as they are on disk and really are pictures; unrecognisable with ``blur``."""
    if report is None:
        return []
    text = json.dumps(report.to_dict(), indent=2, sort_keys=True)
    found = [PushFile(REPORT, text.encode())]
    if folder is None or not pictures:
        return found
    figures = {key: FIGURE.format(name) for key, name in report.files.items() if key not in PICTURES}
    for key, name in (*PICTURES.items(), *figures.items()):
        place = folder / Path(str(report.files.get(key, ""))).name
        shown = is_picture(name) and place.is_file() and is_inside(place, folder)
        data = place.read_bytes() if shown else b""
        if is_png(data):
            found.append(PushFile(name, blurred(data) if blur else place))
    return found


def is_picture(name: str) -> bool:
    """Whether a file in a repository has the name of a picture of a report."""
    return name in PICTURES.values() or _FIGURE_NAME.fullmatch(name) is not None


def attack_files(reports: Iterable[AttackReport], folder: Path | None, found: bool) -> list[PushFile]:
    """Reports of attacks as files of a push; with ``found`` what they found goes into a folder of its own."""
    files = []
    for report in reports:
        data = {**report.to_dict(), "files": {}, "attached": {}} if found else without_found(report)
        name = record_name(report.attack)
        files.append(PushFile(name, json.dumps(data, indent=2, sort_keys=True).encode()))
        for other in map(str, report.attached if found and folder is not None else ()):
            place = Path(str(folder)) / other
            mine = _FOUND.fullmatch(other) and other.startswith(f"{Path(name).stem}-")
            if mine and place.is_file() and not place.is_symlink():
                files.append(PushFile(f"{_FOUND_FOLDER}/{other}", place))
    return files


def is_text(name: str) -> bool:
    """Whether a file in a repository has the name of a report, of an attack's too, or of what one found."""
    folder, _, inner = name.rpartition("/")
    return name == REPORT or is_record(name) or (folder == _FOUND_FOLDER and _FOUND.fullmatch(inner) is not None)


def folder_of(name: str) -> str:
    """The member of a collection whose folder a file is in; empty if it is about the whole repository."""
    return "" if name.startswith(_FOLDERS) else name.rpartition("/")[0].split("/")[0]


def is_evidence(name: str, folders: bool = False) -> bool:
    """Whether a file has the name of a report, its pictures or pairs; with ``folders`` also in an artifact's folder."""
    inner = name.removeprefix(f"{folder_of(name)}/") if folders else name
    return is_text(inner) or is_picture(inner) or pairs.of_gallery(inner)


def replaced(new: Mapping[str, str], evidence: set[str]) -> set[str]:
    """Names of evidence that is replaced: another report has its own pictures, new pairs are all the pairs.

    Args:
        new: files of a push with their states.
        evidence: what is published.
    """
    found = set() if new.get(REPORT, "same") == "same" else set(filter(is_picture, evidence))
    for stem in (f"{_FOUND_FOLDER}/{Path(name).stem}" for name in new if is_record(name) and new[name] != "same"):
        found |= {name for name in evidence if name.startswith((f"{stem}-", f"{stem}."))}
    return found | (set(filter(pairs.of_gallery, evidence)) if pairs.INDEX in new else set())


def words(text: str) -> Inert:
    """Text of a report on a page of ours, without words that promise."""
    return prose(_PROMISE.sub("***", text))


def numbers(
    report: EvalReport | None, attacks: Sequence[AttackReport], erased: Sequence[str], task: str = DRAWS
) -> dict[str, Any]:
    """What a page says of an evaluation and of attacks on a model that does ``task``."""
    rows = {(row.metric, row.subject): row for row in (report.rows if report else ())}
    words = words_of(report.suite if report else "", task)
    metrics = list(dict.fromkeys([*words, *(metric for metric, _ in rows)]))
    controls = list(dict.fromkeys(subject for _, subject in rows if subject not in ("base", "edited")))
    named = {metric: name or listed(erased, 2) for metric, name in _TOLD.items() if (metric, "edited") in rows}
    above = [item for item in attacks if item.success.low > item.control.high]  # the intervals do not touch
    return what_is_done(task) | {
        "report": report, "measured": bool(rows), "rows": rows, "controls": controls, "known_controls": CONTROLS,
        "words": {name: called(name, words) for name in metrics}, "metrics": metrics, "judged_pictures": words is WORDS,
        "controlled": [name for name in metrics if any((name, control) in rows for control in controls)],
        "attacked": any(part in f"{metric} {subject}" for metric, subject in rows for part in _ATTACKED),
        "attacks": attacks, "notes": {metric: row.note for (metric, _), row in rows.items() if row.note},
        "told": [(name, rows.get((metric, "base")), rows[metric, "edited"]) for metric, name in named.items()],
        "back": sorted(above, key=lambda item: -item.success.value),
    }  # fmt: skip


def model_index(name: str, report: EvalReport, task: str) -> list[dict[str, Any]] | None:
    """The report's numbers after erasing, in the form that the Hub shows; ``task`` is what the model does."""
    words, suite = words_of(report.suite, task), flat(report.suite)
    results = [
        EvalResult(
            flat(task), f"erase-plugins-{suite}", f"erase-plugins suite {suite}", flat(row.metric), row.value,
            metric_name=called(flat(row.metric), words) + (f" ({flat(row.note)})" if row.note else ""),
        ) for row in report.rows if row.subject == "edited"
    ]  # fmt: skip
    return eval_results_to_model_index(name, results) if results else None
