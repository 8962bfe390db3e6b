"""Carries a remedy out. Killed at any moment, the same call goes on: with a checkpoint, or with what was made already.

The ledger says that an attempt begins before any work, and what it made when all of it is on disk.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from erase_plugins.artifacts.chain import canonical
from erase_plugins.errors import RequestError, RunRefused, Unsupported
from erase_plugins.families.loading import AUTO
from erase_plugins.hints import Hint
from erase_plugins.manager import get_manager
from erase_plugins.requests.case import Case, Ledger
from erase_plugins.requests.discreet import Discretion
from erase_plugins.requests.guarding import write_guard
from erase_plugins.requests.intake import recognise
from erase_plugins.requests.sharing import anonymous
from erase_plugins.requests.states import BEFORE
from erase_plugins.requests.store import Desk
from erase_plugins.types import DataRef, EraseRequest, ForgetItem
from erase_plugins.workflow.remedies import GUARD, RECORDS, item_kind
from erase_plugins.workflow.request_plan import called, family_of, next_remedy

if TYPE_CHECKING:
    from erase_plugins.artifacts.artifact import Artifact


#: errors that the same call would meet again; everything else (a cancel, a Hub that is not reached) may pass
_REFUSALS = (RequestError, RunRefused, Unsupported)


@dataclass(frozen=True)
class Work:
    """What a run needs besides the request; none of it is kept but the seed and hashes.

    Attributes:
        model, revision, dtype, device: the model, as it was planned.
        subjects: the names, the same as at the intake.
        forget: data of what is forgotten, the same as at the intake if some came with it.
        retain: prompts that stay as they are.
        retain_data: data that stay as they are.
        to: what the subject becomes; the method chooses if None.
        method: another remedy of the plan than the next one.
        options: of the method.
        seed: of everything random.
    """

    model: str
    subjects: tuple[str, ...]
    forget: str | None = None
    retain: tuple[str, ...] = ()
    retain_data: tuple[str, ...] = ()
    to: str | None = None
    method: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0
    revision: str | None = None
    dtype: str = AUTO
    device: str = "cpu"


def folder_of(desk: Desk, case: Case, attempt: int | None = None) -> Path:
    """Where an attempt keeps what it makes."""
    return desk.folder / f"{case.id}-{case.attempt if attempt is None else attempt}"


def run_case(
    desk: Desk, name: str, work: Work, *, role: str = "operator", dry_run: bool = False, listeners: Sequence[Any] = (),
    prepare: Callable[[], object] | None = None,
) -> tuple[Case, Ledger]:  # fmt: skip
    """Carries out the next remedy of a request, or goes on with the one that was interrupted.

    Args:
        desk, name: which request.
        work: what it needs.
        role: who runs it.
        dry_run: plan only; nothing is loaded, written or entered.
        listeners: told of the progress, without names.
        prepare: called once nothing speaks against the run any more, before anything is loaded.

    Raises:
        RequestError: other names or data than at the intake, another model than planned, or nothing may run now.
        EraseError: what the method raises, without names. Where it refused what it was given, the request is "refused",
            and another call begins a new attempt; else it stays "running", and the same call goes on.
    """
    case = desk.ledger().case(name)
    names = recognise(desk, case, work.subjects, work.forget)
    with Discretion([*names, *work.subjects]).quiet():
        return _run(desk, case, replace(work, subjects=tuple(names)), role, dry_run, listeners, prepare)


def _run(
    desk: Desk, case: Case, work: Work, role: str, dry_run: bool, listeners: Sequence[Any],
    prepare: Callable[[], object] | None,
) -> tuple[Case, Ledger]:  # fmt: skip
    resumed = case.state == "running"
    if not resumed:
        case.require("started", f"it can run when it is {' or '.join(BEFORE['started'])}")
    _same_model(case, work)
    if resumed and work.method not in (None, case.remedy):
        raise RequestError(
            f"attempt {case.attempt} of request {case.id} is under way with {case.remedy}: go on without ",
            Hint("method"),
            ", or plan again and then run with it",
        )
    if resumed and work.seed != (seed := case.last["started"]["seed"]):  # the ledger would tell of another run
        raise RequestError(
            f"attempt {case.attempt} of request {case.id} is under way with seed {seed}, not {work.seed}: give ",
            Hint("seed", str(seed)),
        )
    remedy = case.remedy if resumed else next_remedy(case, work.method)
    if prepare is not None and remedy != RECORDS and not dry_run:
        prepare()
    maker: _Maker = _Head(desk, work) if remedy == RECORDS else _Model(desk, work, remedy, listeners)
    maker.check(case)
    if not resumed:
        body = {"event": "started", "case": case.id, "attempt": case.attempt + 1, "remedy": remedy,
                "seed": work.seed, "records": maker.records()}  # fmt: skip
        ledger = desk.append(lambda _: [body], role, dry_run)
        case = ledger.case(case.id)
        if dry_run:
            return case, ledger
    elif dry_run:
        return case, desk.ledger()
    guard = write_guard(desk, case, work.subjects) if GUARD in [item["id"] for item in case.remedies] else None
    maker.open(case)
    try:
        artifact, base = maker.make(case)
    except _REFUSALS:
        _refuse(desk, case, role)
        raise
    made = {
        "event": "made",
        "case": case.id,
        "attempt": case.attempt,
        "artifact": artifact,
        "base": base,
        "guard": guard,
    }
    ledger = desk.append(lambda _: [made], role)
    return ledger.case(case.id), ledger


def _refuse(desk: Desk, case: Case, role: str) -> None:
    """Enters that the attempt ended; its checkpoint, which no attempt goes on from and which holds the name, goes."""
    from erase_plugins.api import work_folder

    body = {"event": "refused", "case": case.id, "attempt": case.attempt}

    def ended(ledger: Ledger) -> list[dict[str, Any]]:
        there = ledger.case(case.id)  # a person may have decided meanwhile
        return [body] if (there.state, there.attempt) == ("running", case.attempt) else []

    desk.append(ended, role)
    shutil.rmtree(work_folder(folder_of(desk, case)), ignore_errors=True)


def _same_model(case: Case, work: Work) -> None:
    planned = case.last["triaged"]
    given = shown = called(work.model)
    if given == planned["model"]:
        family = family_of(work.model, work.revision)
        if family == planned["family"]:
            return
        shown = f"{given} ({family})"
    raise RequestError(
        f"request {case.id} was planned for {planned['model']} ({planned['family']}), and this is {shown}; ",
        Hint("model", planned["model"], before="give"),
        ", or plan again for another model",
    )


class _Maker:
    """What carries out one remedy."""

    def check(self, case: Case) -> None:
        """Refuses what cannot be done, before the ledger says that it begins."""

    def records(self) -> list[str]:
        """Ids of the records that will be deleted."""
        return []

    def open(self, case: Case) -> None:
        """Loads what `make` needs; what fails here says nothing about the request."""

    def make(self, case: Case) -> tuple[str, str]:
        """Does it, or what is left of it; hashes of what was made and of its base."""
        raise NotImplementedError


class _Head(_Maker):
    """Deletes the subject's records from a head; `erase_plugins.records` keeps what is needed after a kill."""

    def __init__(self, desk: Desk, work: Work) -> None:
        from erase_plugins.records.store import Records

        self.head, self.subjects = Records.open(work.model), work.subjects

    def records(self) -> list[str]:
        found: dict[str, None] = {}
        missing: RequestError | None = None
        for name in self.subjects:
            try:
                found |= dict.fromkeys(self.head.ids(name))
            except RequestError as error:
                missing = error
        if not found and missing is not None:
            raise missing
        return list(found)

    def make(self, case: Case) -> tuple[str, str]:
        lives = self.head.account().lives
        there = [name for name in case.last["started"]["records"] if name in lives and lives[name].left is None]
        account = self.head.delete(there) if there else self.head.account()
        return account.head, str(hashlib.sha256(account.opened["ledger"].encode()).hexdigest())


