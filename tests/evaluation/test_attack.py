"""The runner of attacks: budgets, resuming, files."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest

from erase_plugins import hookimpl
from erase_plugins.errors import ArtifactError, PluginError, RequestError, UnknownName, Unsupported
from erase_plugins.evaluation.attack import run_attack
from erase_plugins.evaluation.budget import find_budget
from erase_plugins.manager import get_manager
from erase_plugins.types import Attachment, AttackReport, EvalRow

ROW = EvalRow("attack_success_rate", "x", 0.25, 0.1, 0.4, 8)


class Counting:
    """Two stages; the second may fail. Counts what is computed."""

    id, title, needs = "counting", "Counting", frozenset()
    budgets = {"quick": 10, "standard": 20, "long": 40}
    attachments = ("found.json",)

    def __init__(self, fail=None):
        self.fail, self.made, self.seen = fail, [], None

    def stage(self, name):
        self.made.append(name)
        if name == "two" and self.fail:
            raise self.fail
        return [len(self.made)]

    def run(self, subject, budget):
        self.seen = budget
        values = [budget.remember(name, lambda name=name: self.stage(name)) for name in ("one", "two")]
        return AttackReport(
            self.id, subject.model, budget.name, ROW, EvalRow("attack_success_rate", "control", 0.1, 0.0, 0.2, 8),
            found={"prompt": "a bird of the night"}, judge_hash="0", details={"values": values}, queries=4,
            attachments=(Attachment("found.json", lambda path: path.write_text("{}")),),
        )  # fmt: skip


def subject_of(seed=0, path="somewhere"):
    """As much of a subject as the runner looks at."""
    artifact = SimpleNamespace(manifest=SimpleNamespace(to_json=lambda: "{}", guards=()), path=path, name="no-owl")
    target = SimpleNamespace(device="cpu", dtype="float32", fingerprint=dict)
    return SimpleNamespace(
        artifacts=[artifact], target=target, judge=None, model="none", erased=["owl"], steps=8, guidance=4.0,
        strength=1.0, seed=seed, queries=0, marks=(),
    )  # fmt: skip


def test_what_an_attack_does_not_say_of_its_run_is_filled_in():
    def short(subject, budget):
        subject.queries += 6
        return AttackReport("counting", "none", budget.name, ROW, ROW)

    attack, subject = Counting(), subject_of(seed=3)
    attack.run = short
    subject.judge, subject.strength = SimpleNamespace(id="red", fingerprint="abc"), 0.5
    subject.queries = 100  # of an attack before
    report = run_attack(attack, lambda: subject, "quick")
    assert (report.judge, report.judge_hash, report.strength) == ("red", "abc", 0.5)
    assert (report.artifacts, report.erased, report.seeds, report.queries) == (("no-owl",), ("owl",), (3,), 6)
    told = run_attack(Counting(), lambda: subject, "quick")
    assert (told.judge_hash, told.queries) == ("0", 4)  # what it says itself stays


@pytest.mark.parametrize(
    ("text", "wanted"), [("quick", ("quick", 10)), ("long", ("long", 40)), ("7", ("custom", 7)), (7, ("custom", 7))]
)
def test_budgets(text, wanted):
    assert find_budget(Counting(), text) == wanted
    attack = Counting()
    run_attack(attack, subject_of, text)
    assert (attack.seen.name, attack.seen.queries) == wanted


def test_wrong_budgets_and_options_are_refused_before_the_model_is_loaded(tmp_path):
    load = lambda: pytest.fail("loaded")  # noqa: E731
    with pytest.raises(RequestError, match="budget 0 allows no query"):
        run_attack(Counting(), load, "0", out=tmp_path / "a")
    with pytest.raises(UnknownName, match="did you mean 'quick'"):
        run_attack(Counting(), load, "quik", out=tmp_path / "a")
    with pytest.raises(RequestError, match="attack counting has no options, but rank was set"):
        run_attack(Counting(), load, settings={"rank": 1}, out=tmp_path / "a")
    assert list(tmp_path.iterdir()) == []


def test_files(tmp_path):
    report = run_attack(Counting(), subject_of, out=tmp_path)
    assert {item.name for item in tmp_path.iterdir()} == {"attack-counting.json", "found.json"}
    stored = AttackReport.from_dict(json.loads((tmp_path / "attack-counting.json").read_text()))
    assert stored == report
    assert stored.success == ROW and stored.excess == pytest.approx(0.15)
    with pytest.raises(ArtifactError, match="exists already"):
        run_attack(Counting(), lambda: pytest.fail("loaded"), out=tmp_path)
    run_attack(Counting(), subject_of, out=tmp_path, force=True)


@pytest.mark.parametrize("killed_by", [KeyboardInterrupt(), OSError("disk full")])
def test_a_killed_run_goes_on_where_it_was(tmp_path, killed_by):
    with pytest.raises(type(killed_by)):
        run_attack(Counting(killed_by), subject_of, out=tmp_path)
    assert not (tmp_path / "attack-counting.json").exists()
    other = Counting()
    run_attack(other, lambda: subject_of(seed=1), out=tmp_path / "elsewhere")
    assert other.made == ["one", "two"]
    again = Counting()
    report = run_attack(again, subject_of, out=tmp_path)
    assert again.made == ["two"], "what was there is not computed again"
    assert report.details["values"] == [[1], [1]]
    assert {item.name for item in tmp_path.iterdir()} == {"attack-counting.json", "found.json", "elsewhere"}


@pytest.mark.parametrize("change", [{"seed": 1}, {"budget": "long"}])
def test_other_settings_start_anew(tmp_path, change):
    with pytest.raises(KeyboardInterrupt):
        run_attack(Counting(KeyboardInterrupt()), subject_of, out=tmp_path)
    again = Counting()
    run_attack(again, lambda: subject_of(change.get("seed", 0)), change.get("budget", "quick"), out=tmp_path)
    assert again.made == ["one", "two"]


def test_what_is_in_memory_only_is_never_resumed(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run_attack(Counting(KeyboardInterrupt()), lambda: subject_of(path=None), out=tmp_path)
    again = Counting()
    run_attack(again, lambda: subject_of(path=None), out=tmp_path)
    assert again.made == ["one", "two"]


def test_a_refusal_leaves_nothing(tmp_path):
    with pytest.raises(Unsupported):
        run_attack(Counting(Unsupported("cannot be drawn")), subject_of, out=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_an_attack_must_return_a_report(tmp_path):
    odd = type("Odd", (Counting,), {"run": lambda self, subject, budget: 3})()
    with pytest.raises(PluginError, match="attack counting returned int instead of an AttackReport"):
        run_attack(odd, subject_of)


def test_an_outside_attack_is_found_by_its_id():
    class Planted:
        @hookimpl
        def erase_attacks(self):
            return [Counting()]

    with get_manager().temporary(Planted(), "planted"):
        assert run_attack(get_manager().evaluator("counting", "attack"), subject_of).attack == "counting"
