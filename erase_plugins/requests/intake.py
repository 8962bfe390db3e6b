"""A request comes in: what is kept of it is a mark of each name, never the name."""

from __future__ import annotations

import datetime
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from erase_plugins.artifacts.chain_fields import is_name
from erase_plugins.artifacts.marks import canonical_name
from erase_plugins.data import DataRef
from erase_plugins.errors import RequestError
from erase_plugins.hints import Hint
from erase_plugins.requests.case import Case, Ledger
from erase_plugins.requests.deadlines import date, due, rule_of
from erase_plugins.requests.discreet import Discretion
from erase_plugins.requests.states import ANSWERED, KINDS, PRIVATE
from erase_plugins.requests.store import Desk


def receive(
    desk: Desk,
    what: str,
    subjects: Sequence[str],
    *,
    data: str | None = None,
    jurisdiction: str = "eu",
    days: int = 0,
    received: str | None = None,
    evidence: str | None = None,
    public: bool = False,
    role: str = "operator",
    dry_run: bool = False,
) -> tuple[str, Ledger]:
    """Enters a request.

    Args:
        desk: where.
        what: its kind, one of `erase_plugins.requests.states.KINDS`.
        subjects: names by which the subject goes; at least one.
        data: file or folder of what is to be forgotten; only an HMAC of its hash is kept.
        jurisdiction: whose deadline holds.
        days: another deadline, in days.
        received: day of the request, "2026-01-31"; today by the clock of this machine if None.
        evidence: number of a file or ticket, without names.
        public: what is made for it may be published.
        role: who enters it.
        dry_run: check only.

    Returns:
        Its random id, and all requests.

    Raises:
        RequestError: a wrong kind, no name, a name in the reference, a day to come, or public for a person.
    """
    names, facts = asked(what, subjects, jurisdiction, days, received, evidence, public)
    body = {
        "event": "received", "case": f"q{secrets.token_hex(6)}", "subjects": [desk.mark(name) for name in names],
        "data": None if data is None else desk.mark(data_hash(data, names)), **facts,
    }  # fmt: skip
    return str(body["case"]), desk.append(lambda _: [body], role, dry_run)


def asked(
    what: str, subjects: Sequence[str], jurisdiction: str = "eu", days: int = 0, received: str | None = None,
    evidence: str | None = None, public: bool = False,
) -> tuple[list[str], dict[str, Any]]:  # fmt: skip
    """The names of a request, and what the ledger will hold of the rest; checks all that can be without a desk.

    Args, Raises: as for `receive`.
    """
    if what not in KINDS:
        raise RequestError(f"unknown kind of request; choose one of {', '.join(KINDS)}")
    if public and what in PRIVATE:
        raise RequestError(
            f"what is made for a request of kind {what} is never published; ",
            Hint("public", before="leave", after="out"),
        )
    names = list(dict.fromkeys(canonical_name(text) for text in subjects))
    if not names:
        raise RequestError(
            "nobody and nothing was named; give ", Hint("subject", "NAME"), " or ", Hint("subject-file", "FILE")
        )
    if evidence is not None and Discretion(names).scrub(evidence) != evidence:
        raise RequestError("the reference holds the name that the ledger must not hold; give a number")
    if evidence is not None and not is_name(evidence):
        raise RequestError("the reference is a number or a short word in plain letters")
    today = datetime.datetime.now(datetime.UTC)
    # a letter has the date of the wall that it came in at; all later days are those of the ledger's times, in UTC
    day = today.astimezone().date() if received is None else date(received)
    if day > today.date() + datetime.timedelta(1):
        raise RequestError("the day of the request lies ahead")
    rule = "days" if days else jurisdiction
    return names, {
        "what": what, "day": day.isoformat(), "rule": rule, "days": days,
        "due": due(day, rule_of(rule, days)).isoformat(), "evidence": evidence, "public": public,
    }  # fmt: skip


def waiting_twins(ledger: Ledger, name: str) -> list[str]:
    """Ids of other requests about the same subject that nobody has answered yet: people write twice.

    Args:
        ledger: all requests.
        name: id of a request.
    """
    marks = set(ledger.case(name).last["received"]["subjects"])
    return [
        case.id
        for case in ledger.cases.values()
        if case.id != name and case.state not in ANSWERED and marks & set(case.last["received"]["subjects"])
    ]


def data_hash(data: str, names: Sequence[str]) -> str:
    """Hash of data, of which only an HMAC is kept: a plain hash of a few sentences could be guessed.

    Raises:
        RequestError: they cannot be read; a name in the name of the file is left out.
    """
    with Discretion(names).quiet():
        return DataRef(data).digest()


def recognise(desk: Desk, case: Case, subjects: Sequence[str], data: str | None = None) -> list[str]:
    """The names, if they are those of the request; the main one first, as they were given.

    Raises:
        RequestError: another name, one that is missing, or other data than came with the request.
    """
    marks = {desk.mark(name): " ".join(name.split()) for name in subjects}
    wanted = case.last["received"]
    if set(marks) != set(wanted["subjects"]):
        raise RequestError(
            f"the names given ({len(marks)}) are not those of request {case.id} ({len(wanted['subjects'])}); nothing "
            "of what was given is kept, so give the same ones as at its intake (",
            Hint("subject"),
            " or ",
            Hint("subject-file"),
            ")",
        )
    found = None if data is None else desk.mark(data_hash(data, subjects))
    if wanted["data"] is not None and found != wanted["data"]:
        raise RequestError(
            f"request {case.id} came with data, and {'none were' if data is None else 'others are'} given; give the ",
            "same ones with ",
            Hint("forget"),
        )
    return [marks[item] for item in wanted["subjects"]]


def names_in(subjects: Sequence[str], file: str | None) -> list[str]:
    """Names from options and from a text file with one a line.

    Raises:
        RequestError: the file cannot be read.
    """
    if file is None:
        return list(subjects)
    try:
        text = Path(file).read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:  # its name may be that of a person
        raise RequestError("there is no file at the path of ", Hint("subject-file")) from error
    except IsADirectoryError as error:
        raise RequestError("a folder is at the path of ", Hint("subject-file"), "; give a text file") from error
    except (OSError, UnicodeDecodeError) as error:
        raise RequestError(
            "the file of ", Hint("subject-file"), " cannot be read as UTF-8 text; one name a line"
        ) from error
    names = [line.strip() for line in text.splitlines() if line.strip()]
    if not names:
        raise RequestError("the file of ", Hint("subject-file"), " is empty; write one name a line")
    return [*subjects, *names]