class _Model(_Maker):
    """Runs a registered method and keeps an artifact that names nobody."""

    def __init__(self, desk: Desk, work: Work, remedy: str, listeners: Sequence[Any]) -> None:
        self.desk, self.work, self.remedy, self.listeners = desk, work, remedy, listeners
        self.discretion = Discretion(work.subjects)

    def _request(self, case: Case) -> EraseRequest:
        work = self.work
        kind = item_kind(case.what, get_manager().method(self.remedy)) or "object"
        data = None if work.forget is None else DataRef(work.forget)
        first, *more = work.subjects
        return EraseRequest(
            model=work.model, method=self.remedy, options=dict(work.options), seed=work.seed, revision=work.revision,
            dtype=work.dtype, device=work.device, retain=(*work.retain, *map(DataRef, work.retain_data)),
            forget=(ForgetItem(first, kind, anchor=work.to, data=data),
                    *(ForgetItem(name, kind, anchor=work.to) for name in more)),
        )  # fmt: skip

    def check(self, case: Case) -> None:
        from erase_plugins.workflow.run import make_plan

        self.plan = make_plan(self._request(case))

    def open(self, case: Case) -> None:
        from erase_plugins.workflow.models import find_model

        if not folder_of(self.desk, case).exists():
            found = find_model(self.work.model, self.work.revision)
            self.target = found.load(self.plan.request.dtype, self.work.device)

    def make(self, case: Case) -> tuple[str, str]:
        from erase_plugins.api import run_and_save, work_folder
        from erase_plugins.workflow.artifacts import load_artifact

        folder = folder_of(self.desk, case)
        if not folder.exists():
            run_and_save(
                self.plan, self.target, folder, resume=work_folder(folder).exists(), listeners=[self._told],
                finish=lambda artifact: self._private(artifact, case),
            )  # fmt: skip
        if not case.shareable:
            self._look_through(folder)
        artifact = load_artifact(folder)
        return artifact_hash(artifact), base_hash(artifact)

    def _look_through(self, folder: Path) -> None:
        from erase_plugins.artifacts.atomic import remove_written
        from erase_plugins.artifacts.places import written_files

        try:
            self.discretion.check_folder(folder)
        except BaseException:
            remove_written(folder, written_files(folder)[1])
            raise

    def _told(self, event: Any) -> None:
        for listener in self.listeners:
            listener(replace(event, message=self.discretion.scrub(event.message)))

    def _private(self, artifact: Artifact, case: Case) -> Artifact:
        """The artifact without names, and without the statistics from which the name could be solved for again."""
        if case.shareable:
            return artifact
        manifest, clean = artifact.manifest, self.discretion.clean
        meta = {name: value for name, value in artifact.edit.meta.items() if name != "statistics"}
        edit = replace(artifact.edit, statistics={}, meta=clean(meta))
        texts = ("preserve", "options", "notes", "warnings", "history", "records", "guards", "extra")
        return replace(
            artifact,
            edit=edit,
            manifest=replace(
                manifest, name=f"request_{case.id}", concepts=(anonymous(case.id, manifest.concepts[0].kind, False),),
                retain_data=(), **{name: clean(getattr(manifest, name)) for name in texts},
            ),
        )  # fmt: skip


def artifact_hash(artifact: Any) -> str:
    """SHA-256 over the names and hashes of an artifact's files."""
    files = {item.name: item.sha256 for item in artifact.manifest.files}
    return hashlib.sha256(canonical(files).encode()).hexdigest()


def base_hash(artifact: Any) -> str:
    """SHA-256 over the fingerprint of the base that an artifact was made for."""
    return hashlib.sha256(canonical(dict(artifact.manifest.base["fingerprint"])).encode()).hexdigest()
