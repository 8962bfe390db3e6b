"""An audit: what somebody's "erased" model or adapter really does, measured, attacked, on one page.

The eraser is an adapter or a file of weights of any kind that `inspect` knows, on its base; or a whole model, compared
with the base that it was made from. Either way it becomes an edit of the base in memory, so that suites and attacks see
what they always see.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from erase_plugins.artifacts.artifact import Artifact
from erase_plugins.artifacts.atomic import atomic_file
from erase_plugins.artifacts.locks import claim_files
from erase_plugins.errors import RequestError
from erase_plugins.evaluation.attack_suite import affordable, attack_all, chosen, with_reference
from erase_plugins.evaluation.attack_summary import against
from erase_plugins.evaluation.attacks.reference import find_reference
from erase_plugins.evaluation.budget import CUSTOM
from erase_plugins.evaluation.context import REPORT, Progress, run_in_context
from erase_plugins.evaluation.page import html_page, markdown_page
from erase_plugins.evaluation.wording import REFUSED
from erase_plugins.hints import Hint
from erase_plugins.manager import get_manager
from erase_plugins.types import AttackReport, EvalReport
from erase_plugins.workflow.audit_work import left_by_others, work_folder
from erase_plugins.workflow.convert import open_source
from erase_plugins.workflow.measure import open_subject
from erase_plugins.workflow.models import dtype_of, find_model, load_pipeline, target_of
from erase_plugins.workflow.whole_model import difference, refuse_family

HTML, MARKDOWN, RECORD = "audit.html", "audit.md", "audit.json"
NAMES = (HTML, MARKDOWN, RECORD)
#: suite that measures rates
_SUITE = "quick"


@dataclass(frozen=True)
class Wanted:
    """What is audited, and how.

    Attributes:
        model: name, folder, checkpoint or Hub id of the base; without ``artifact`` the model that is audited.
        artifact: adapter, artifact folder or file of weights; None if the model itself is the eraser.
        base: the model that a whole model was made from.
        erased: concepts to look for; those that the artifact names if empty.
        budget: of each attack.
        attacks: ids of attacks with commas between them; all if empty.
        reference: folder of a model that never saw the concepts, the control of attacks that take one.
        images, seed, steps, guidance, strength, judge, any_base, guard_key: as for `run_suite`.
        load: revision, dtype, device.
    """

    model: str
    artifact: str | None = None
    base: str | None = None
    erased: tuple[str, ...] = ()
    budget: str = "quick"
    attacks: str = ""
    reference: str = ""
    images: int = 32
    seed: int = 0
    steps: int = 8
    guidance: float = 4.0
    strength: float = 1.0
    judge: str | None = None
    any_base: bool = False
    guard_key: str | None = None
    load: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Audit:
    """What an audit found: the sentence to quote, rates, attacks, why others were not run, notes, and what each attack
    does by its id."""

    sentence: str
    report: EvalReport
    attacks: tuple[AttackReport, ...]
    not_run: dict[str, str]
    notes: tuple[str, ...]
    what: str
    titles: dict[str, str] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "schema": 1, "sentence": self.sentence, "audited": self.what, "report": self.report.to_dict(),
            "attacks": [item.to_dict() for item in self.attacks], "not_run": self.not_run, "notes": list(self.notes),
            "titles": self.titles,
        }  # fmt: skip


def check(wanted: Wanted) -> None:
    """Refuses what can be refused before anything is loaded.

    Raises:
        RequestError: a whole model without its base, a base beside an adapter, no such reference, nothing to look for,
            or a budget that is too small for an attack that was named, or for all.
    """
    if wanted.artifact is None and wanted.base is None:
        raise RequestError(
            f"'{_short(wanted.model)}' is audited as a whole: name the model that it was made from (",
            Hint("base"),
            "), or give the adapter behind the model",
        )
    if wanted.artifact is not None and wanted.base is not None:
        raise RequestError("a base belongs to a whole model; with an adapter the model is its base")
    if wanted.artifact is None and not wanted.erased:
        raise RequestError(
            "a whole model does not say what it erased; name the concept to look for with ", Hint("erase")
        )
    attacks_of(wanted)
    if wanted.reference:
        find_reference(wanted.reference)


def families_of(wanted: Wanted) -> dict[str, str]:
    """The family of each model by its name, from configuration only.

    Raises:
        BaseMismatch: a whole model is of another family than its base.
        RequestError, Unsupported, HubError: as for `find_model`.
    """
    names = dict.fromkeys(name for name in (wanted.model, wanted.base) if name is not None)
    revision = wanted.load.get("revision")
    found = {
        name: find_model(name, revision if name != wanted.model or wanted.base is None else None).family.id
        for name in names
    }
    if wanted.base is not None and found[wanted.model] != found[wanted.base]:
        refuse_family(_short(wanted.model), found[wanted.model], found[wanted.base])
    return found


def audit(
    wanted: Wanted,
    out: Path,
    *,
    force: bool = False,
    progress: Progress | None = None,
    note: Callable[[str], None] | None = None,
) -> Audit:
    """Measures, attacks, and writes the page; the same call after a kill goes on where it was.

    Args:
        wanted: what is audited.
        out: folder of audit.html, audit.md and audit.json.
        force: replace an earlier audit.
        progress: called with (stage, done, total).
        note: called with a sentence on each interrupted audit with other options whose work lies in ``out``.

    Raises:
        EraseError: what `check`, loading, the suite and the judge refuse. A refused attack is a line of the page.
    """
    check(wanted)
    tell, remark = progress or (lambda stage, done, total: None), note or (lambda text: None)
    with claim_files(out, NAMES, force):
        tell("loading", 0, 1)
        pipe, artifact, notes = _open(wanted)
        suite = get_manager().evaluator(_SUITE, "suite")
        subject = open_subject(
            pipe, [artifact], suite, strength=wanted.strength, erased=wanted.erased, judge=wanted.judge,
            progress=progress, images=wanted.images, seed=wanted.seed, steps=wanted.steps, guidance=wanted.guidance,
            any_base=wanted.any_base, guard_key=wanted.guard_key,
        )  # fmt: skip
        subject.model = _short(wanted.base or wanted.model)
        key, options = _key(wanted, subject, artifact), _options(wanted, subject)
        for text in left_by_others(out, key, options):
            remark(text)
        with work_folder(out, key, options) as work:
            report = _rates(subject, suite, work / _SUITE, tell, wanted.reference)
            runners = chosen(wanted.attacks)
            done, not_run = attack_all(subject, runners, wanted.budget, work / "attacks", tell, wanted.reference)
            what = _what(wanted, artifact)
            found = Audit(
                sentence(report, done, what, whole=wanted.artifact is None), report, tuple(done), not_run, notes, what,
                {runner.id: str(runner.title) for runner in runners},
            )  # fmt: skip
            _write(found, work, out)
    return found


def pictures_needed(wanted: Wanted) -> int:
    """Pictures that an audit draws at most: four sets with and without the edit, two controls, budgets of attacks."""
    return 8 * wanted.images + 96 + sum(attacks_of(wanted).values())


def attacks_of(wanted: Wanted) -> dict[str, int]:
    """The attacks that an audit can run with its budget, and the pictures that each may draw."""
    return affordable(chosen(wanted.attacks), wanted.budget, bool(wanted.attacks))


# ---- what is audited -----------------------------------------------------------------------------------------------


def _open(wanted: Wanted) -> tuple[Any, Artifact, tuple[str, ...]]:
    """The base pipeline, the eraser as an artifact of it, and what is left out."""
    name = wanted.model if wanted.base is None else wanted.base
    families_of(wanted)
    pipe = load_pipeline(name, **wanted.load)
    target = target_of(pipe, name)
    if wanted.artifact is None:
        load = {key: value for key, value in wanted.load.items() if key != "revision"}
        artifact, notes = difference(load_pipeline(wanted.model, **load), target, _short(wanted.model), wanted.erased)
        return pipe, _named(artifact, wanted.erased), notes
    artifact, errors = open_source(_place(wanted.artifact), target, None)
    if artifact.path is None and Path(wanted.artifact).exists():
        artifact = replace(artifact, path=Path(wanted.artifact))
    worst = max(errors.values(), default=0.0)
    notes = (f"read with a relative error of at most {worst:.2g} per weight",) if worst > 1e-3 else ()
    return pipe, _named(artifact, wanted.erased), notes


def _place(text: str) -> str | Path:
    from erase_plugins.workflow.artifacts import locate

    return locate(text)


def _named(artifact: Artifact, erased: Sequence[str]) -> Artifact:
    """The artifact, if it or the user says what to look for.

    Raises:
        RequestError: neither does.
    """
    if not erased and not artifact.manifest.erased:
        raise RequestError(
            f"'{artifact.name}' does not say what it erases; name the concept to look for with ", Hint("erase")
        )
    return artifact


def _short(text: str) -> str:
    """The end of what may be somebody's path; a Hub id as it is."""
    return text if not Path(text).exists() else Path(text).name


