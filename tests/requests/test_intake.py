"""What people at the intake do: write twice, name a file that is not there, follow the line that says what is next."""

from __future__ import annotations

import shlex
import time
from datetime import datetime, timedelta, timezone

import click
import pytest

from erase_plugins.cli.main import cli
from erase_plugins.cli.request_said import planned_model
from erase_plugins.errors import RequestError
from erase_plugins.requests import decisions
from erase_plugins.requests.intake import names_in, receive, waiting_twins
from erase_plugins.requests.store import Desk
from erase_plugins.workflow.request_plan import data_for
from tests.cli.conftest import erase  # noqa: F401
from tests.requests.conftest import CANARY, OTHER


def test_a_second_letter_about_somebody_is_noticed_until_the_first_is_answered(tmp_path):
    desk = Desk.create(tmp_path / "desk")
    first, ledger = receive(desk, "person", [CANARY])
    assert waiting_twins(ledger, first) == []
    _, ledger = receive(desk, "person", [OTHER])
    second, ledger = receive(desk, "person", [f" {CANARY.upper()} ", "another spelling"])
    assert waiting_twins(ledger, second) == [first]
    ledger = decisions.decide(desk, first, "reject", "duplicate")
    assert waiting_twins(ledger, second) == []


def test_the_command_line_says_what_to_do_about_it_and_no_name(erase, tmp_path):  # noqa: F811
    words = ("request", "new", tmp_path / "desk", "--kind", "person", "--subject", CANARY)
    assert "same subject" not in erase(*words).err
    ran = erase(*words)
    assert "is about the same subject and still open" in ran.err
    assert CANARY not in ran.err + ran.out
    line = ran.err.partition("letter: erase-plugins ")[2]
    assert erase(*shlex.split(line)).code == 0


def test_what_is_next_is_a_whole_command(erase, tmp_path):  # noqa: F811
    ran = erase("request", "new", tmp_path / "desk", "--kind", "person", "--subject", CANARY)
    group, name, *words = shlex.split(ran.out.partition("next: erase-plugins ")[2])
    words[-1] = words[-1].split("|")[0]  # one of those that it offers
    command = cli.get_command(click.Context(cli), group).commands[name]
    command.make_context(name, words).close()


def test_status_of_one_request_says_how_it_goes_on(erase, tmp_path):  # noqa: F811
    desk = Desk.create(tmp_path / "desk")
    first, _ = receive(desk, "person", [CANARY])
    receive(desk, "person", [OTHER])
    ran = erase("request", "status", tmp_path / "desk", first)
    assert f"next: erase-plugins request verify {tmp_path / 'desk'} {first} --identity" in ran.out
    found = erase("request", "status", tmp_path / "desk", first, "--json").data["requests"]
    assert [item["case"] for item in found] == [first]
    assert len(erase("request", "status", tmp_path / "desk", "--json").data["requests"]) == 2
    assert erase("request", "status", tmp_path / "desk", "r-nobody").code == 2


def test_a_letter_that_lay_too_long_is_late_from_the_start(erase, tmp_path):  # noqa: F811
    words = ("request", "new", tmp_path / "desk", "--kind", "person", "--subject", CANARY)
    assert "overdue" not in erase(*words).err
    assert "is overdue (2025-02-28 UTC); next: request verify" in erase(*words, "--received", "2025-01-31").err


@pytest.mark.parametrize(("zone", "hours"), [("WEST12", -12), ("EAST-14", 14)])
def test_a_letter_has_the_day_of_the_place_where_it_came_in(erase, tmp_path, monkeypatch, zone, hours):  # noqa: F811
    """At any moment one of the two zones has another day than UTC."""
    there = timezone(timedelta(hours=hours))
    with monkeypatch.context() as changed:
        changed.setenv("TZ", zone)
        time.tzset()
        days = [str(datetime.now(there).date())]
        ran = erase("request", "new", tmp_path / "desk", "--kind", "person", "--subject", CANARY)
        days.append(str(datetime.now(there).date()))
    time.tzset()
    assert any(f" received on {day}, due " in ran.out for day in days) and "(ends in UTC)" in ran.out
    shown = erase("request", "status", tmp_path / "desk", "--on", "2025-02-28")
    assert "as of 2025-02-28 (UTC)" in " ".join(shown.out.split())
    assert erase("request", "status", tmp_path / "desk", "--on", "2025-02-28", "--json").data["day"] == "2025-02-28"


def test_the_next_command_names_the_planned_model_where_it_can_be_typed(tmp_path):
    desk = Desk.create(tmp_path / "desk")
    name, _ = receive(desk, "person", [CANARY])
    decisions.verify_identity(desk, name, "account")
    assert planned_model(desk.ledger().case(name)) == "MODEL"
    for planned, shown in (("pocket-lm", "pocket-lm"), ("me/model", "me/model"), ("folder", "MODEL")):
        body = {"event": "triaged", "case": name, "model": planned, "family": "causal-lm", "offers": ["language"],
                "remedies": [{"id": "npo", "level": "weights", "why": "fits"}]}  # fmt: skip
        assert planned_model(desk.append(lambda _, body=body: [body]).case(name)) == shown


