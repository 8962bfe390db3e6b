"""``erase-plugins request``: from a request to be forgotten to a certificate of what was measured, on record."""

from __future__ import annotations

from pathlib import Path

import click

from erase_plugins.cli.command import (
    Finite,
    declare,
    dry_run_option,
    force_option,
    model_options,
    parse_settings,
    quiet_libraries,
    quote,
    seed_option,
    stacked,
)
from erase_plugins.cli.console import emit, hint, progress, say, table
from erase_plugins.cli.request_said import (
    desk_at,
    done,
    ledger_at,
    measured_rows,
    say_next,
    this_day,
    typed,
    warn_late,
)
from erase_plugins.requests.deadlines import RULES
from erase_plugins.requests.decisions import DECISIONS
from erase_plugins.requests.states import IDENTITY, KINDS, REASONS

desk_options = stacked(
    click.argument("folder", metavar="DIR"),
    click.option("--key", metavar="FILE", help="Key of the names; DIR.key beside the folder by default, never in it."),
)  # fmt: skip
role_option = click.option("--role", default="operator", show_default=True, metavar="WORD", help="Who acts; no name.")
case_options = stacked(desk_options, click.argument("case", metavar="CASE"), role_option, dry_run_option)
subject_options = stacked(
    click.option("--subject", "subjects", multiple=True, metavar="NAME", help="Who or what; every name it goes by."),
    click.option("--subject-file", metavar="FILE", help="The same, one name a line: not in the shell's history."),
)  # fmt: skip
identity_option = click.option("--identity", type=click.Choice(IDENTITY), required=True, help="How it was checked.")


@click.group("request")
def command() -> None:
    """Carry out requests to be forgotten: states, deadlines, a remedy with reasons, evidence. No name is kept."""


@declare("new", example="desk --kind person --subject-file who.txt")
@desk_options
@click.option("--kind", "what", type=click.Choice(KINDS), required=True, help="What the request is about.")
@subject_options
@click.option("--forget", metavar="DATA", help="Data that came with it; only an HMAC of their hash is kept.")
@click.option("--jurisdiction", type=click.Choice(tuple(RULES)), default="eu", show_default=True,
              help="Whose deadline holds.")  # fmt: skip
@click.option("--days", type=click.IntRange(1), help="Another deadline, in days.")
@click.option(
    "--received", metavar="DATE", help="Day of the request, such as 2026-01-31; by default today, on this machine."
)
@click.option("--evidence", metavar="NUMBER", help="Number of the file or ticket; no names.")
@click.option("--public", is_flag=True, help="What is made may be published; never for persons, facts and documents.")
@role_option
@dry_run_option
def new(
    folder: str, key: str | None, what: str, subjects: tuple[str, ...], subject_file: str | None, forget: str | None,
    jurisdiction: str, days: int | None, received: str | None, evidence: str | None, public: bool, role: str,
    dry_run: bool,
) -> None:  # fmt: skip
    """Take a request in. The first one makes the folder, and the key of the names beside it."""
    from erase_plugins.requests.intake import asked, data_hash, names_in, receive, waiting_twins
    from erase_plugins.requests.store import DATABASE, Desk

    names = names_in(subjects, subject_file)
    asked(what, names, jurisdiction, days or 0, received, evidence, public)  # before anything is made
    if forget is not None:
        data_hash(forget, names)
    if dry_run and not (Path(folder) / DATABASE).is_file():
        say("dry run: the folder and its key would be made, and one request entered; nothing was written")
        emit({"schema": 1, "dry_run": True, "case": None})
        return
    desk = Desk.create(folder, key)
    name, ledger = receive(
        desk, what, names, data=forget, jurisdiction=jurisdiction, days=days or 0, received=received,
        evidence=evidence, public=public, role=role, dry_run=dry_run,
    )  # fmt: skip
    facts = ledger.case(name).facts(this_day())
    say(f"request {name} received on {facts['received']}, due {facts['due']} (ends in UTC)")
    warn_late(facts)
    for other in waiting_twins(ledger, name):
        hint(f"request {other} is about the same subject and still open; if this is the same letter: "
             f"{typed('decide', folder, name)} reject --reason duplicate")  # fmt: skip
    done(folder, ledger, name, dry_run)


@declare("verify", example="desk CASE --identity account")
@case_options
@identity_option
def verify(folder: str, key: str | None, case: str, role: str, dry_run: bool, identity: str) -> None:
    """Enter how it was checked who asks."""
    from erase_plugins.requests.decisions import verify_identity

    done(folder, verify_identity(desk_at(folder, key), case, identity, role, dry_run), case, dry_run)


