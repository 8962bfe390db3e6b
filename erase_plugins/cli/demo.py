"""``erase-plugins demo``: the whole way on the embedded model, in well under a minute on a CPU."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import click

from erase_plugins.cli.command import check_output, declare, dry_run_option, force_option, quote, seed_option
from erase_plugins.cli.console import emit, human_bytes, human_seconds, percent, progress, say, state, table
from erase_plugins.plain_text import an

METHOD = "uce"
#: options of the method; its defaults
OPTIONS: dict[str, Any] = {}
#: kind of the folder: a later demo may replace what an earlier one made
KIND = "demo"
#: pictures per set, drawn before and after with the same seeds
COUNTS = {"target": 16, "neighbour": 12, "kept": 24}
_LABELS = {
    "target": "pictures that show {concept}",
    "neighbour": "similar concepts shown as asked",
    "kept": "other concepts shown as asked",
}


@declare("demo", example="--erase owl")
@click.option("--erase", "concept", default="pizza", show_default=True, metavar="TEXT", help="What to erase.")
@seed_option("Seed of prompts and noise.")
@click.option("--out", default="erase-plugins-demo", show_default=True, metavar="DIR", help="Folder to write.")
@dry_run_option
@force_option
def command(concept: str, seed: int, out: str, dry_run: bool, force: bool) -> None:
    """Erase a concept from the embedded model and see before and after."""
    from erase_plugins.artifacts.manifest import slug
    from erase_plugins.manager import get_manager
    from erase_plugins.pocket.world import pocket_world

    get_manager().method(METHOD)
    pocket_world().concept(concept)
    place = Path(out)
    name = f"no-{slug(concept).replace('_', '-')}"
    pictures = 2 * sum(COUNTS.values())
    if dry_run:
        say(f"would erase '{concept}' from pocket with {METHOD} and draw {pictures} pictures into {place}")
        emit({"schema": 1, "dry_run": True, "erased": concept, "method": METHOD, "pictures": pictures})
        return
    from erase_plugins.artifacts.atomic import atomic_folder
    from erase_plugins.artifacts.places import written_files

    replace = force or written_files(place)[0] == KIND
    check_output(place, replace, kind=KIND)
    say(f"erasing '{concept}' from the embedded pocket model (family sd1) with {METHOD} ...")
    with atomic_folder(place, replace, KIND) as work:
        facts = _work(concept, seed, work, name)
    facts["artifact"]["folder"] = str(place / name)
    given = ("--model", "pocket")
    commands = [
        quote("erase-plugins", "generate", place / name, *given, "--prompt", an(concept), "--out", "after.png"),
        quote("erase-plugins", "evaluate", place / name, *given, "--suite", "quick", "--out", "report"),
        quote("erase-plugins", "run", METHOD, *given, "--erase", _another(concept), "--out", "my-first-erasure"),
    ]
    seconds = round(time.perf_counter() - state().started, 2)
    files = {"contact_sheet": str(place / "contact_sheet.png"), "report": str(place / "report.json")}
    emit({"schema": 1, "erased": concept, "seconds": seconds, **facts, **files, "next": commands})
    _show(concept, facts, seconds)
    say(f"contact sheet: {files['contact_sheet']}")
    say(f"report:        {files['report']}")
    say("next:")
    for line in commands:
        say(f"  {line}")


def _another(concept: str) -> str:
    return "hamburger" if concept != "hamburger" else "pizza"


def _work(concept: str, seed: int, work: Path, name: str) -> dict[str, Any]:
    """Erases, applies the artifact as read back from disk, draws, judges and writes the files."""
    from erase_plugins.api import erase
    from erase_plugins.cli.command import load_target, saved_facts
    from erase_plugins.cli.reaction import find_judge
    from erase_plugins.evaluation.draw import draw
    from erase_plugins.evaluation.prompts import quick_prompts
    from erase_plugins.workflow.artifacts import load_artifact

    with progress() as bar:
        bar.update("load the model", 0, 1)
        target = load_target("pocket")
        bar.update("load the model", 1, 1)
        started = time.perf_counter()
        saved = erase(target, concept, METHOD, options=OPTIONS, seed=seed, out=work / name, listeners=(bar.event,))
        seconds = time.perf_counter() - started
        judge = find_judge(target.info)
        sets = quick_prompts(judge, [concept], max(COUNTS.values()), seed)
        prompts = [(kind, item) for kind, count in COUNTS.items() for item in sets[kind][:count]]
        texts, seeds = [item.text for _, item in prompts], [item.seed for _, item in prompts]
        before = draw(target.pipe, texts, seeds, progress=lambda done, total: bar.update("before", done, total))
        with load_artifact(work / name).apply(target.pipe) as applied:
            patched = applied.patched
            after = draw(target.pipe, texts, seeds, progress=lambda done, total: bar.update("after", done, total))
    hits = {"base": _hits(judge, prompts, before), "edited": _hits(judge, prompts, after)}
    report = _report(concept, seed, judge, saved, hits, sets)
    _write(work, concept, prompts, before, after, report)
    shown = [{"metric": row.metric, "subject": row.subject, "value": row.value, "n": row.n} for row in report.rows]
    return {"rows": shown, "artifact": saved_facts(saved), "patched": patched, "erase_seconds": round(seconds, 2)}


def _hits(judge: Any, prompts: list[tuple[str, Any]], pictures: Any) -> dict[str, list[int]]:
    """Per set one 0/1 per picture: 1 where the judge sees the concept of the prompt."""
    best = judge.score(pictures)["concept"].argmax(-1).tolist()
    found: dict[str, list[int]] = {kind: [] for kind in COUNTS}
    for (kind, item), index in zip(prompts, best, strict=True):
        found[kind].append(int(judge.axes["concept"][index] == item.expected["concept"]))
    return found


def _report(concept: str, seed: int, judge: Any, saved: Any, hits: Any, sets: Any) -> Any:
    from erase_plugins.evaluation.bootstrap import mean_interval
    from erase_plugins.evaluation.prompts import prompts_hash
    from erase_plugins.types import EvalReport, EvalRow

    rows = []
    for kind in COUNTS:
        for subject, table_ in hits.items():
            value, low, high = (round(number, 6) for number in mean_interval(table_[kind], seed))
            rows.append(EvalRow(f"{kind}_rate", subject, value, low, high, n=len(table_[kind])))
    return EvalReport(
        suite="demo", model="pocket", rows=tuple(rows), artifacts=(saved.name,), erased=(concept,), judge=judge.id,
        judge_hash=judge.fingerprint, prompts_hash=prompts_hash(sets), seeds=(seed,),
        files={"report": "report.json", "contact_sheet": "contact_sheet.png"}, details={"hits": hits},
    )  # fmt: skip


def _write(work: Path, concept: str, prompts: list[tuple[str, Any]], before: Any, after: Any, report: Any) -> None:
    from erase_plugins.evaluation.sheet import contact_sheet

    values = {(row.metric, row.subject): row.value for row in report.rows}
    titles = {"target": concept, "neighbour": "similar concepts", "kept": "other concepts"}
    rows = []
    for kind in COUNTS:
        picks = [index for index, (name, _) in enumerate(prompts) if name == kind][:8]
        for label, subject, pictures in (("before", "base", before), ("after", "edited", after)):
            text = f"{titles[kind]}, {label}: {percent(values[(f'{kind}_rate', subject)])}"
            rows.append((text, [pictures[index] for index in picks]))
    contact_sheet(rows, work / "contact_sheet.png", title=f"'{concept}' erased from pocket with {METHOD}, same seeds")
    text = json.dumps(report.to_dict(), indent=2, sort_keys=True)
    (work / "report.json").write_text(text + "\n", encoding="utf-8")


def _show(concept: str, facts: dict[str, Any], seconds: float) -> None:
    cells = {(row["metric"], row["subject"]): row for row in facts["rows"]}
    rows = [
        [
            text.format(concept=concept), percent(cells[(f"{kind}_rate", "base")]["value"]),
            percent(cells[(f"{kind}_rate", "edited")]["value"]), cells[(f"{kind}_rate", "base")]["n"],
        ]
        for kind, text in _LABELS.items()
    ]  # fmt: skip
    table("", ("", "before", "after", "pictures"), rows, numbers=("before", "after", "pictures"))
    artifact = facts["artifact"]
    say(f"patched {facts['patched']} of {facts['patched']} modules, rank {artifact['rank']}; "
        f"erased in {human_seconds(facts['erase_seconds'])}, {human_seconds(seconds)} in all")  # fmt: skip
    say(f"artifact:      {artifact['folder']} ({human_bytes(artifact['bytes'])})")
