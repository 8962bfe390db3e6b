"""What attacks by prompts share: the reference as a control, refusals, rows of the sheet."""

from __future__ import annotations

import pytest

from erase_plugins.errors import RequestError, Unsupported
from erase_plugins.evaluation.attack_summary import control_kind
from erase_plugins.evaluation.attacks import asking
from erase_plugins.evaluation.attacks.asking import Asking, open_reference
from erase_plugins.evaluation.attacks.described import DescribedAttack
from erase_plugins.evaluation.attacks.rates import seen
from erase_plugins.evaluation.prompts import Prompt, quick_prompts
from erase_plugins.evaluation.run import Subject as Real
from erase_plugins.families.source import pocket_folder
from tests.evaluation.attacks.fakes import Judge, Subject, budget_of


def named(text, edit):
    return "owl" if edit == "off" and {"owl", "hoot", "wise"} & set(text.split()) else None


def test_the_reference_becomes_the_control_and_its_pictures_count(tmp_path, monkeypatch):
    taught = Subject(lambda text, edit: "owl" if "hoot" in text.split() else None)
    monkeypatch.setattr(asking, "open_reference", lambda subject, path: taught)
    subject = Subject(named)
    given = {"reference": "somewhere"}
    report = DescribedAttack().run(subject, budget_of(tmp_path / "w", 2 * DescribedAttack().sets, **given))
    assert report.success.subject == "synonym"
    assert report.control.subject == "control: reference model" and report.control.value == 0.5
    assert report.details["control"]["kind"] == "synonym"
    assert control_kind(report) == "reference"
    assert {edit for edit, _, _ in taught.asked} == {"off"}
    asked = DescribedAttack().sets - 2  # this world has no occupations
    assert report.queries == subject.queries + taught.queries == 2 * asked
    rows = {row.subject: row.value for row in report.rows if row.metric == "target_rate"}
    assert rows["control: reference model"] == 0.5 and "control: destroyed model" not in rows


def test_every_set_has_its_row_in_the_sheet(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr("erase_plugins.evaluation.sheet.contact_sheet", lambda rows, path, **_: drawn.extend(rows))
    report = DescribedAttack().run(Subject(named), budget_of(tmp_path / "w", 2 * DescribedAttack().sets))
    next(item for item in report.attachments if item.name.endswith("pictures.png")).write(tmp_path / "x.png")
    labels = [label for label, _ in drawn]
    assert len(labels) == 9 and any(label.startswith("never named, edited") for label in labels)
    assert all(len(pictures) == 2 for _, pictures in drawn)


def test_hits_are_read_on_the_axis_of_the_prompt():
    subject = Subject(lambda text, edit: text)
    prompts = [
        Prompt("owl", 0, {"concept": "owl", "style": "noto"}, "concept"),
        Prompt("dog", 1, {"concept": "owl"}, "concept"),
    ]
    assert seen(Judge(), prompts, subject.generate(["owl", "dog"], [0, 1])) == [1, 0]


@pytest.fixture
def real(pocket_pipe, pocket_target):
    return Real(pocket_pipe, pocket_target, "pocket", [], Judge(), ["owl"])


def test_a_reference_is_opened_like_the_subject(real, tmp_path):
    found = open_reference(real, str(pocket_folder()))
    assert found.pipe is not real.pipe and found.artifacts == [] and found.judge is real.judge
    assert found.target.info.latent_shape == real.target.info.latent_shape
    with pytest.raises(RequestError, match="no model at 'absent'"):
        open_reference(real, str(tmp_path / "absent"))


@pytest.mark.parametrize(
    ("kind", "told"), [("tiny_sdxl", "is no model of family sd1"), ("tiny_sd1", r"draws \(4, 8, 8\)")]
)
def test_a_reference_of_another_kind_is_refused(kind, told, real, request, tmp_path):
    request.getfixturevalue(kind)().save_pretrained(tmp_path / "other")
    with pytest.raises(Unsupported, match=rf"reference 'other' {told}"):
        open_reference(real, str(tmp_path / "other"))


def test_a_set_that_was_judged_is_not_drawn_again(tmp_path):
    prompts = quick_prompts(Judge(), ["owl"], 3, 0)["target"]
    first, second = Subject(named), Subject(named)
    found = [Asking(item, budget_of(tmp_path / "w", 9)) for item in (first, second)]
    hits = [item.look("a set", prompts, "off") for item in found]
    assert hits == [[1, 1, 1], [1, 1, 1]] and (first.queries, second.queries) == (3, 0)
    assert [item.queries for item in found] == [3, 3], "the report counts what the whole run looked at"
    assert found[1].shown["a-set"].shape == (3, 3, 8, 8)
    with pytest.raises(RequestError, match="no reference model was named"):
        found[0].look("b", prompts, "reference")
