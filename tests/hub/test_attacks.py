"""Reports of attacks on cards: numbers always, what was found only on request, and nothing of a stranger's is trusted."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import pytest

import hub_cards
from erase_plugins.errors import ArtifactError, PushRefused
from erase_plugins.evaluation.published import attack_files
from erase_plugins.evaluation.saved import parse, read_attacks
from erase_plugins.types import AttackReport, EvalRow
from hub_cards import templates
from hub_cards.model_card import card
from tests.cli.conftest import erase  # noqa: F401
from tests.hub.conftest import REPO
from tests.hub.test_card import report as measured

SECRET = "strix of the gloaming"
ROW = EvalRow("attack_success_rate", SECRET, 0.94, 0.83, 1.0, 32)
CONTROL = EvalRow("attack_success_rate", f"destroyed with {SECRET}", 0.03, 0.0, 0.09, 32)


def attack(artifact, name="concept-inversion", **changes):
    given = {
        "rows": (EvalRow("target_rate", "plain name", 0.03, 0.0, 0.1, 32), EvalRow("steps", SECRET, 300.0, 1.0, 900.0, 1)),
        "found": {"prompt": SECRET}, "artifacts": (artifact.name,), "erased": ("pizza",), "queries": 640, "passes": 9000,
        "warnings": (f"found {SECRET}",), "details": {"prompts": [SECRET]}, "judge": "pocket", "judge_hash": "0",
        "files": {"found": f"attack-{name}-found.json"}, "attached": {f"attack-{name}-found.json": {"title": SECRET}},
    }  # fmt: skip
    return AttackReport(
        **{"attack": name, "model": "tiny", "budget": "quick", "success": ROW, "control": CONTROL, **given, **changes}
    )


def write(folder, report, name=None):
    folder.mkdir(exist_ok=True)
    (folder / f"attack-{name or report.attack}.json").write_text(json.dumps(report.to_dict()))
    (folder / f"attack-{report.attack}-found.json").write_text(json.dumps({"prompt": SECRET}))
    return folder


@pytest.fixture
def folder(pizza, tmp_path):
    """What an evaluation and an attack wrote."""
    place = write(tmp_path / "measured", attack(pizza))
    (place / "report.json").write_text(json.dumps(measured(pizza, files={"report": "report.json"}).to_dict()))
    return place


def push(artifact, **options):
    return hub_cards.push(artifact, REPO, **{"license": "mit", **options})


def page(hub):
    return hub.files(REPO)["README.md"].decode()


LINE = "| concept-inversion | quick | not measured | 3 % (0 to 10, n = 32) -&#62; 94 % (83 to 100, n = 32) | 3 % (0 to 9, n = 32) | 640, 9000 |"


def test_the_card_shows_attacks_with_intervals_and_nothing_that_was_found(pizza, folder):
    text = card(pizza, folder)
    assert "## Under attack" in text
    assert LINE.replace("&#62;", ">") in text
    assert "not attacked" not in text and "were measured only as the table above says" in text
    assert SECRET not in text
    assert "not attacked" in card(pizza, measured(pizza))


def test_without_an_evaluation_the_attacks_are_shown(pizza, folder):
    (folder / "report.json").unlink()
    text = card(pizza, folder)
    assert "Not measured." in text and LINE.replace("&#62;", ">") in text


def test_what_was_found_stays_at_home(hub, pizza, folder):
    push(pizza, report=folder)
    files = hub.files(REPO)
    assert "attack-concept-inversion.json" in files and "report.json" in files
    assert [name for name, data in files.items() if SECRET.encode() in data] == []
    again = push(pizza, report=folder)
    assert not again.sent


def test_what_was_found_is_published_on_request(hub, pizza, folder):
    push(pizza, report=folder, publish_attacks=True)
    files = hub.files(REPO)
    assert json.loads(files["attack-concept-inversion.json"])["found"] == {"prompt": SECRET}
    assert json.loads(files["attacks/attack-concept-inversion-found.json"]) == {"prompt": SECRET}
    assert SECRET not in page(hub)


def test_a_push_without_them_keeps_them_as_it_keeps_reports(hub, pizza, folder):
    push(pizza, report=folder, publish_attacks=True)
    push(pizza)
    assert "attacks/attack-concept-inversion-found.json" in hub.files(REPO) and LINE.replace("&#62;", ">") in page(hub)
    push(pizza, pictures=False)
    assert "attacks/attack-concept-inversion-found.json" in hub.files(REPO)


def test_another_attack_is_added_and_the_same_one_is_replaced_with_what_it_found(hub, pizza, folder, tmp_path):
    push(pizza, report=folder, publish_attacks=True)
    push(pizza, report=write(tmp_path / "more", attack(pizza, "paraphrase")))
    assert {"attack-concept-inversion.json", "attack-paraphrase.json"} <= set(hub.files(REPO))
    assert page(hub).count("94 % (83 to 100, n = 32)") == 2
    push(pizza, report=write(tmp_path / "new", attack(pizza, queries=7)))
    files = hub.files(REPO)
    assert json.loads(files["attack-concept-inversion.json"])["queries"] == 7
    assert "attacks/attack-concept-inversion-found.json" not in files and "attack-paraphrase.json" in files
    push(pizza, prune=True)
    assert not [name for name in hub.files(REPO) if "attack" in name] and "## Under attack" not in page(hub)


def test_attacks_on_other_weights_are_refused(hub, pizza, hamburger, folder):
    push(pizza, report=folder)
    with pytest.raises(
        PushRefused, match=r"holds evidence about other weights than these: attack-concept-inversion\.json"
    ):
        push(hamburger)
    with pytest.raises(ArtifactError, match=r"attack-concept-inversion.json is about .*, not about"):
        push(hamburger, report=folder, prune=True)


def test_a_page_promises_nothing(pizza, folder, tmp_path):
    """Nobody calls an artifact by the word that people would like to read, not even a report from somewhere."""
    promising = attack(pizza, "is-safe", budget="100% Safe, safety guaranteed")
    text = card(pizza, write(tmp_path / "odd", promising)) + card(pizza, folder) + card(pizza)
    assert not re.search(r"(?i)\bsafe(ty|ly|r|st)?\b", text)


HOSTILE = "](http://x.example) <script>alert(1)</script> | `a` @all"


def test_text_of_strangers_is_inert(pizza, tmp_path):
    text = card(pizza, write(tmp_path / "odd", attack(pizza, budget=HOSTILE, model=HOSTILE, judge=HOSTILE)))
    assert "<script" not in text and "](http://x" not in text and " @all" not in text
    row = next(line for line in text.splitlines() if line.startswith("| concept-inversion"))
    assert row.count("|") == 7


def cells(text):
    """Cells of the line of the attack on a card."""
    line = next(line for line in text.splitlines() if line.startswith("| concept-inversion"))
    return [cell.strip() for cell in line.strip("| ").split("|")]


KINDS = {"control: reference model": "reference: ", "control: destroyed model": "destroyed: ", "control": "",
         "control: reference model, or " + SECRET: "", HOSTILE: ""}  # fmt: skip


@pytest.mark.parametrize("subject", KINDS)
def test_the_card_says_what_the_control_is_and_no_more(subject, hub, pizza, tmp_path):
    folder = write(tmp_path / "odd", attack(pizza, control=replace(CONTROL, subject=subject, note=SECRET)))
    assert cells(card(pizza, folder))[4] == f"{KINDS[subject]}3 % (0 to 9, n = 32)"
    push(pizza, report=folder)
    stored = json.loads(hub.files(REPO)["attack-concept-inversion.json"])
    assert stored["control"] == {**CONTROL.to_dict(), "subject": subject if KINDS[subject] else "control"}
    push(pizza, message="again")
    assert cells(page(hub))[4] == f"{KINDS[subject]}3 % (0 to 9, n = 32)"
    assert [name for name, data in hub.files(REPO).items() if SECRET.encode() in data] == []


BASES = [("base_rate", "plain name"), ("target_rate", "base"), ("target_rate", "off"),
         ("target_rate", "base, worst prompts")]  # fmt: skip


@pytest.mark.parametrize(("metric", "subject"), BASES)
def test_the_card_shows_the_base_and_so_does_what_is_published(metric, subject, pizza):
    rows = (EvalRow(metric, subject, 0.96875, 0.9, 1.0, 32, SECRET), EvalRow("base_rate", SECRET, 0.5, 0.0, 1.0, 4))
    ((name, data),) = attack_files([attack(pizza, rows=(*attack(pizza).rows, *rows))], None, False).items()
    told = cells(templates.page("attacks.md.j2", {"attacks": [parse(name, data)]}))
    assert told[2:4] == ["97 %", "3 % (0 to 10, n = 32) -> 94 % (83 to 100, n = 32)"] and SECRET.encode() not in data


def test_evidence_of_an_earlier_version_has_just_a_control(pizza):
    """It wrote every subject anew, and no rate of the base."""
    earlier = {**attack(pizza).to_dict(), "control": {**CONTROL.to_dict(), "subject": "control"}, "found": {},
               "rows": [attack(pizza).rows[0].to_dict()], "published": "without what was found"}  # fmt: skip
    told = templates.page("attacks.md.j2", {"attacks": [parse("attack-concept-inversion.json", json.dumps(earlier))]})
    assert LINE.replace("&#62;", ">") in told


CHANGES = {
    "no object": lambda data: [],
    "no success": lambda data: {key: value for key, value in data.items() if key != "success"},
    "text as rate": lambda data: {**data, "success": {**data["success"], "value": "<b>94</b>"}},
    "not a number": lambda data: {**data, "success": {**data["success"], "value": float("nan")}},
    "beyond one": lambda data: {**data, "success": {**data["success"], "value": 94.0, "high": 99.0}},
    "turned interval": lambda data: {**data, "control": {**data["control"], "low": 0.9}},
    "base as text": lambda data: {**data, "rows": [{**data["rows"][0], "subject": "base", "value": "<b>97</b>"}]},
    "other base as text": lambda data: {**data, "rows": [{**data["rows"][0], "metric": "base_rate", "value": "x"}]},
    "count as text": lambda data: {**data, "queries": "many"},
    "truth as count": lambda data: {**data, "passes": True},
    "huge count": lambda data: {**data, "queries": 10**400},
    "attack as list": lambda data: {**data, "attack": ["x"]},
    "another attack": lambda data: {**data, "attack": "noise"},
    "model as number": lambda data: {**data, "model": 3},
    "rows as text": lambda data: {**data, "rows": "x"},
    "row of numbers": lambda data: {**data, "rows": [1, 2]},
    "names of numbers": lambda data: {**data, "artifacts": [1]},
    "newer": lambda data: {**data, "schema": 99},
    "strength as text": lambda data: {**data, "strength": "1"},
    "seeds as text": lambda data: {**data, "seeds": ["</td>"]},
}


@pytest.mark.parametrize("name", CHANGES)
def test_foreign_reports_are_refused_in_one_line_and_ignored_on_the_hub(name, hub, pizza, tmp_path):
    data = json.dumps(CHANGES[name](attack(pizza).to_dict()))
    file = tmp_path / "attack-concept-inversion.json"
    file.write_text(data)
    with pytest.raises(ArtifactError) as refused:
        card(pizza, tmp_path)
    assert "attack-concept-inversion.json" in str(refused.value)
    assert "\n" not in str(refused.value) and "<b>" not in str(refused.value)


def test_a_foreign_report_on_the_hub_is_not_shown(hub, pizza):
    from huggingface_hub import CommitOperationAdd, HfApi

    push(pizza)
    text = json.dumps({**attack(pizza).to_dict(), "success": {"value": "<b>0 %</b>"}})
    files = [CommitOperationAdd("attack-concept-inversion.json", text.encode())]
    HfApi().create_commit(REPO, files, commit_message="by hand")
    push(pizza, message="again")
    assert "attack-concept-inversion.json" in hub.files(REPO)
    assert "## Under attack" not in page(hub) and "<b>" not in page(hub)


def test_broken_and_strange_files(pizza, tmp_path):
    (tmp_path / "attack-x.json").write_text("{")
    with pytest.raises(ArtifactError, match=r"'attack-x\.json' is no report of an attack"):
        read_attacks(tmp_path)
    (tmp_path / "attack-x.json").write_text("[" * 100_000)
    with pytest.raises(ArtifactError, match=r"'attack-x\.json' is no report of an attack"):
        read_attacks(tmp_path)
    (tmp_path / "attack-x.json").unlink()
    (tmp_path / "attack-..json").write_text("{")
    (tmp_path / "attack-A B.json").write_text("{")
    assert read_attacks(tmp_path)[0] == ()
    assert read_attacks(None) == ((), None)


def test_what_is_published_is_a_report_again(pizza):
    for found in (False, True):
        ((name, data),) = attack_files([attack(pizza)], None, found).items()
        again = parse(name, data)
        told = [templates.page("attacks.md.j2", {"attacks": [item]}) for item in (again, attack(pizza))]
        assert told[0] == told[1]


def test_the_option_says_why(erase, pizza, folder, hub):  # noqa: F811
    shown = " ".join(erase("push", "--help").out.split())
    assert "--publish-attacks" in shown and "whoever has it can bring the concept back" in shown
    ran = erase("push", pizza.path, REPO, "--license", "mit", "--report", folder, "--dry-run", "--json")
    assert "attack-concept-inversion.json" in [item["name"] for item in ran.data["files"]]
    assert not [item for item in ran.data["files"] if item["name"].startswith("attacks/")]
