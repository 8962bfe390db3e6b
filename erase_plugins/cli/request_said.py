"""What the commands of ``request`` open and say: where a request stands, until when, and which command comes next."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from typing import Any

import click

from erase_plugins.cli.command import quote
from erase_plugins.cli.console import emit, hint, say
from erase_plugins.requests.states import IDENTITY

#: what a step has to be told, where the ledger does not know it
_NEEDED = {
    "verify": f"--identity {'|'.join(IDENTITY)}", "plan": "--model MODEL", "run": "--subject-file FILE --model MODEL",
    "evaluate": "--subject-file FILE --model MODEL", "export": "--out DIR",
}  # fmt: skip


def desk_at(folder: str, key: str | None) -> Any:
    """All requests of a folder, to be entered into."""
    from erase_plugins.requests.store import Desk

    return Desk.open(folder, key)


def ledger_at(folder: str, key: str | None) -> Any:
    """All requests, to be looked at; also where their key was lost, which is told."""
    desk = desk_at(folder, key)
    if desk.key_file.exists():
        return desk.ledger()
    hint(
        f"warning: the key '{desk.key_file.name}' is missing, so that lines cut off at the end would not be noticed "
        "and nothing can be entered; bring back a copy of it, or say with --key where it is"
    )
    return desk.ledger(sealed=False)


def done(desk: str, ledger: Any, name: str, dry_run: bool, **more: Any) -> None:
    """Says where a request stands and what comes next."""
    case = ledger.case(name)
    facts = case.facts(this_day())
    if dry_run:
        say("dry run: nothing was written")
    else:
        say(f"request {case.id}: {case.state}")
        say_next(desk, case)
    emit({"schema": 1, "dry_run": dry_run, **facts, **more})


def say_next(desk: str, case: Any) -> None:
    """Says the command that takes a request further."""
    from erase_plugins.workflow.request_plan import data_for

    if step := case.facts(this_day())["next"]:
        needed = _NEEDED.get(step, "").replace("--model MODEL", f"--model {planned_model(case)}")
        needed += "".join(f" --{name} DATA" for name in data_for(case, step))
        say(f"next: {typed(step, desk, case.id)}{needed and f' {needed}'}")


def typed(step: str, desk: str, name: str) -> str:
    """A further step for a request of this desk, with its key where that lies elsewhere."""
    key = click.get_current_context().params.get("key")
    return quote("erase-plugins", "request", step, desk, name, *(() if key is None else ("--key", key)))


def this_day() -> datetime.date:
    """The day by which the ledger judges: its times are UTC, so that every machine says the same of a certificate."""
    return datetime.datetime.now(datetime.UTC).date()


def warn_late(facts: Mapping[str, Any]) -> None:
    """Says that an answer is late, or soon will be."""
    if facts["warning"]:
        late = f"{facts['warning']} ({facts['due']} UTC)"
        hint(f"warning: request {facts['case']} is {late}; next: request {facts['next']}")


def planned_model(case: Any) -> str:
    """The planned model as it is typed, where the ledger knows that: of a folder it keeps the last part only."""
    from erase_plugins.families.source import EMBEDDED

    planned = str(case.last["triaged"]["model"]) if "triaged" in case.last else ""
    return planned if planned in EMBEDDED or "/" in planned else "MODEL"


def measured_rows(
    rows: Sequence[Sequence[Any]], nobody: Mapping[str, str]
) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:  # fmt: skip
    """Columns and rows: metric, before, after, and who has nothing of the subject, where that was measured."""
    from erase_plugins.requests.certificate import number

    cells = {(row[0], row[1]): number(row) for row in rows}
    others = [who for who in nobody if any(subject == who for _, subject in cells)]
    return ("metric", "before", "after", *(nobody[who] for who in others)), [
        (metric, cells.get((metric, "base"), ""), cells[metric, subject],
         *(cells.get((metric, who), "") for who in others))
        for metric, subject in cells if subject in ("edited", "deleted")
    ]  # fmt: skip
