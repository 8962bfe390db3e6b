"""How far an edit moves what is drawn by prompts that name other people: distances worked out by hand."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from erase_plugins.evaluation.attacks import bias_shift, described
from erase_plugins.evaluation.attacks.asking import Asking
from erase_plugins.evaluation.attacks.described import DescribedAttack
from erase_plugins.evaluation.bootstrap import distance
from erase_plugins.evaluation.chart import variant_chart
from erase_plugins.pocket.world import WorldConcept, pocket_world
from erase_plugins.types import EvalRow
from tests.evaluation.attacks.fakes import Judge, Subject, budget_of

WORDS = pocket_world().backgrounds + pocket_world().styles


class Small(Judge):
    """Knows one animal, and these."""

    def __init__(self, **groups):
        things = [("owl", "animal"), *((name, group) for group, names in groups.items() for name in names)]
        self.things = tuple(WorldConcept(name, group, "0", ()) for name, group in things)

    def world(self):
        return replace(pocket_world(), concepts=self.things)


def named(text):
    """Which thing a prompt of one thing names."""
    return next(word for word in text.split()[1:] if word not in WORDS)


def shifted(tmp_path, turns, images=8, erased=("owl",), **groups):
    """Rows, and the prompts of each state; ``turns(named, text)`` is what the edited model shows."""
    subject = Subject(lambda text, edit: turns(named(text), text) if edit == "on" else named(text), erased)
    subject.judge = Small(**groups)
    asking = Asking(subject, budget_of(tmp_path / "w", 999))
    rows = bias_shift.shift_rows(asking, images)
    assert asking.queries == subject.queries
    return {row.subject: row for row in rows}, {edit: texts for edit, texts, _ in subject.asked}


def test_half_of_one_persons_pictures_are_another(tmp_path):
    rows, asked = shifted(tmp_path, lambda name, text: "ghost" if "background" in text else name, person=("clown",))
    assert sum("background" in text for text in asked["on"]) == 4
    row = rows["kept people"]
    assert (row.metric, row.value, row.n) == ("bias_shift", 0.5, 8)
    assert 0.1 <= row.low < 0.5 < row.high <= 0.9
    assert asked["on"] == asked["off"] and len(asked["on"]) == 8


def test_an_edit_that_does_nothing_shifts_nothing(tmp_path):
    row = shifted(tmp_path, lambda name, text: name, person=("clown", "ninja"))[0]["kept people"]
    assert (row.value, row.low, row.high) == (0.0, 0.0, 0.375)


def test_all_of_one_of_two_persons_become_the_other(tmp_path):
    rows, _ = shifted(tmp_path, lambda name, text: "clown", person=("clown", "ninja"))
    assert rows["kept people"].value == 0.5


def test_who_is_drawn_by_which_prompt_does_not_count(tmp_path):
    other = {"clown": "ninja", "ninja": "clown"}
    row = shifted(tmp_path, lambda name, text: other[name], person=("clown", "ninja"))[0]["kept people"]
    assert row.value == row.low == 0.0 < row.high


def test_occupations_have_a_row_of_their_own(tmp_path):
    rows = shifted(
        tmp_path, lambda name, text: "nothing" if name == "robot" else name, people=("clown",), occupations=("robot",)
    )[0]
    assert [(name, row.value) for name, row in rows.items()] == [("kept people", 0.0), ("kept occupations", 1.0)]
    assert (rows["kept occupations"].low, rows["kept occupations"].high) == (0.625, 1.0)
    assert bias_shift.left_out(Small(people=("clown",), occupations=("robot",)), ["owl"]) == []


def test_an_erased_person_is_not_among_the_kept(tmp_path):
    rows, asked = shifted(tmp_path, lambda name, text: name, erased=("clown",), person=("clown", "ninja"))
    assert rows["kept people"].n == 8 and not any("clown" in text for text in asked["off"])
    rows, asked = shifted(tmp_path, lambda name, text: name, erased=("clown",), person=("clown",))
    assert not rows and not asked


def test_what_the_judge_does_not_know_is_never_asked(tmp_path):
    assert bias_shift.kept_names(Small(person=("clown", "somebody unknown")), ["owl"], "people") == ["clown"]


def test_a_world_without_people_is_a_warning(tmp_path):
    rows, asked = shifted(tmp_path, lambda name, text: name, thing=("hat",))
    assert not rows and not asked
    (told,) = bias_shift.left_out(Small(thing=("hat",)), ["owl"])
    assert told.startswith("the judge knows no kept people and no kept occupations")
    (told,) = bias_shift.left_out(Small(person=("clown",)), ["owl"])
    assert "occupations" in told and "people" not in told


def test_what_was_judged_before_a_kill_is_not_drawn_again(tmp_path):
    shifted(tmp_path, lambda name, text: name, person=("clown",))
    subject = Subject(lambda text, edit: None)
    subject.judge = Small(person=("clown",))
    asking = Asking(subject, budget_of(tmp_path / "w", 999))
    (row,) = bias_shift.shift_rows(asking, 8)
    assert (row.value, subject.queries, asking.queries) == (0.0, 0, 16)


def test_the_attack_reports_it_within_its_budget(tmp_path):
    def rule(text, edit):
        if edit == "destroyed":
            return None
        words = text.replace(",", " ").split()
        person = next((name for name in ("clown", "robot", "ghost") if name in words), None)
        if "owl" in words:
            return "owl" if edit == "off" else None
        return "ghost" if edit == "on" and person == "clown" else person or "nothing"

    subject = Subject(rule)
    report = DescribedAttack().run(subject, budget_of(tmp_path / "w", 10 * described._SETS))
    row = next(row for row in report.rows if row.metric == "bias_shift")
    assert (row.subject, row.value, row.n) == ("kept people", 0.1, 10)  # one of ten people
    assert any("no kept occupations" in text for text in report.warnings)
    assert subject.queries == report.queries <= 10 * described._SETS
    assert DescribedAttack().sets == described._SETS == DescribedAttack.least


def test_distances_by_hand():
    assert distance("aabb", "abbb")[0] == 0.25
    assert distance("aabc", "bbca")[0] == 0.25
    value, low, high = distance("aaaa", "abcd")
    assert value == 0.75 and low <= 0.75 <= high
    assert distance("aa", "bc") == (1.0, 0.0, 1.0)
    assert all(map(math.isnan, distance("", "")))
    with pytest.raises(ValueError, match="2 and 1 labels are not pairs"):
        distance("ab", "a")


def test_its_interval_is_that_of_the_share_that_moved():
    before, after = ["a"] * 200, ["a"] * 150 + ["b"] * 50
    value, low, high = distance(before, after)
    half = 1.96 * math.sqrt(0.25 * 0.75 / 200)
    assert value == 0.25 and abs(low - (0.25 - half)) < 0.01 and abs(high - (0.25 + half)) < 0.01


def test_the_chart_of_rates_has_no_empty_place_for_it(tmp_path):
    from PIL import Image

    rates = [EvalRow("target_rate", name, 0.5, 0.25, 0.75, 8) for name in ("scene", "synonym")]
    more = [*rates, EvalRow("bias_shift", "kept people", 0.5, 0.25, 0.75, 8)]
    sizes = [Image.open(variant_chart(rows, tmp_path / f"{len(rows)}.png")).size for rows in (rates, more)]
    assert sizes[0] == sizes[1]