@declare("plan", example="desk CASE --model pocket-lm")
@case_options
@click.option("--model", default="pocket", show_default=True, help="The model, or the folder of a head with records.")
@click.option("--revision", help="Hub revision of the model.")
def plan(
    folder: str, key: str | None, case: str, role: str, dry_run: bool, model: str, revision: str | None
) -> None:  # fmt: skip
    """Choose remedies by what the model offers and what is installed, with reasons."""
    from erase_plugins.workflow.request_plan import plan_case

    choice, ledger = plan_case(desk_at(folder, key), case, model, revision=revision, role=role, dry_run=dry_run)
    rows = [(place, item.id, item.level, item.why) for place, item in enumerate(choice.remedies, 1)]
    table(f"remedies on {choice.model} ({choice.family})", ("", "remedy", "changes", "why"), rows)
    done(folder, ledger, case, dry_run, remedies=[item.to_dict() for item in choice.remedies])


@declare("run", example="desk CASE --subject-file who.txt --model pocket-lm")
@case_options
@subject_options
@model_options
@click.option("--forget", metavar="DATA", help="Data to forget: a folder, a .jsonl file or datasets:NAME.")
@click.option("--retain", "retains", multiple=True, metavar="DATA", help="Data to retain; repeat for several.")
@click.option("--keep", multiple=True, metavar="TEXT", help="What must stay as it is; repeat for several.")
@click.option("--to", metavar="TEXT", help="What the subject becomes; the method chooses if left out.")
@click.option("--method", metavar="M", help="Another remedy of the plan than the next one.")
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="Option of the method.")
@seed_option("Seed of everything random.")
def run(
    folder: str, key: str | None, case: str, role: str, dry_run: bool, subjects: tuple[str, ...],
    subject_file: str | None, model: str, revision: str | None, dtype: str, device: str, forget: str | None,
    retains: tuple[str, ...], keep: tuple[str, ...], to: str | None, method: str | None, settings: tuple[str, ...],
    seed: int,
) -> None:  # fmt: skip
    """Carry out the next remedy. Interrupted at any moment, the same command goes on."""
    from erase_plugins.requests.intake import names_in
    from erase_plugins.workflow.request_run import Work, folder_of, run_case

    work = Work(
        model, tuple(names_in(subjects, subject_file)), forget=forget, retain=keep, retain_data=retains, to=to,
        method=method, options=parse_settings(settings), seed=seed, revision=revision, dtype=dtype, device=device,
    )  # fmt: skip
    desk = desk_at(folder, key)
    with progress() as bar:
        found, ledger = run_case(
            desk, case, work, role=role, dry_run=dry_run, listeners=[bar.event], prepare=quiet_libraries
        )
    made = folder_of(desk, found)
    if dry_run:
        say(f"attempt {found.attempt} would run {found.remedy} on {model}")
    else:
        say(f"{found.remedy} is done" + (f": {made}" if made.exists() else ""))
    done(folder, ledger, case, dry_run, folder=str(made) if made.exists() else None)


@declare("evaluate", example="desk CASE --subject-file who.txt --model pocket-lm")
@case_options
@subject_options
@model_options
@click.option("--forget", metavar="DATA", help="The data that came with the request.")
@click.option("--suite", metavar="S", help="Suite to measure with; the first that fits the model by default.")
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="Option of the suite.")
@click.option("--images", type=click.IntRange(1), default=32, show_default=True, help="Pictures per prompt set.")
@seed_option("Seed of everything random.")
@click.option(
    "--max-left", type=Finite(0, 1), default=0.1, show_default=True, help="Share of the subject that may be left."
)
@click.option("--max-loss", type=Finite(0, 1), default=0.1, show_default=True,
              help="Loss of what stays that is accepted.")  # fmt: skip
def evaluate(
    folder: str, key: str | None, case: str, role: str, dry_run: bool, subjects: tuple[str, ...],
    subject_file: str | None, model: str, revision: str | None, dtype: str, device: str, forget: str | None,
    suite: str | None, settings: tuple[str, ...], images: int, seed: int, max_left: float, max_loss: float,
) -> None:  # fmt: skip
    """Measure what was made and say whether that is enough. Numbers are kept, pictures are not."""
    from erase_plugins.requests.intake import names_in
    from erase_plugins.workflow.request_measure import NOBODY, Limits, evaluate_case, left_over

    with progress() as bar:
        found, ledger = evaluate_case(
            desk_at(folder, key), case, model, names_in(subjects, subject_file), suite=suite, forget=forget,
            limits=Limits(max_left, max_loss), role=role, dry_run=dry_run, images=images, seed=seed, revision=revision,
            dtype=dtype, device=device, settings=parse_settings(settings), progress=bar.update, prepare=quiet_libraries,
        )  # fmt: skip
    measured = {} if dry_run else found.last["evaluated"]
    if measured:
        table(f"suite {measured['suite']}", *measured_rows(measured["rows"], NOBODY))
        for text in left_over(measured["rows"], measured["left"]):
            say(text)
        say("passed" if measured["passed"] else f"not passed: {'; '.join(measured['reasons'])}")
        if not measured["passed"] and measured["suite"] != "certificate":
            hint("the same may be measured again, with another --suite or more --images; the certificate tells of both")
    done(folder, ledger, case, dry_run, **{name: measured[name] for name in ("suite", "passed", "reasons", "rows")
                                            if name in measured})  # fmt: skip


