"""What a language model is asked: facts to forget and others, put in other words, cued, cut off; texts; what all know.

Everything comes from rows as in `erase_plugins.families.facts`: ``question``, ``answer``, ``wrong`` (other answers in
the same words), ``value`` (what the answer turns on), ``fact`` (rows of one subject with the same one say the same),
``translated`` (the question in other languages, each with ``question`` and, where it differs, ``value``), and rows of
``text``. No torch.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from erase_plugins.errors import RequestError
from erase_plugins.families.facts import split_facts
from erase_plugins.families.texts import PLAIN, Pair
from erase_plugins.plain_text import whole_words

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Fact:
    """One fact: as the model learned it, and in other words.

    Attributes:
        learned, other: rows with ``question`` and ``answer``; the second was never learned in these words.
        value: what the answer turns on.
        cue: other facts of the same subject as questions and answers, one after the other.
        translated: the question in other languages, each with what a true answer holds there.
    """

    learned: Row
    other: Row
    value: str
    cue: str = ""
    translated: tuple[tuple[str, str], ...] = ()

    @property
    def question(self) -> str:
        """The question as the model learned it."""
        return str(self.learned["question"])

    @property
    def answer(self) -> str:
        """The answer as the model learned it."""
        return str(self.learned["answer"])

    @property
    def beginning(self) -> str:
        """The answer up to what it turns on; empty if it begins with that."""
        return self.up_to_value(self.answer)

    def up_to_value(self, answer: str) -> str:
        """An answer up to what it turns on; empty if it begins with that, or does not hold it."""
        places = [found.start() for found in re.finditer(whole_words(self.value), answer)]
        return answer[: places[-1] if places else 0].strip()

    def __repr__(self) -> str:  # a traceback shows no text
        return "Fact(...)"


@dataclass(frozen=True)
class Probes:
    """Facts and texts by what they are for: ``forget``, ``retain``, ``unseen`` (never learned), ``general``."""

    facts: Mapping[str, Sequence[Fact]]
    texts: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def __repr__(self) -> str:
        return f"Probes({', '.join(f'{len(items)} {name}' for name, items in self.facts.items())})"


def probes_of(rows: Sequence[Row], names: Sequence[str], place: str) -> Probes:
    """All probes.

    Args:
        rows: what is told of everybody.
        names: whom to forget, as `erase_plugins.families.facts.public_subject` gives them.
        place: what messages call the rows.

    Raises:
        RequestError: there is nothing to ask about those to forget, or about others.
    """
    split_facts(rows, names, place)
    gone = _chosen(rows, names)
    told: dict[str, list[Row]] = {"forget": [], "retain": [], "unseen": [], "general": []}
    learned = {row.get("subject") for row in rows if row.get("learned", True)}
    for row, mine in zip(rows, gone, strict=True):
        subject = row.get("subject")
        told["forget" if mine else "general" if not subject else "retain" if subject in learned else "unseen"].append(
            row
        )
    facts = {name: _facts(part) for name, part in told.items()}
    texts = {name: [str(row["text"]) for row in part if "text" in row] for name, part in told.items()}
    if not facts["forget"] or not facts["retain"]:
        raise RequestError(
            f"'{place}' has {len(facts['forget'])} facts to ask about what was forgotten and {len(facts['retain'])} "
            "about others; give rows with question, answer, value and wrong answers of both"
        )
    return Probes(facts, texts)


def asked(question: str, before: str = "", begun: str = "") -> Pair:
    """A question as the model learns answers to it: in a chat as what the user says.

    Args:
        question: the question.
        before: other questions and answers in front of it.
        begun: how the answer begins.
    """
    begun = f" {begun}" if begun else ""
    if before:
        return Pair(before + PLAIN.format(question), ".", "a question", begun=begun, ends=False)
    return Pair(question, ".", "a question", True, begun=begun, ends=False)


def _chosen(rows: Sequence[Row], names: Sequence[str]) -> list[bool]:
    subjects = list(dict.fromkeys(str(row["subject"]) for row in rows if row.get("subject")))
    numbers = {f"person {number}": subject for number, subject in enumerate(subjects, 1)}
    chosen = {numbers[name] for name in names if name in numbers}
    return [row.get("subject") in chosen or row.get("group") in names for row in rows]


def _facts(rows: Sequence[Row]) -> list[Fact]:
    found: dict[tuple[Any, Any], list[Row]] = {}
    for number, row in enumerate(rows):
        if "question" in row and row.get("wrong") and str(row.get("value") or "").strip():
            found.setdefault((row.get("subject"), row.get("fact", number)), []).append(row)
    facts = []
    for (subject, _), same in found.items():
        others = [part[0] for (who, _), part in found.items() if who == subject and subject and part is not same]
        cue = "".join(f"{PLAIN.format(row['question'])} {row['answer']}\n" for row in others[:2])
        value = str(same[0]["value"])
        translated = [(str(item["question"]), str(item.get("value", value)))
                      for row in same for item in row.get("translated", ())]  # fmt: skip
        facts.append(Fact(same[0], same[-1], value, cue, tuple(translated)))
    return facts
