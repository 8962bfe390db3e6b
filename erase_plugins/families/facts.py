"""Texts by whom they are about: a request names a subject or a group, and its rows are found. No torch at import.

Rows as in `erase_plugins.families.texts` may have ``subject`` (whom it is about), ``group`` (a name for many of them)
and ``learned`` (false: the model never saw the row). A model folder may hold such rows in ``facts.jsonl``; a request
then needs no data. Plans, manifests and messages call a subject by its number in the rows only.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from erase_plugins.data import DataRef
from erase_plugins.errors import EraseError, RequestError
from erase_plugins.families.source import find_source
from erase_plugins.families.texts import Pair, canonical, pair_of, pairs_of
from erase_plugins.hints import Hint

if TYPE_CHECKING:
    from erase_plugins.types import EraseRequest

FACTS = "facts.jsonl"
_NUMBER = re.compile(r"person (\d{1,9})")
Rows = Sequence[Mapping[str, Any]]


def facts_beside(folder: Any) -> DataRef | None:
    """The rows that lie in a model folder, None if there are none."""
    path = Path(str(folder or "-")) / FACTS
    return DataRef(str(path)) if path.is_file() else None


def named(request: EraseRequest) -> EraseRequest:
    """The request with subjects called by their number, and with the rows beside the model where it gives none.

    Raises:
        RequestError: rows with subjects, none of them the one that is named.
    """
    beside, items = None, []
    if any(item.data is None for item in request.forget):
        try:
            beside = facts_beside(find_source(request.model, request.revision).folder)
        except EraseError:  # a model that was loaded already has no place here
            beside = None
    for item in request.forget:
        data = item.data or beside
        if data is not None and item.text.strip() and (rows := _told(data)):
            item = replace(item, text=public_subject(rows, item.text, data.name), data=data)
        items.append(item)
    return replace(request, forget=tuple(items))


def tells_of_others(request: EraseRequest) -> bool:
    """Whether the rows to forget are some of many, so that the others are what is retained."""
    return any(item.text.strip() and item.data is not None and _told(item.data) for item in request.forget)


def asked(request: EraseRequest) -> tuple[list[Pair], list[Pair]]:
    """What is to be forgotten and what is to stay, as the request says or as the rows beside it say.

    Raises:
        RequestError: see `pairs_of` and `split_facts`.
    """
    whole = [item.data for item in request.forget if item.data is not None and not item.text.strip()]
    chosen: dict[tuple[str, str], tuple[DataRef, list[str]]] = {}
    for item in request.forget:
        if item.data is not None and item.text.strip():
            chosen.setdefault(item.data.place, (item.data, []))[1].append(item.text)
    forget = [pair for data in whole for pair in pairs_of(data)]
    kept = [pair for data in request.retain_data for pair in pairs_of(data)]
    others: list[Pair] = []
    for data, names in chosen.values():
        rows = _told(data)
        mine, rest = split_facts(rows, names, data.name) if rows else (pairs_of(data), [])
        forget, others = forget + mine, others + rest
    return forget, kept or others


def public_subject(rows: Rows, name: str, place: str = FACTS) -> str:
    """How a request calls a subject or a group without telling who it is: "person 7", or the group.

    Args:
        rows: all that is told.
        name: a subject (case and spaces do not count), "person 7", or a group.
        place: what messages call the rows.

    Raises:
        RequestError: neither; does not repeat the name.
    """
    groups = list(dict.fromkeys(str(row["group"]) for row in rows if row.get("group")))
    if name in groups:
        return name
    subjects = _subjects(rows)
    numbers = {canonical(subject): number for number, subject in enumerate(subjects, 1)}
    given = _NUMBER.fullmatch(name.strip())
    number = int(given[1]) if given else numbers.get(canonical(name), 0)
    if not 1 <= number <= len(subjects):
        raise RequestError(
            f"'{place}' tells of {len(subjects)} subjects, and what is named is none of them; look at the spelling, "
            f"say 'person 1' to 'person {len(subjects)}' or a group ({', '.join(groups) or 'there is none'}), or give "
            "other texts: ",
            Hint("forget", "FILE.jsonl"),
        )
    return f"person {number}"


def split_facts(rows: Rows, names: Sequence[str], place: str = FACTS) -> tuple[list[Pair], list[Pair]]:
    """What the model learned about some, and all else that it learned.

    Args:
        rows: all that is told.
        names: as `public_subject` gives them.
        place: what messages call the rows.

    Raises:
        RequestError: nothing about them was learned, or a row without the fields.
    """
    subjects = _subjects(rows)
    forget: list[Pair] = []
    retain: list[Pair] = []
    chosen = {subjects[int(given[1]) - 1] for given in map(_NUMBER.fullmatch, names) if given}
    for number, row in enumerate(rows, 1):
        if row.get("learned", True):
            mine = row.get("subject") in chosen or row.get("group") in names
            (forget if mine else retain).append(pair_of(row, f"data '{place}', row {number}"))
    if not forget:
        raise RequestError(f"the model learned nothing of {', '.join(names)}; name what it learned")
    return forget, retain


def _told(data: DataRef) -> list[Mapping[str, Any]]:
    """The rows of data that says whom they are about; none if it does not."""
    rows = list(data.rows())
    return rows if any(row.get("subject") for row in rows) else []


def _subjects(rows: Rows) -> list[str]:
    return list(dict.fromkeys(str(row["subject"]) for row in rows if row.get("subject")))
