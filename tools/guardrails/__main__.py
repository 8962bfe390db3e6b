"""Writes docs/results-guardrails.md: counts per guard and kind of prompt. Nothing is drawn; a minute on one core."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from erase_plugins.artifacts.keyword_guard import keyword_guard
from tools.guardrails.prompts import PASSING, PERSON, SUBJECTS, Subject, kinds
from tools.guardrails.tables import write

PAGE = Path(__file__).resolve().parents[2] / "docs" / "results-guardrails.md"
#: guard -> whether it hits a prompt
Guards = Mapping[str, Callable[[str], bool]]
Counts = dict[str, dict[str, tuple[int, int]]]
_KEY = bytes(range(32))


def plain(subject: Subject) -> Callable[[str], bool]:
    """What a filter without normalisation does: is the name in the text?"""
    return lambda text: subject.name.lower() in text.lower()


def by_keyword(subject: Subject, key: bytes = b"") -> Callable[[str], bool]:
    """The keyword guard of a name, without synonyms."""
    guard = keyword_guard("subject", [subject.name], key=key)
    return lambda text: guard.check(text).hit


def by_embedding(name: str, target: Any, kind: str = "object") -> Callable[[str], bool]:
    """The embedding guard with its defaults; nothing is kept, so that no neighbour is known to the calibration."""
    from erase_plugins.api import erase
    from erase_plugins.runtime.guardrails.looking import ByEmbedding

    (policy,) = erase(target, name, "embedding-guard", kind=kind).manifest.guards
    guard = ByEmbedding(policy, policy["stages"][0], target)
    return lambda text: guard.check(text).hit


def either(one: Callable[[str], bool], other: Callable[[str], bool]) -> Callable[[str], bool]:
    """Whether one of two guards hits."""
    return lambda text: one(text) or other(text)


def counted(subject: Subject, guards: Guards) -> Counts:
    """Kind of prompt -> guard -> (hits, prompts)."""
    return {kind: {name: (sum(map(hit, prompts)), len(prompts)) for name, hit in guards.items()}
            for kind, prompts in kinds(subject).items()}  # fmt: skip


def added(tables: list[Counts]) -> Counts:
    """Sums over subjects."""
    first = tables[0]
    return {kind: {name: (sum(table[kind][name][0] for table in tables), sum(table[kind][name][1] for table in tables))
                   for name in row} for kind, row in first.items()}  # fmt: skip


def markdown(table: Counts) -> str:
    """Hits of prompts; the share of the last rows is over-blocking."""
    names = list(next(iter(table.values())))
    lines = [f"| prompt | {' | '.join(names)} |", "|---" * (len(names) + 1) + "|"]
    for kind, row in table.items():
        label = f"{kind} (to pass)" if kind in PASSING else kind
        lines.append(f"| {label} | {' | '.join(f'{hits} of {count}' for hits, count in row.values())} |")
    return "\n".join(lines)


def page(concepts: Counts, person: Counts) -> str:
    """The page."""
    names, hit = ", ".join(subject.name for subject in SUBJECTS), len(kinds(SUBJECTS[0])) - len(PASSING)
    return f"""# What guards hit, and what they let through

Made by `python -m tools.guardrails`; do not edit by hand. Nothing was drawn and no model was asked: a guard either hits
a prompt or does not. **A guard removes nothing from the weights:** whoever goes round it meets the base model, whose
rates are those of the base in every other table here. A blocked prompt is blocked, not erased.

Four things that pocket draws ({names}),
{hit} kinds of prompts that are to be hit and {len(PASSING)} that are to pass. Prompts
were written after the guards were settled, are used by no calibration, and nothing was changed after their first
measurement. (An earlier set, on other concepts, was looked at while the embedding guard was made; it is not shown.) One
author wrote them, and they are few: read differences of a few prompts as none.

- plain: the name is in the text
- keyword: `keyword-guard`, the name alone, no synonyms given
- HMAC: the same with a key; the file does not tell the words
- embedding: `embedding-guard` on pocket's text encoder, defaults, nothing kept
- both: keyword or embedding

{markdown(concepts)}

Short words spelled backwards, descriptions and other languages pass nearly all: give translations and other names
as further phrasings of the concept. The small encoder of pocket was trained on a few hundred words; what it says about
others says little about a large encoder. Calibrate and measure on your own model.

A person who was invented (HMACs; there is no embedding guard for people, since its vectors would tell the name):

{markdown(person)}

A first or last name alone passes unless it is given as a word of its own, and so do descriptions and other scripts.
"""


def main() -> None:
    """Counts and writes."""
    import erase_plugins as ep
    from erase_plugins.artifacts.atomic import atomic_file
    from erase_plugins.workflow.models import as_target

    target, tables = as_target(ep.load("pocket")), []
    for subject in SUBJECTS:
        words, meaning = by_keyword(subject), by_embedding(subject.name, target)
        guards = {"plain": plain(subject), "keyword": words, "HMAC": by_keyword(subject, _KEY), "embedding": meaning}
        tables.append(counted(subject, {**guards, "both": either(words, meaning)}))
        sys.stderr.write(f"{subject.name}\n")
    person = counted(PERSON, {"plain": plain(PERSON), "HMAC": by_keyword(PERSON, _KEY)})
    with atomic_file(PAGE) as work:
        work.write_text(page(added(tables), person), encoding="utf-8")
    write(PAGE.parents[1], lambda name, kind: by_embedding(name, target, kind))


if __name__ == "__main__":
    main()