def _what(wanted: Wanted, artifact: Artifact) -> str:
    return _short(wanted.model) if wanted.artifact is None else _short(wanted.artifact) or artifact.name


def _key(wanted: Wanted, subject: Any, artifact: Artifact) -> str:
    """Hash of everything that the numbers depend on, the weights of the edit included."""
    digest = hashlib.sha256()
    for component, key, delta in artifact.edit.items():
        digest.update(f"{component} {key}".encode())
        for name, tensor in sorted(delta.tensors().items()):
            digest.update(f"{name} {tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().float().cpu().contiguous().numpy().tobytes())
    parts = [
        wanted.budget, wanted.reference, wanted.images, wanted.seed, wanted.steps, wanted.guidance, wanted.strength,
        subject.erased, subject.judge.fingerprint, str(subject.target.dtype),
        {name: str(item.short) for name, item in sorted(subject.target.fingerprint().items())},
        *([hashlib.sha256(subject.guard_key).hexdigest()] if subject.guard_key else []),
    ]  # fmt: skip
    digest.update(json.dumps(parts, sort_keys=True).encode())
    return digest.hexdigest()[:12]


def _options(wanted: Wanted, subject: Any) -> dict[str, Any]:
    """What tells audits of one folder apart, by the names of the options."""
    return {
        "audited": _short(wanted.artifact or wanted.model), "erase": ", ".join(subject.erased),
        "budget": wanted.budget, "images": wanted.images, "seed": wanted.seed, "strength": wanted.strength,
        "judge": subject.judge.id, "dtype": dtype_of(subject.target), "reference": _short(wanted.reference),
        "steps": wanted.steps, "guidance": wanted.guidance,
    }  # fmt: skip


def _rates(subject: Any, suite: Any, folder: Path, tell: Progress, reference: str) -> EvalReport:
    """The report of the suite, from an interrupted audit where it is there."""
    place = folder / REPORT
    if place.is_file():
        try:
            return EvalReport.from_dict(json.loads(place.read_text(encoding="utf-8")))
        except ValueError:  # torn by a crash of the machine; made again
            shutil.rmtree(folder, ignore_errors=True)
    tell("rates", 0, 1)
    return run_in_context(suite, subject, with_reference(suite, reference), seed=subject.seed, progress=tell,
                          device=str(subject.target.device), out=folder, force=True)  # fmt: skip


# ---- what is said --------------------------------------------------------------------------------------------------


def sentence(report: EvalReport, attacks: Sequence[AttackReport], what: str, *, whole: bool = False) -> str:
    """One sentence that a person can quote, with numbers and 95 % intervals.

    Args:
        report: of the quick suite.
        attacks: those that were run.
        what: how the audited thing is called.
        whole: it is a model itself, and nothing that is put on one.
    """
    rates = {(row.metric, row.subject): row for row in report.rows}
    named, base = rates[("target_rate", "edited")], rates[("target_rate", "base")]
    who, other = (what, f"by {report.model}, its base") if whole else (f"With {what}, {report.model}", "without")
    text = (
        f"{who} drew {', '.join(report.erased)} in {_share(named)} of {named.n} pictures that name it, against "
        f"{_share(base)} {other}"
    )
    if (refused := rates.get((f"target{REFUSED}", "edited"))) is not None and refused.value:
        text += f" (a guard, which edits no weights, refused {_share(refused)} of them)"
    if attacks:
        # what the control has too was brought in by the attack, so it says nothing of the edit
        worst = max(attacks, key=lambda item: (item.excess, item.success.value))
        own = worst.budget == CUSTOM  # a name that says nothing: how much it drew does
        size, spent = ("", f" ({worst.queries} pictures)") if own else (f"at budget {worst.budget} ", "")
        text += (
            f"; of {len(attacks)} attack{'s' if len(attacks) > 1 else ''} {size}the strongest, "
            f"{worst.attack}{spent}, brought it in {_share(worst.success)} ({against(worst)}: {_share(worst.control)})"
        )
    else:
        text += "; no attack was run"
    kept = [rates.get(("kept_rate", name)) for name in ("edited", "base")]
    if kept[0] is not None and kept[1] is not None:
        text += f"; other things were drawn in {_share(kept[0])}, against {_share(kept[1])}"
    return f"{text} (95 % intervals; judge {report.judge}, seed {report.seeds[0]})."


def _share(row: Any) -> str:
    return f"{100 * row.value:.0f} % [{100 * row.low:.0f} to {100 * row.high:.0f}]"


def _write(found: Audit, work: Path, out: Path) -> None:
    """Page and record; pictures of suite and attacks go into the page."""
    figures = [(str(item.get("title", "")), work / _SUITE / name)
               for name, item in found.report.attached.items() if name.endswith(".png")]  # fmt: skip
    figures += [
        (f"{report.attack}: {item.get('title', '')}", work / "attacks" / report.attack / name)
        for report in found.attacks
        for name, item in report.attached.items()
        if name.endswith(".png")
    ]
    shown = [(title, place.read_bytes()) for title, place in figures if place.is_file()]
    texts = {
        HTML: html_page(found, shown), MARKDOWN: markdown_page(found, shown),
        RECORD: json.dumps(found.to_dict(), indent=2, sort_keys=True),
    }  # fmt: skip
    for name, text in texts.items():
        with atomic_file(out / name) as place:
            place.write_text(text, encoding="utf-8")
