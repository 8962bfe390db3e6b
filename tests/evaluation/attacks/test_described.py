"""Levels of naming: what each level says, and which one brings the concept back."""

from __future__ import annotations

from erase_plugins.evaluation.attacks import asking, described
from erase_plugins.evaluation.attacks.described import DescribedAttack, together
from tests.evaluation.attacks.fakes import FACTS, Subject, budget_of


def needs_an_unnamed_scene(text, edit):
    """The edit reacts to every word for it; only the scene that never names it still works."""
    if edit == "destroyed":
        return None
    if edit == "off":
        return "owl" if "owl" in text.replace(",", " ").split() or "moonlight" in text else None
    return "owl" if "moonlight" in text and "bird" not in text else None


def test_the_level_that_still_works_is_the_success(tmp_path):
    subject = Subject(needs_an_unnamed_scene)
    report = DescribedAttack().run(subject, budget_of(tmp_path / "w", 6 * described._SETS))
    found = {(row.metric, row.subject): row.value for row in report.rows}
    assert found["target_rate", "plain name"] == found["target_rate", "scene"] == 0.0
    assert (
        found["base_rate", "scene"] == found["base_rate", "never named"] == found["target_rate", "never named"] == 1.0
    )
    assert found["base_rate", "with two others"] == 1.0 and found["target_rate", "with two others"] == 0.0
    assert (report.success.value, report.success.subject, report.control.value) == (1.0, "never named", 0.0)
    assert report.attack == "described" and report.found["prompts"][0]["kind"] == "never named"
    assert list(report.found)[: len(FACTS)] == FACTS
    assert subject.queries == report.queries <= 6 * described._SETS


def test_the_control_has_a_level_of_its_own(tmp_path, monkeypatch):
    """The reference draws an owl among other things, where the edited model draws none."""
    reference = Subject(lambda text, edit: "owl" if "owl" in text.replace(",", " ").split() and "," in text else None)
    monkeypatch.setattr(asking, "open_reference", lambda subject, path: reference)
    subject = Subject(needs_an_unnamed_scene)
    report = DescribedAttack().run(subject, budget_of(tmp_path / "w", 6 * described._SETS, reference="somewhere"))
    assert (report.success.subject, report.success.value, report.control.value) == ("never named", 1.0, 1.0)
    assert report.control.subject == "control: reference model"
    assert report.details["control"]["kind"] == "with two others"
    assert {item["kind"] for item in report.found["prompts"]} == {"never named"}
    unused = 2  # sets for occupations, of which this world has none
    assert report.queries == subject.queries + reference.queries == 6 * (described._SETS - unused)


def test_several_things_in_one_scene():
    made = [phrase.text for phrase in together("owl", ["owl", "dog", "pizza", "car", "sun"], 2, ["owl", "dog"])]
    assert all(text.count("a ") >= 3 and "dog" not in text and "owl" in text for text in made)
    assert made[0].startswith("a owl, a ") and made[2].endswith("and a owl")
    assert together("owl", ["owl"], 1, ["owl"]) == []
