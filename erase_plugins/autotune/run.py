"""``auto``: search, show the trade-off, take a point, write the artifact."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from erase_plugins.artifacts.artifact import Artifact
from erase_plugins.artifacts.atomic import atomic_file
from erase_plugins.artifacts.locks import claim, locked
from erase_plugins.artifacts.places import mark, written_files
from erase_plugins.autotune.front import markdown, picture
from erase_plugins.autotune.job import Host, Job
from erase_plugins.autotune.search import Budget, Progress, Search
from erase_plugins.autotune.space import ANCHORS, Start, find_starts, room_of
from erase_plugins.autotune.trials import (
    LAYOUTS,
    Row,
    counting,
    doubt_of,
    front_of,
    knee_of,
    open_study,
    refusals_of,
    rows_of,
)
from erase_plugins.concept_text import one_phrase
from erase_plugins.errors import ArtifactError, MissingExtra, RequestError
from erase_plugins.families.loading import AUTO
from erase_plugins.given import checked
from erase_plugins.hints import ANOTHER_OUT, Hint
from erase_plugins.manager import get_manager
from erase_plugins.types import Concept, EraseRequest
from erase_plugins.workflow.models import as_target, dtype_of, find_model

STUDY, TABLE, PICTURE, DATA = "study.journal", "front.md", "front.png", "front.json"
#: folder of the edits of the best trials, in that of a search
EDITS = ".edits"
#: kind of the folder of a search
KIND = "search"
COSTS = ("size", "time")


@dataclass(frozen=True)
class AutoResult:
    """What a search found.

    Attributes:
        artifact: the point that was taken, saved if a folder was given.
        front: trials that no other beats, in their order.
        taken: the one that the artifact is.
        base: what the unchanged model gives, as in ``parts`` of a row.
        trials: number of finished trials.
        refused: settings that did not work, with the reason.
        left_out: methods that took no part -> why.
        doubt: what to know if even the point taken is no good; "" otherwise.
        stopped: why the search ended.
        seconds: of work, of processor time on a CPU.
        files: names of what is in the search's folder.
    """

    artifact: Artifact
    front: tuple[Row, ...]
    taken: Row
    base: Mapping[str, float]
    trials: int
    refused: tuple[tuple[str, str], ...]
    stopped: str
    seconds: float
    files: tuple[str, ...] = ()
    left_out: Mapping[str, str] = field(default_factory=dict)
    doubt: str = ""

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready, without the artifact."""
        return {
            "front": [row.to_dict() for row in self.front], "taken": self.taken.number, "base": dict(self.base),
            "trials": self.trials, "stopped": self.stopped, "seconds": round(self.seconds, 1),
            "refused": [{"label": label, "reason": reason} for label, reason in self.refused],
            "left_out": dict(self.left_out), "doubt": self.doubt, "files": list(self.files),
        }  # fmt: skip


def search_folder(out: str | Path) -> Path:
    """Where the search for an artifact folder is kept, beside it."""
    return Path(out).with_name(f"{Path(out).name}-search")