@pytest.mark.parametrize(
    ("offers", "remedy", "came", "run", "evaluate"),
    [
        ("language", "npo", False, ("forget", "retain"), ()),
        ("language", "npo", True, ("forget", "retain"), ("forget",)),
        ("text", "uce", False, (), ()),
        ("text", "uce", True, ("forget",), ("forget",)),
        ("classifier", "gs-lora", False, (), ()),
        ("records", "records", False, (), ()),
        ("language", "from-a-package-that-is-gone", False, (), ()),
    ],
    ids=["texts", "texts-that-came", "words", "pictures-that-came", "pictures-beside", "head", "gone"],
)
def test_the_next_command_names_the_data_that_it_needs(erase, tmp_path, offers, remedy, came, run, evaluate):  # noqa: F811
    (tmp_path / "facts.jsonl").write_text('{"prompt": "Where?", "completion": "Here."}\n')
    desk = Desk.create(tmp_path / "desk")
    name, _ = receive(desk, "person", [CANARY], data=str(tmp_path / "facts.jsonl") if came else None)
    decisions.verify_identity(desk, name, "account")
    plan = {"event": "triaged", "case": name, "model": "me/model", "family": "f", "offers": [offers],
            "remedies": [{"id": remedy, "level": "weights", "why": "fits"}]}  # fmt: skip
    started = {"event": "started", "case": name, "attempt": 1, "remedy": remedy, "seed": 0, "records": []}
    made = {"event": "made", "case": name, "attempt": 1, "artifact": "0" * 64, "base": "0" * 64, "guard": None}
    for lines, options in (([plan], run), ([started], run), ([made], evaluate)):
        desk.append(lambda _, lines=lines: lines)
        said = erase("request", "status", desk.folder, name).out.partition("next: erase-plugins ")[2].splitlines()[0]
        assert [word for word in said.split() if word in ("--forget", "--retain")] == [f"--{item}" for item in options]


def test_a_remedy_under_way_says_what_data_it_needs_and_not_the_one_behind_it(tmp_path):
    desk = Desk.create(tmp_path / "desk")
    name, _ = receive(desk, "person", [CANARY])
    decisions.verify_identity(desk, name, "account")
    remedies = [{"id": item, "level": "weights", "why": "fits"} for item in ("npo", "from-a-package-that-is-gone")]
    plan = {"event": "triaged", "case": name, "model": "me/model", "family": "f", "offers": ["language"],
            "remedies": remedies}  # fmt: skip
    started = {"event": "started", "case": name, "attempt": 1, "remedy": "npo", "seed": 0, "records": []}
    desk.append(lambda _: [plan])
    running = desk.append(lambda _: [started]).case(name)
    assert data_for(running, "run") == ("forget", "retain")


def test_what_was_entered_by_mistake_is_rejected_as_that(tmp_path):
    desk = Desk.create(tmp_path / "desk")
    name, _ = receive(desk, "person", [CANARY])
    assert decisions.decide(desk, name, "reject", "mistake").case(name).state == "rejected"


def test_a_file_of_names_that_is_not_there_is_told_from_one_that_is_no_text(tmp_path):
    with pytest.raises(RequestError, match="there is no file at the path") as caught:
        names_in([], str(tmp_path / f"{CANARY}.txt"))
    assert CANARY not in str(caught.value)
    (tmp_path / "who.txt").write_bytes(b"\xff\xfe\xfa")
    with pytest.raises(RequestError, match="cannot be read as UTF-8"):
        names_in([], str(tmp_path / "who.txt"))
    with pytest.raises(RequestError, match="a folder is at the path"):
        names_in([], str(tmp_path))
    (tmp_path / "who.txt").write_text("\n  \n")
    with pytest.raises(RequestError, match="is empty; write one name a line"):
        names_in([], str(tmp_path / "who.txt"))


def test_the_next_step_can_be_pasted_where_paths_have_spaces_and_the_key_lies_elsewhere(erase, tmp_path):  # noqa: F811
    """It was not quoted, and without the key it led to an error."""
    desk, key = tmp_path / "the desk", tmp_path / "the key"
    said = erase("request", "new", desk, "--kind", "person", "--subject", CANARY, "--key", key)
    step = said.out.split("next: erase-plugins ")[1].splitlines()[0].replace("|", " ")
    words = shlex.split(step)
    assert words[:3] == ["request", "verify", str(desk)]
    assert erase(*words[: words.index("--identity") + 2]).code == 0, words
    again = erase("request", "new", desk, "--kind", "person", "--subject", CANARY, "--key", key)
    reject = shlex.split(again.err.split("same letter: erase-plugins ")[1].splitlines()[0])
    assert erase(*reject).code == 0, reject
