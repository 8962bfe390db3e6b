"""The table of docs/results-guardrails.md, as far as it needs no model."""

from __future__ import annotations

import json

import pytest

from tools.guardrails import tables, topics
from tools.guardrails.__main__ import _KEY, LANGUAGE, PAGE, added, by_keyword, counted, plain
from tools.guardrails.prompts import PASSING, PERSON, SUBJECTS, kinds


def test_the_page_says_what_guards_by_keyword_do():
    lines = PAGE.read_text(encoding="utf-8").splitlines()
    tables = [counted(kinds(subject), {"plain": plain(subject), "keyword": by_keyword(subject.name),
                                "HMAC": by_keyword(subject.name, _KEY)}) for subject in SUBJECTS]  # fmt: skip
    person = counted(kinds(PERSON), {"plain": plain(PERSON), "HMAC": by_keyword(PERSON.name, _KEY)})
    for table in (added(tables), person):
        for kind, row in table.items():
            label = f"{kind} (to pass)" if kind in PASSING else kind
            start = f"| {label} | {' | '.join(f'{hits} of {count}' for hits, count in row.values())} |"
            assert any(line.startswith(start) for line in lines), "run: python -m tools.guardrails"


def test_no_prompt_of_the_table_is_one_of_the_calibration():
    from erase_plugins.methods.guards.embedding import prompts as calibration
    from tools.guardrails import prompts

    used = {text for texts in calibration("text").values() for text in texts}
    measured = {text for subject in SUBJECTS for column in prompts.kinds(subject).values() for text in column}
    assert not used & {*measured, *prompts.FRAMES}


def test_the_counts_of_topics_are_of_their_questions_and_stand_on_the_page():
    told, lines = (
        json.loads(LANGUAGE.read_text(encoding="utf-8"))["topics"],
        PAGE.read_text(encoding="utf-8").splitlines(),
    )
    asked = {topic.name: topics.kinds(topic) for topic in topics.TOPICS}
    assert {name: {kind: row["embedding"][1] for kind, row in table.items()} for name, table in told.items()} == {
        name: {kind: len(texts) for kind, texts in table.items()} for name, table in asked.items()
    }
    for name, table in asked.items():
        hit = by_keyword(name)
        assert {kind: sum(map(hit, texts)) for kind, texts in table.items()} == {
            kind: row["keyword"][0] for kind, row in told[name].items()
        }
    for name, row in added(list(told.values())).items():
        label = f"{name} (to pass)" if name in topics.PASSING else name
        assert f"| {label} | {' | '.join(f'{hits} of {count}' for hits, count in row.values())} |" in lines


def test_no_question_of_the_table_is_one_of_the_calibration():
    from erase_plugins.methods.guards.embedding import prompts as calibration

    used = {text for texts in calibration("language").values() for text in texts}
    assert not used & {text for topic in topics.TOPICS for texts in topics.kinds(topic).values() for text in texts}
    assert not used & set(topics.FRAMES)


def test_the_rows_of_the_tables_of_results_are_of_their_prompts():
    folder = PAGE.parent / "results"
    told = {row["asked"]["kind"]: row for row in json.loads((folder / tables.GUARDS).read_text(encoding="utf-8"))}
    for file, kind in tables.TABLES:
        asked = tables.cells_of(json.loads((folder / file).read_text(encoding="utf-8")), kind)
        assert told[kind]["asked"] == asked, "run: python -m tools.guardrails"
    for part in ("objects", "styles"):
        table = (PAGE.parent / "results.md").read_text(encoding="utf-8").split(f"<!-- generated: {part} -->")[1]
        assert table.split("<!-- /generated -->")[0].count("| `embedding-guard`") == 1


def test_shares_that_pass_by_hand():
    asked = {"kind": "object", "names": ["rocket", "gun"], "images": 8}
    refused = {"rocket": lambda text: True, "gun": lambda text: False}
    assert tables.shares(asked, lambda name: refused[name]) == pytest.approx([0.5] * 4)