@checked
def auto(
    model: Any,
    concept: str | Concept,
    *,
    methods: Sequence[str] = (),
    to: Sequence[str] | str = (),
    also: Sequence[str] = (),
    keep: Sequence[str] = (),
    kind: str = "object",
    minutes: float = 5.0,
    trials: int | None = None,
    images: int = 8,
    cost: str = "size",
    pick: int | None = None,
    seed: int = 0,
    revision: str | None = None,
    dtype: str = AUTO,
    device: str = "cpu",
    out: str | Path | None = None,
    search: str | Path | None = None,
    layouts: Sequence[str] = (),
    force: bool = False,
    progress: Progress = lambda *_: None,
    host: Host | None = None,
) -> AutoResult:
    """Searches method and settings for one concept, takes the knee of the trade-off and writes it as an artifact.

    Args:
        model: "pocket", a path, a Hub id, a loaded pipeline or a `Model`.
        concept: what to erase; the anchor of a `Concept` is kept in all trials.
        methods: ids to search among; all that fit if empty.
        to: what the concept may become, besides each method's own choice.
        also: other words for it and descriptions that must be gone too; whether a method is told them is searched.
        keep: prompts that must stay.
        kind: kind of a concept given as text.
        minutes: budget, of processor time on a CPU; what cannot finish in it is not started.
        trials: end after so many trials.
        images: pictures for each kind of prompt, where a judge knows the concept.
        cost: the third number: "size" of the edit, or "time" that the method says that it takes.
        pick: take this trial of a finished search instead; nothing is searched.
        seed: of everything random.
        revision, dtype, device: how to load a model that is given by name.
        out: artifact folder; None keeps everything in memory.
        search: folder of the search, which goes on where it stopped; ``out`` with "-search" if None.
        layouts: file layouts to write; edits are measured as these hold them, and what one cannot carry is not taken.
        force: replace an artifact that was written at ``out`` earlier.
        progress: called with (settings, trials done, trials at most or 0); what it raises ends the search.
        host: how a model that is no pipeline's is measured and stopped.

    Raises:
        MissingExtra: optuna is not installed.
        EraseError: a wrong request, no method that fits, or a place that may not be written.
    """
    _check(minutes, trials, images, cost)
    info, dtype, where = _base(model, revision, dtype, device)
    clock = time.process_time if where.startswith("cpu") else time.perf_counter  # an accelerator works beside
    began = clock()
    base = _request(model, concept, keep, kind, seed, revision, dtype, where)
    starts, reasons = _starts(base, info, methods, to, also, layouts)
    folder = None if out is None else Path(out)
    place = search_folder(folder) if folder is not None and search is None else search
    place = None if place is None else Path(place)
    if pick is not None and place is None:
        raise RequestError("pick takes a trial of an earlier search; say where it is with out or search")
    with ExitStack() as stack:
        if folder is not None:
            stack.enter_context(claim(folder, force))
        if place is not None:
            if pick is not None and not (place / STUDY).is_file():
                raise RequestError(
                    f"no search is at '{place.name}'; ", Hint("pick", before="leave", after="out"), " to begin one"
                )
            stack.enter_context(locked(place))
            _prepare(place)
        target = as_target(model, revision=revision, dtype=dtype, device=device)
        asked = _asked(base, target, starts, to, also, images, cost, layouts)
        study = open_study(None if place is None else place / STUDY, asked, () if pick is None else (LAYOUTS,))
        starts = _as_begun(study, starts)
        job = Job(base, target, tuple(also), tuple(keep), images, cost, layouts, place and place / EDITS, host=host)
        stopped = "a trial was picked"
        if pick is None:
            budget = Budget(60.0 * minutes, trials)
            runner = Search(study, starts, job.try_out, budget, seed, clock, began, progress, job.at_hand)
            if place is not None:
                stack.callback(_seal, place)
            job.base_parts(study)  # refuses what the base does not draw, before any trial
            job.measure_base()
            runner.opened()
            job.over = runner.over
            stopped = runner.run()
        rows = rows_of(study)
        if not rows:
            reason = next((text for _, text in refusals_of(study)), "the time was up before one was done")
            raise RequestError(f"no trial worked: {reason}; give more ", Hint("minutes"), " or other ", Hint("methods"))
        front = front_of(rows)
        taken = knee_of(front) if pick is None else _picked(rows, pick)
        result = AutoResult(
            job.artifact(taken.settings), tuple(front), taken, job.base_parts(study), len(rows),
            tuple(refusals_of(study)), stopped, sum(row.seconds for row in rows), left_out=reasons,
            doubt=doubt_of(taken),
        )  # fmt: skip
        return _keep(result, rows, base.concepts[0].text, cost, folder, place, layouts, target, force)


def preview(
    model: Any, concept: str | Concept, *, methods: Sequence[str] = (), to: Sequence[str] | str = (),
    also: Sequence[str] = (), keep: Sequence[str] = (), kind: str = "object", seed: int = 0,
    revision: str | None = None, dtype: str = AUTO, device: str = "cpu", layouts: Sequence[str] = (),
) -> tuple[list[Start], dict[str, str]]:  # fmt: skip
    """Where `auto` with the same arguments would begin, and why other methods take no part; loads no weights."""
    info, dtype, where = _base(model, revision, dtype, device)
    base = _request(model, concept, keep, kind, seed, revision, dtype, where)
    return _starts(base, info, methods, to, also, layouts)


def _check(minutes: float, trials: int | None, images: int, cost: str) -> None:
    if not (math.isfinite(minutes) and minutes > 0):
        raise RequestError(f"minutes {minutes} is no time to search in; give a number above 0")
    if trials is not None and trials < 1:
        raise RequestError(f"trials {trials}: at least one is needed")
    if images < 1:
        raise RequestError(f"images {images}: at least one is needed")
    if cost not in COSTS:
        raise RequestError(f"cost '{cost}' is not known; choose one of {', '.join(COSTS)}")


def _base(model: Any, revision: str | None, dtype: str, device: str) -> tuple[Any, str, str]:
    """What is known of a model, its precision, and where it is or will be."""
    if isinstance(model, str | Path):
        found = find_model(str(model), revision)
        return found.info, found.precision(dtype, device), device
    target = as_target(model)
    return target.info, dtype_of(target), str(target.device)


def _request(
    model: Any, concept: str | Concept, keep: Sequence[str], kind: str, seed: int, revision: str | None,
    dtype: str, device: str,
) -> EraseRequest:  # fmt: skip
    item = concept if isinstance(concept, Concept) else Concept(one_phrase(concept), kind)
    return EraseRequest(
        model=str(model) if isinstance(model, str | Path) else "pipeline", forget=(item,), method="auto",
        retain=tuple(keep), revision=revision, seed=seed, dtype=dtype, device=device,
    )  # fmt: skip


