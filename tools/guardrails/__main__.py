"""Writes docs/results-guardrails.md: counts per guard and kind of prompt. Nothing is drawn; a minute on one core.

    python -m tools.guardrails [--language FOLDER]

With a folder of a language model its own embedding guard is asked about topics, too, which takes minutes; the counts
are kept in docs/results/guards-language.json.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tools.guardrails import topics
from tools.guardrails.prompts import PASSING, PERSON, SUBJECTS, Subject, kinds
from tools.guardrails.tables import by_keyword, write

PAGE = Path(__file__).resolve().parents[2] / "docs" / "results-guardrails.md"
LANGUAGE = PAGE.parent / "results" / "guards-language.json"
#: guard -> whether it hits a prompt
Guards = Mapping[str, Callable[[str], bool]]
Counts = dict[str, dict[str, tuple[int, int]]]
_KEY = bytes(range(32))


def plain(subject: Subject) -> Callable[[str], bool]:
    """What a filter without normalisation does: is the name in the text?"""
    return lambda text: subject.name.lower() in text.lower()


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


def counted(asked: Mapping[str, list[str]], guards: Guards) -> Counts:
    """Kind of prompt -> guard -> (hits, prompts)."""
    return {kind: {name: (sum(map(hit, prompts)), len(prompts)) for name, hit in guards.items()}
            for kind, prompts in asked.items()}  # fmt: skip


def added(tables: list[Counts]) -> Counts:
    """Sums over subjects."""
    first = tables[0]
    return {kind: {name: (sum(table[kind][name][0] for table in tables), sum(table[kind][name][1] for table in tables))
                   for name in row} for kind, row in first.items()}  # fmt: skip


def by_topic(folder: str) -> dict[str, Counts]:
    """Topic -> counts of the keyword guard and of the embedding guard of a language model."""
    from erase_plugins.workflow.models import as_target

    target, found = as_target(folder), {}
    for topic in topics.TOPICS:
        guards = {"keyword": by_keyword(topic.name), "embedding": by_embedding(topic.name, target)}
        found[topic.name] = counted(topics.kinds(topic), guards)
        sys.stderr.write(f"{topic.name}\n")
    return found


def markdown(table: Counts) -> str:
    """Hits of prompts; the share of the last rows is over-blocking."""
    names = list(next(iter(table.values())))
    lines = [f"| prompt | {' | '.join(names)} |", "|---" * (len(names) + 1) + "|"]
    for kind, row in table.items():
        label = f"{kind} (to pass)" if kind in (*PASSING, *topics.PASSING) else kind
        lines.append(f"| {label} | {' | '.join(f'{hits} of {count}' for hits, count in row.values())} |")
    return "\n".join(lines)


def page(concepts: Counts, person: Counts, language: Mapping[str, Any]) -> str:
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

## A language model

The guards of four topics ({", ".join(language["topics"])}) in front of {language["model"]}, whose own states
the embedding guard compares; made by `python -m tools.guardrails --language FOLDER`. Described questions do not
name the topic. Near ones share words or a field with it. All were written before they were first asked, and nothing
was changed after that. Near questions are hit often: those that have to pass belong into `--keep`,
which raises the threshold (none were given here).

{markdown(added(list(language["topics"].values())))}

{by_name(language["topics"])}
"""


def by_name(told: Mapping[str, Counts]) -> str:
    """What the embedding guard hits, topic by topic."""
    hits = {name: [row["embedding"] for row in table.values()] for name, table in told.items()}
    rows = [f"| {name} | {' | '.join(f'{hit} of {count}' for hit, count in row)} |" for name, row in hits.items()]
    return "\n".join(
        [f"| embedding guard of | {' | '.join(next(iter(told.values())))} |", "|---|---|---|---|---|", *rows]
    )


def main() -> None:
    """Counts and writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--language", help="folder of a language model that is asked anew")
    given = parser.parse_args()
    import erase_plugins as ep
    from erase_plugins.artifacts.atomic import atomic_file
    from erase_plugins.workflow.models import as_target

    target, tables = as_target(ep.load("pocket")), []
    for subject in SUBJECTS:
        words, meaning = by_keyword(subject.name), by_embedding(subject.name, target)
        guards = {
            "plain": plain(subject),
            "keyword": words,
            "HMAC": by_keyword(subject.name, _KEY),
            "embedding": meaning,
        }
        tables.append(counted(kinds(subject), {**guards, "both": either(words, meaning)}))
        sys.stderr.write(f"{subject.name}\n")
    person = counted(kinds(PERSON), {"plain": plain(PERSON), "HMAC": by_keyword(PERSON.name, _KEY)})
    if given.language:
        told = {"model": Path(given.language).name, "topics": by_topic(given.language)}
        with atomic_file(LANGUAGE) as work:
            work.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
    language = json.loads(LANGUAGE.read_text(encoding="utf-8"))
    with atomic_file(PAGE) as work:
        work.write_text(page(added(tables), person, language), encoding="utf-8")
    write(PAGE.parents[1], lambda name, kind: by_embedding(name, target, kind))


if __name__ == "__main__":
    main()
