"""``erase-plugins texts``: what a language model says of a person, as the two files that a run reads.

It asks in English; `--wording` takes another language, or questions about something else than a person.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import click

from erase_plugins.cli.command import (
    check_output,
    declare,
    dry_run_option,
    force_option,
    load_target,
    model_options,
    quote,
    seed_option,
)
from erase_plugins.cli.console import emit, say
from erase_plugins.errors import RequestError, Unsupported
from erase_plugins.hints import Hint

KIND = "texts"
FILES = ("forget.jsonl", "retain.jsonl")


@declare("texts", example="--model MODEL --subject-file who.txt --out asked")
@model_options
@click.option("--subject", "subjects", multiple=True, metavar="NAME", help="Whom the texts are about.")
@click.option("--subject-file", metavar="FILE", help="The same in a file: not in the shell's history.")
@click.option(
    "--wording", metavar="FILE", help="How to ask (TOML): another language, or not of a person (see the docs)."
)
@seed_option("Seed of what the model draws.")
@click.option("--out", required=True, metavar="DIR", help="Folder to write; it holds the name, so keep it to yourself.")
@dry_run_option
@force_option
def command(
    model: str, revision: str | None, dtype: str, device: str, subjects: tuple[str, ...], subject_file: str | None,
    wording: str | None, seed: int, out: str, dry_run: bool, force: bool,
) -> None:  # fmt: skip
    """Ask a language model what it says of a person: forget.jsonl and retain.jsonl for a run."""
    from erase_plugins.families.capabilities import LANGUAGE
    from erase_plugins.families.wordings import Wording
    from erase_plugins.requests.intake import names_in
    from erase_plugins.workflow.models import find_model

    place, names = check_output(out, force, kind=KIND, dry_run=dry_run), names_in(subjects, subject_file)
    if len(names) != 1:
        raise RequestError(f"{len(names)} names were given; give one person, ", Hint("subject-file", "who.txt"))
    how = Wording.read(wording)
    if wording is None and not any(sign.isascii() and sign.isalpha() for sign in names[0]):
        say("the model is asked in English, where it may know the name by other letters; give another language with "
            "--wording FILE")  # fmt: skip
    known = find_model(model, revision)
    if LANGUAGE not in known.family.roles:
        raise Unsupported(f"{known.source.name} is no language model (family {known.family.id})")
    if dry_run:
        say("dry run: nothing was loaded or written")
        emit({"schema": 1, "dry_run": True, "files": list(FILES)})
        return
    from erase_plugins.artifacts.atomic import atomic_folder
    from erase_plugins.engine.context import RunContext
    from erase_plugins.families.own_words import own_words, row_of

    generator = RunContext("texts", seed=seed).generator("texts")
    rows = own_words(load_target(known, dtype=dtype, device=device), names[0], generator, how)
    with atomic_folder(place, force, KIND) as work:
        for name, part in zip(FILES, rows, strict=True):
            (work / name).write_text("".join(_line(row_of(pair)) for pair in part), encoding="utf-8")
    say(f"{len(rows[0])} texts to forget and {len(rows[1])} to retain; look at them before they are used:")
    say(f"  {quote(*_next(model, place, wording is None))}")
    emit({"schema": 1, "forget": len(rows[0]), "retain": len(rows[1]), "files": [str(place / name) for name in FILES]})


def _line(row: dict[str, Any]) -> str:
    return json.dumps(row, ensure_ascii=False) + "\n"


def _next(model: str, place: Any, person: bool) -> Sequence[str]:
    forget, retain = (str(place / name) for name in FILES)
    kind = ("--kind", "person") if person else ()
    return ("erase-plugins", "run", "npo", "--model", model, "--forget", forget, "--retain", retain, *kind, "--out",
            "forgotten")  # fmt: skip
