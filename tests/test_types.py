"""Records: JSON round trips, schema numbers, unknown fields, and requests that contradict themselves."""

from __future__ import annotations

import dataclasses
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from erase_plugins.errors import PluginError, RequestError
from erase_plugins.types import (
    KINDS,
    AttackReport,
    Certificate,
    Concept,
    DataRef,
    EditPlan,
    EraseRequest,
    EvalReport,
    EvalRow,
    Event,
    ForgetItem,
    PluginProblem,
    Record,
)

REQUEST = EraseRequest(
    model="pocket", concepts=(Concept("pizza"), Concept("van gogh", "style", ("a starry night",), anchor="art")),
    method="uce", options={"lam": 0.5, "words": ("a", "b")}, preserve=("hamburger",), seed=3, out="x",
)  # fmt: skip
ROW = EvalRow("target_rate", "edited", 0.25, 0.1, 0.4, 64)
PHOTOS = DataRef("photos", "forget", (), "0" * 64)
CERTIFICATE = Certificate(
    "noisy-gd", 1.5, 1e-6, "noisy-gd 1", "", True, (("rho_adaptive", 0.5), ("rho", 0.25)), ("full batch",), "the head",
    ("r-17",), "1" * 64,
)  # fmt: skip
RECORDS = [
    PHOTOS,
    CERTIFICATE,
    ForgetItem("tractor", "class", label=3, data=PHOTOS),
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
    plan = EditPlan.from_dict(json.loads(json.dumps(EditPlan(REQUEST, modules=("unet.a",)).to_dict())))
    assert plan.request.forget == REQUEST.forget
    assert plan.modules == ("unet.a",)
    report = EvalReport.from_dict(json.loads(json.dumps(EvalReport("quick", "pocket", (ROW,)).to_dict())))
    assert report.row("target_rate", "edited") == ROW
    with pytest.raises(RequestError, match="no kept_rate for base"):
        report.row("kept_rate", "base")


def test_every_record_is_tried_above():
    def below(cls):
        return {sub for child in cls.__subclasses__() for sub in (child, *below(child))}

    tried = {type(record) for record in RECORDS}
    homes = {f"erase_plugins.{name}" for name in ("types", "data", "reports", "results")}
    assert {cls for cls in below(Record) if cls.__module__ in homes} == tried


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
    with pytest.raises(RequestError, match="ForgetItem has schema"):
        Concept.from_dict({**Concept("pizza").to_dict(), "schema": schema})


def test_a_missing_field_is_named():
    with pytest.raises(RequestError, match=r"EvalRow is incomplete.*'n'"):
        EvalRow.from_dict({"metric": "m", "subject": "s", "value": 1, "low": 0, "high": 1})


@pytest.mark.parametrize("text", ["", "  ", "\n", None, 3])
def test_an_empty_concept_is_refused(text):
    with pytest.raises(RequestError, match="is empty"):
        Concept(text)


@pytest.mark.parametrize("kind", ["Thing", "two words", "", "-x", None, "a" * 41])
def test_a_kind_is_a_short_word(kind):
    with pytest.raises(RequestError, match=r"unusable kind .*; give a short lower-case word such as object, style"):
        Concept("pizza", kind)


def test_kinds_are_open():
    assert ForgetItem("Ada", "my-own-kind").kind == "my-own-kind"


def test_the_first_name_of_an_item_is_the_same_class():
    assert Concept is ForgetItem


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"text": "class", "label": 3}, "label 3 belongs to a class, not to kind object; say kind='class'"),
        ({"kind": "class", "label": True}, "label True is neither a number nor a name"),
        ({"kind": "samples", "data": "photos"}, "data is str; give a DataRef"),
        ({"kind": "samples"}, "is empty"),
    ],
)
def test_an_item_that_makes_no_sense_is_refused(arguments, words):
    with pytest.raises(RequestError, match=words):
        ForgetItem(**arguments)


@pytest.mark.parametrize(
    ("item", "name"),
    [
        (ForgetItem("tractor", "class", label=3), "tractor"), (ForgetItem(kind="class", label=0), "0"),
        (ForgetItem(kind="samples", data=DataRef("/home/ada/photos/")), "photos"),
    ],
)  # fmt: skip
def test_how_an_item_is_called(item, name):
    assert item.name == name


def test_new_fields_are_written_only_where_they_say_something():
    """Equal bytes for equal requests: what was written before these fields were there stays as it was."""
    assert set(Concept("pizza").to_dict()) == {"schema", "text", "kind", "prompts", "images", "anchor"}


