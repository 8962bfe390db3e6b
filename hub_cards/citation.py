"""BibTeX for the paper behind a method: the method's own entry, or one made from the link to its paper."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from hub_cards.escape import flat

_ARXIV = re.compile(r"arxiv\.org/(?:abs|pdf)/(\d{4}\.\d{4,5})")
_LINK = re.compile(r"https://[\w./-]+")


def paper_link(method: Mapping[str, Any]) -> str | None:
    """The link to the method's paper, if it is a plain one."""
    link = str(method.get("paper") or "")
    return link if _LINK.fullmatch(link) else None


def citations(method: Mapping[str, Any]) -> list[str]:
    """BibTeX entries for the method of a manifest; none if it names no paper.

    A registered method may carry its entry as ``citation``. Otherwise one is made from title and link: for arXiv with
    number and year, else with the link alone.
    """
    from erase_plugins.errors import UnknownName
    from erase_plugins.manager import get_manager

    found = []
    for name in str(method.get("id") or "").split("+"):  # a sum of several methods names them all
        try:
            item = get_manager().method(name)
        except UnknownName:
            continue
        own = str(getattr(item, "citation", "") or "").strip()
        found.append(own or _from_link(name, {"title": item.title, "paper": item.paper}))
    return [text for text in found or [_from_link(str(method.get("id")), method)] if text]


def _from_link(key: str, method: Mapping[str, Any]) -> str:
    link = paper_link(method)
    if link is None:
        return ""
    title = re.sub(r"[{}\\\"%@]", "", flat(method.get("title") or key))
    rows = [f"title = {{{title}}}"]
    number = _ARXIV.search(link)
    if number:
        year = int(number[1][:2])
        rows += [f"year = {{20{year:02}}}", f"eprint = {{{number[1]}}}", "archivePrefix = {arXiv}"]
    rows.append(f"url = {{{link}}}")
    name = re.sub(r"\W", "", key) or "method"
    return f"@misc{{{name},\n  " + ",\n  ".join(rows) + "\n}"
