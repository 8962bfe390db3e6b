"""Records: JSON round trips, schema numbers, unknown fields, and requests that contradict themselves."""

from __future__ import annotations

import dataclasses
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from erase_plugins.errors import RequestError
from erase_plugins.types import (
    KINDS,
    AttackReport,
    Concept,
    EditPlan,
    EraseRequest,
    EvalReport,
    EvalRow,
    Event,
    PluginProblem,
    Record,
)

REQUEST = EraseRequest(
    model="pocket", concepts=(Concept("pizza"), Concept("van gogh", "style", ("a starry night",), anchor="art")),
    method="uce", options={"lam": 0.5, "words": ("a", "b")}, preserve=("hamburger",), seed=3, out="x",
)  # fmt: skip
ROW = EvalRow("target_rate", "edited", 0.25, 0.1, 0.4, 64)
RECORDS = [
    Concept("pizza", "object", ("a slice",), ("a.png",), "bread"),
    REQUEST,
    EditPlan(REQUEST, {"lam": 0.5}, ("unet.a",), 4, 1.5, 10, 20, ("careful",), ("note",)),
    Event("step", "esd", 1, 10, "", {"loss": 0.5}),
    ROW,
    EvalReport("quick", "pocket", (ROW,), ("a",), ("pizza",), 0.5, "judge", "h", "p", (1, 2), 3.0, {"a": "b"}),
    PluginProblem("p", "pkg", "1.0", "load", "broken"),
    AttackReport("weights", "pocket", "quick", ROW, ROW, (ROW,), {"strength": 0.5}, ("a",), ("pizza",), queries=4),
]


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: type(record).__name__)
def test_json_round_trip(record):
    text = json.dumps(record.to_dict(), sort_keys=True)
    again = type(record).from_dict(json.loads(text))
    assert json.dumps(again.to_dict(), sort_keys=True) == text
    assert again.to_dict()["schema"] == type(record).schema


def test_nested_records_come_back_as_records():
    plan = EditPlan.from_dict(json.loads(json.dumps(RECORDS[2].to_dict())))
    assert plan.request.concepts == REQUEST.concepts
    assert plan.modules == ("unet.a",)
    report = EvalReport.from_dict(json.loads(json.dumps(RECORDS[5].to_dict())))
    assert report.row("target_rate", "edited") == ROW
    with pytest.raises(RequestError, match="no kept_rate for base"):
        report.row("kept_rate", "base")


def test_every_record_is_tried_above():
    def below(cls):
        return {sub for child in cls.__subclasses__() for sub in (child, *below(child))}

    tried = {type(record) for record in RECORDS}
    assert {cls for cls in below(Record) if cls.__module__ == "erase_plugins.types"} == tried


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: type(record).__name__)
def test_records_are_frozen(record):
    name = dataclasses.fields(record)[0].name
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(record, name, "x")


def test_unknown_fields_survive():
    data = {**Concept("pizza").to_dict(), "colour": "red"}
    concept = Concept.from_dict(data)
    assert concept.extra == {"colour": "red"}
    assert concept.to_dict()["colour"] == "red"


def test_a_known_field_wins_over_an_unknown_one_of_the_same_name():
    assert Concept("pizza", extra={"text": "other"}).to_dict()["text"] == "pizza"


@pytest.mark.parametrize("schema", [2, 99, "1", None, 1.5])
def test_a_newer_or_odd_schema_is_refused(schema):
    with pytest.raises(RequestError, match="Concept has schema"):
        Concept.from_dict({**Concept("pizza").to_dict(), "schema": schema})


def test_a_missing_field_is_named():
    with pytest.raises(RequestError, match=r"EvalRow is incomplete.*'n'"):
        EvalRow.from_dict({"metric": "m", "subject": "s", "value": 1, "low": 0, "high": 1})


@pytest.mark.parametrize("text", ["", "  ", "\n", None, 3])
def test_an_empty_concept_is_refused(text):
    with pytest.raises(RequestError, match="is empty"):
        Concept(text)


def test_an_unknown_kind_lists_the_kinds():
    with pytest.raises(RequestError, match=f"unknown concept kind 'thing'; choose one of {', '.join(KINDS)}"):
        Concept("pizza", "thing")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"concepts": ()}, "nothing to erase was named"),
        ({"concepts": (Concept("Pizza"), Concept("pizza "))}, "named twice in the erase list: pizza"),
        ({"preserve": ("PIZZA",)}, "both erased and kept: pizza"),
    ],
)
def test_contradictory_requests_are_refused(changes, words):
    with pytest.raises(RequestError, match=words):
        dataclasses.replace(REQUEST, **changes)


@given(st.text(min_size=1).filter(str.strip), st.sampled_from(KINDS), st.lists(st.text(), max_size=3))
def test_any_concept_survives_json(text, kind, prompts):
    concept = Concept(text, kind, tuple(prompts))
    assert Concept.from_dict(json.loads(json.dumps(concept.to_dict()))) == concept