@declare("deploy", example="desk CASE")
@case_options
@click.option("--override", type=click.Choice(REASONS["override"]), help="Why it is used although it did not pass.")
def deploy(folder: str, key: str | None, case: str, role: str, dry_run: bool, override: str | None) -> None:
    """Enter that what was made is in use: `apply_deployed` loads it from now on, or refuses to serve."""
    from erase_plugins.requests import decisions

    ledger = decisions.deploy(desk_at(folder, key), case, override, role, dry_run)
    if not dry_run:
        say(
            f"{len(decisions.in_force(ledger))} in force; load them with erase_plugins.workflow.deployed.apply_deployed"
        )
    hint("other copies know the subject still: quantised builds, fine-tunes, caches, search indexes, logs")
    done(folder, ledger, case, dry_run)


@declare("revoke", example="desk CASE --reason mistake --identity account")
@case_options
@click.option("--reason", type=click.Choice(REASONS["revoked"]), required=True, help="Why.")
@identity_option
def revoke(
    folder: str, key: str | None, case: str, role: str, dry_run: bool, reason: str, identity: str
) -> None:  # fmt: skip
    """Take out of use what was deployed; who asks for it is checked as at the intake."""
    from erase_plugins.requests import decisions

    done(folder, decisions.revoke(desk_at(folder, key), case, reason, identity, role, dry_run), case, dry_run)


@declare("decide", example="desk CASE close")
@case_options
@click.argument("decision", type=click.Choice(tuple(DECISIONS)))
@click.option("--reason", metavar="WORD", help="Why; a wrong one lists those that there are.")
def decide(
    folder: str, key: str | None, case: str, role: str, dry_run: bool, decision: str, reason: str | None
) -> None:  # fmt: skip
    """Hold, resume, reject, extend or close a request: a person's decision, which is only recorded here."""
    from erase_plugins.requests import decisions

    done(folder, decisions.decide(desk_at(folder, key), case, decision, reason, role, dry_run), case, dry_run)


@declare("status", example="desk")
@desk_options
@click.argument("case", required=False)
@click.option("--on", "day", metavar="DATE", help="As it looks on this day; by default today, in UTC as the ledger.")
@click.option("--open", "pending", is_flag=True, help="Only those that wait for an answer.")
def status(folder: str, key: str | None, case: str | None, day: str | None, pending: bool) -> None:
    """Show all requests, or the one that is named: how long there is to answer them, and what comes next."""
    from erase_plugins.requests.deadlines import date
    from erase_plugins.requests.states import ANSWERED

    ledger = ledger_at(folder, key)
    today = this_day() if day is None else date(day)
    asked = ledger.cases.values() if case is None else [ledger.case(case)]
    facts = [item.facts(today) for item in asked if not pending or item.state not in ANSWERED]
    facts.sort(key=lambda item: (item["state"] in ANSWERED, item["due"]))
    names = ("case", "kind", "state", "received", "due", "days_left", "warning", "remedy", "attempt", "next")
    title = f"requests: {len(facts)}; lines of the ledger: {len(ledger.entries)}; as of {today} (UTC)"
    table(title, [name.replace("_", " ") for name in names],
          [[item[name] for name in names] for item in facts], ("days left", "attempt"))  # fmt: skip
    for item in facts:
        warn_late(item)
    if case is not None:
        say_next(folder, ledger.case(case))
    emit({"schema": 1, "day": str(today), "requests": facts, "lines": len(ledger.entries), "head": ledger.head})


@declare("export", example="desk CASE --out answer")
@case_options
@click.option("--out", required=True, metavar="DIR", help="Where to write certificate.json.")
@force_option
def export(folder: str, key: str | None, case: str, role: str, dry_run: bool, out: str, force: bool) -> None:
    """Write the certificate of a request: what was done and measured, and the lines that prove it."""
    from erase_plugins.artifacts.atomic import atomic_folder
    from erase_plugins.requests.certificate import CERTIFICATE, certificate, to_json, to_text

    ledger = ledger_at(folder, key)
    data = certificate(ledger, ledger.case(case))
    if not dry_run:
        with atomic_folder(Path(out), force, "request-certificate") as work:
            (work / CERTIFICATE).write_text(to_json(data), encoding="utf-8")
    say(to_text(data))
    say(f"anybody can check it: {quote('erase-plugins', 'verify-certificate', out)}")
    emit({"schema": 1, "dry_run": dry_run, "folder": out, "certificate": data})


for _item in (new, verify, plan, run, evaluate, deploy, revoke, decide, status, export):
    command.add_command(_item)