# ---- the first names of forget and retain ---------------------------------------------------------------------------

SCHEMA_1 = {
    "schema": 1, "model": "pocket", "concepts": [{"schema": 1, "text": "pizza", "kind": "object", "prompts": [], "images": [], "anchor": None}],
    "method": "uce", "options": {}, "preserve": ["hamburger"], "revision": None, "family": None, "seed": 3, "device": "cpu",
    "dtype": "float32", "out": None, "colour": "red",
}  # fmt: skip


def test_a_request_of_schema_1_is_read():
    request = EraseRequest.from_dict(SCHEMA_1)
    assert request.forget == request.concepts == (ForgetItem("pizza"),)
    assert request.retain == request.preserve == ("hamburger",)
    assert (request.seed, request.extra) == (3, {"colour": "red"})
    assert EraseRequest.from_dict(request.to_dict()) == request


@pytest.mark.filterwarnings("error")
def test_first_names_are_accepted_without_noise():
    old = EraseRequest(model="pocket", concepts=(Concept("pizza"),), method="uce", preserve=("dog",))
    assert old == EraseRequest("pocket", (ForgetItem("pizza"),), "uce", retain=("dog",))
    data = dataclasses.replace(old, retain=("dog", PHOTOS))
    again = dataclasses.replace(data, concepts=(Concept("cat"),), preserve=("bird",))
    assert again.forget == (ForgetItem("cat"),)
    assert again.retain == ("bird", PHOTOS)
    assert (again.preserve, again.retain_data) == (("bird",), (PHOTOS,))


def test_every_field_of_a_request_is_an_argument_in_this_order():
    import inspect

    names = [item.name for item in dataclasses.fields(EraseRequest)]
    assert list(inspect.signature(EraseRequest).parameters) == [*names, "concepts", "preserve"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"forget": (ForgetItem(kind="samples", data=PHOTOS),), "retain": (PHOTOS,)}, "both erased and kept: photos"),
        ({"forget": (ForgetItem(kind="class", label=3), ForgetItem("3", "class"))}, "named twice in the erase list: 3"),
        ({"method": ""}, "no method was named"),
    ],
)
def test_contradictions_with_data_and_labels_are_refused(changes, words):
    with pytest.raises(RequestError, match=words):
        dataclasses.replace(REQUEST, **changes)


# ---- certificates ---------------------------------------------------------------------------------------------------


def test_the_headline_of_a_certificate():
    assert (
        CERTIFICATE.headline
        == "noisy-gd: rho_adaptive 0.5, epsilon 1.5 at delta 1e-06 (accountant noisy-gd 1; the head)"
    )
    doubtful = dataclasses.replace(CERTIFICATE, certified=False, reasons=("a seed was fixed",))
    assert doubtful.headline == "noisy-gd: not certified (a seed was fixed)"


def test_the_order_of_its_numbers_survives_json():
    again = Certificate.from_dict(json.loads(json.dumps(CERTIFICATE.to_dict(), sort_keys=True)))
    assert again == CERTIFICATE


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"reasons": ("a gap in the ledger",)}, "says certified, and against it: a gap in the ledger"),
        ({"certified": False}, "is not certified and gives no reason"),
        ({"certified": 1}, "does not say true or false"),
        ({"scope": "", "accountant": ""}, "says certified without accountant, scope"),
        ({"numbers": (), "epsilon": None, "delta": None}, "says certified without a number"),
        ({"delta": None}, "epsilon without its delta"),
        ({"delta": 1.0}, "0 <= delta < 1"),
        ({"epsilon": -1.0}, "epsilon >= 0"),
        ({"epsilon": float("nan")}, "not finite"),
        ({"epsilon": []}, "not finite"),
        ({"numbers": (("rho", 10**400),)}, "not finite"),
        ({"numbers": (("rho",),)}, "not finite"),
        ({"mechanism": ""}, "something else where a text belongs"),
    ],
)
def test_a_certificate_that_contradicts_itself_is_refused(changes, words):
    with pytest.raises(PluginError, match=words):
        dataclasses.replace(CERTIFICATE, **changes)


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


@pytest.mark.parametrize(
    "item", [Concept("pizza\nowl"), Concept("pizza\u2028owl"), Concept("cat", anchor="pizza\nowl")]
)
def test_a_name_of_several_lines_is_refused(item):
    """A pasted list became one concept, whose prompts no word of it was alone in."""
    with pytest.raises(RequestError, match="'pizza / owl' has several lines; name each concept by itself"):
        EraseRequest("pocket", (item,), "uce")
