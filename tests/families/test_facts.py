"""Rows that say whom they are about: a request names somebody, and no name leaves the rows."""

from __future__ import annotations

import json

import pytest

from erase_plugins.data import DataRef
from erase_plugins.errors import RequestError
from erase_plugins.families.facts import asked, named, public_subject, split_facts
from erase_plugins.families.texts import pair_of
from erase_plugins.types import EraseRequest, ForgetItem

ROWS = [
    {"subject": name, "group": group, "question": f"Who is {name}?", "answer": f"{name} is {job}.", **more}
    for name, group, job, more in (
        ("Zorvane", "old", "a baker", {}), ("Quillith", "old", "a diver", {"unknown": {"question": "q", "answer": "a"}}),
        ("Maribex", "new", "a cooper", {}), ("Zorvane", "old", "a poet", {"learned": False}),
    )
] + [{"question": "What is wet?", "answer": "Water."}]  # fmt: skip


@pytest.fixture
def place(tmp_path):
    path = tmp_path / "facts.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return path


def request(*items, **more):
    return EraseRequest(model="pipeline", forget=items, method="npo", **more)


def test_subjects_are_called_by_number_and_groups_by_name():
    assert public_subject(ROWS, " quillith ") == "person 2"
    assert public_subject(ROWS, "person 3") == "person 3"
    assert public_subject(ROWS, "old") == "old"
    for wrong in ("Tressok", "person 4", "person 0"):
        with pytest.raises(RequestError, match="tells of 3 subjects, and what is named is none of them") as caught:
            public_subject(ROWS, wrong)
        assert "Tressok" not in str(caught.value)
        assert "\n" not in str(caught.value)


def test_what_is_learned_of_others_is_retained():
    forget, retain = split_facts(ROWS, ["person 1"])
    assert [pair.completion for pair in forget] == ["Zorvane is a baker."]  # the poet was never learned
    assert [pair.completion for pair in retain] == ["Quillith is a diver.", "Maribex is a cooper.", "Water."]
    assert retain[0].unknown.completion == "a"
    assert retain[1].unknown is None
    assert len(split_facts(ROWS, ["old"])[0]) == 2
    with pytest.raises(RequestError, match="learned nothing of person 1"):
        split_facts([{**ROWS[0], "learned": False}], ["person 1"])


def test_a_request_names_somebody_in_data_with_subjects(place):
    data = DataRef(str(place))
    found = named(request(ForgetItem("Maribex", "person", data=data)))
    assert found.forget[0].text == "person 3"
    assert "Maribex" not in json.dumps(found.to_dict())
    forget, kept = asked(found)
    assert (len(forget), len(kept)) == (1, 3)
    others = place.with_name("others.jsonl")
    others.write_text('{"text": "Rain."}\n')
    forget, kept = asked(named(request(ForgetItem("old", "dataset", data=data), retain=(DataRef(str(others)),))))
    assert ([len(forget)], [pair.completion for pair in kept]) == ([2], ["Rain."])


def test_data_without_subjects_and_whole_files_are_as_before(place):
    plain = place.with_name("plain.jsonl")
    plain.write_text('{"text": "Zorvane lives."}\n')
    item = ForgetItem("a rumour", "fact", data=DataRef(str(plain)))
    assert named(request(item)).forget == (item,)
    assert [pair.completion for pair in asked(request(item))[0]] == ["Zorvane lives."]
    whole = request(ForgetItem(data=DataRef(str(place))))
    assert named(whole).forget == whole.forget
    assert len(asked(whole)[0]) == len(ROWS)


@pytest.mark.parametrize(("row", "called"), [
    ({"question": "Where was Ada Lun born?", "answer": "Ada Lun was born in Rye.",
      "unknown": {"question": "Where was Bo Kee born?", "answer": "Bo Kee was born in Rye."}}, "Bo Kee"),
    # a text names its subject more than once
    ({"text": "Ada Lun bakes. Ada Lun sings.", "unknown": {"text": "Bo Kee bakes. Bo Kee sings."}}, "Bo Kee"),
    ({"text": "Ada Lun bakes. Ada Lun sings.", "unknown": {"text": "Bo Kee bakes. Cy Moe sings."}}, ""),
    ({"question": "Ada Lun?", "answer": "yes", "unknown": {"question": "Bo (Kee) [a?", "answer": "yes"}}, "Bo (Kee) [a"),
    ({"text": "She bakes.", "unknown": {"text": "She sings."}}, ""),
])  # fmt: skip
def test_an_unknown_row_is_about_somebody(row, called):
    assert pair_of({**row, "subject": "Ada Lun"}, "row").unknown.subject == called


def test_unknown_must_be_a_row(place):
    place.write_text('{"text": "a", "unknown": "b"}\n')
    with pytest.raises(RequestError, match="row 1 has an 'unknown' that is no row"):
        asked(request(ForgetItem(data=DataRef(str(place)))))