def _starts(
    base: EraseRequest, info: Any, methods: Sequence[str], to: Sequence[str] | str, also: Sequence[str],
    layouts: Sequence[str],
) -> tuple[list[Start], dict[str, str]]:  # fmt: skip
    """As `find_starts`, in seconds of the clock that the budget is told by."""
    from torch import get_num_threads

    for name in layouts:
        get_manager().layout(name)
    wanted = [to] if isinstance(to, str) else list(to)
    becomes = base.concepts[0].anchor
    if wanted and becomes is not None:
        raise RequestError(
            f"the concept becomes '{becomes}' by its own words, and ", Hint("to"), " says more; drop one"
        )
    taken = wanted or ANCHORS.get(base.concepts[0].kind, ())
    starts, reasons = find_starts(base, info, methods, taken, also, layouts, room_of(base, info))
    threads = get_num_threads() if base.device.startswith("cpu") else 1  # processor time counts each
    return [replace(start, seconds=threads * start.seconds) for start in starts], reasons


def _as_begun(study: Any, starts: Sequence[Start]) -> list[Start]:
    """The starts as they were estimated and ordered when the search began: what is kept since makes some shorter."""
    begun = study.user_attrs.get("estimates")
    if begun is None:
        begun = {start.name: start.seconds for start in starts}
        study.set_user_attr("estimates", begun)
    return sorted((replace(start, seconds=begun[start.name]) for start in starts), key=lambda start: start.order)


def _asked(
    base: EraseRequest, target: Any, starts: Sequence[Start], to: Sequence[str] | str, also: Sequence[str],
    images: int, cost: str, layouts: Sequence[str],
) -> dict[str, Any]:  # fmt: skip
    """What a search must have in common with the one that goes on from it."""
    (concept,) = base.concepts
    return {
        "concept": concept.text, "kind": concept.kind, "anchor": [] if concept.anchor is None else [concept.anchor],
        "keep": list(base.preserve), "to": list(to), "also": list(also),
        "images": images, "cost": cost, "seed": base.seed, "starts": sorted(start.name for start in starts),
        "base": {name: item.short for name, item in target.fingerprint().items()}, LAYOUTS: sorted(layouts),
    }  # fmt: skip


def _picked(rows: Sequence[Row], number: int) -> Row:
    for row in rows:
        if row.number == number:
            return row
    known = ", ".join(str(row.number) for row in front_of(rows))
    raise RequestError(f"no finished trial has the number {number}; the front has {known}")


def _keep(
    result: AutoResult, rows: Sequence[Row], concept: str, cost: str, folder: Path | None, place: Path | None,
    layouts: Sequence[str], target: Any, force: bool,
) -> AutoResult:  # fmt: skip
    """Writes front and artifact."""
    facts = {name: value for name, value in result.to_dict().items() if name not in ("files", "refused", "left_out")}
    manifest = result.artifact.manifest
    warnings = (*manifest.warnings, *([result.doubt] if result.doubt else []))
    told_of = replace(manifest, extra={**manifest.extra, "auto": facts}, warnings=warnings)
    artifact = Artifact(told_of, result.artifact.edit)
    files = []
    if place is not None:
        told = f"{counting(result.trials)} done in {result.seconds:.0f} s; the search ended because {result.stopped}."
        with atomic_file(place / TABLE) as work:
            title = f"'{concept}' erased"
            work.write_text(
                markdown(title, rows, result.front, result.taken, result.base, cost, told), encoding="utf-8"
            )
        with atomic_file(place / DATA) as work:
            text = json.dumps({**result.to_dict(), "all": [row.to_dict() for row in rows]}, indent=1, sort_keys=True)
            work.write_text(text + "\n", encoding="utf-8")
        files = [TABLE, DATA, STUDY]
        try:
            picture(f"'{concept}' erased: lower left is better", rows, result.front, result.taken, place / PICTURE)
            files.append(PICTURE)
        except MissingExtra:
            pass  # the command line says so
        _seal(place)
    if folder is not None:
        artifact = artifact.save(folder, layouts, target, force)
    return replace(result, artifact=artifact, files=tuple(files))


def _prepare(place: Path) -> None:
    """Makes the folder of a search, or refuses one that is somebody else's."""
    if place.is_dir() and any(place.iterdir()):
        kind, _ = written_files(place)
        if kind != KIND:
            raise ArtifactError(
                f"'{place.name}' is no folder of a search; choose ", ANOTHER_OUT, ", or ", Hint("search")
            )
        return
    place.mkdir(parents=True, exist_ok=True)
    _seal(place)


def _seal(place: Path) -> None:
    """Writes the marker that tells whose the folder is."""
    mark(place, KIND)
