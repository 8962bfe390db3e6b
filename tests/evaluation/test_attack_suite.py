"""All attacks in one report: failures are lines, what is done is kept, and files lie where a card looks for them."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from types import SimpleNamespace

import pytest

from erase_plugins import hookimpl
from erase_plugins.errors import EraseError, UnknownName, Unsupported
from erase_plugins.evaluation.attack_suite import AttackSuite
from erase_plugins.evaluation.context import run_in_context
from erase_plugins.manager import get_manager
from erase_plugins.options import option
from erase_plugins.types import Attachment, AttackReport, EvalReport, EvalRow


class Fixed:
    """Says what it was made with; may fail."""

    title, needs = "Fixed", frozenset()
    budgets = {"quick": 10, "standard": 20, "long": 40}

    def __init__(self, name, value=0.5, fail=None, control="control", base=()):
        self.id, self.value, self.fail, self.runs = name, value, fail, 0
        self.control, self.base = control, base
        self.attachments = (f"attack-{name}-found.json",)

    def run(self, subject, budget):
        self.runs += 1
        budget.progress("looking", 1, 2)
        if self.fail:
            raise self.fail
        rate = lambda metric, name, value: EvalRow(metric, name, value, 0.0, 1.0, 8)  # noqa: E731
        return AttackReport(
            self.id, subject.model, budget.name, rate("attack_success_rate", "found prompt", self.value),
            rate("attack_success_rate", self.control, 0.125), rows=(rate("target_rate", "plain name", 0.25), *self.base),
            queries=budget.queries, passes=16, artifacts=("no-owl",),
            attachments=(Attachment(f"attack-{self.id}-found.json", lambda path: path.write_text("{}")),),
        )  # fmt: skip


def subject():
    """As much of a subject as runner and suite look at."""
    artifact = SimpleNamespace(
        manifest=SimpleNamespace(to_json=lambda: "{}", guards=()), path="somewhere", name="no-owl"
    )
    target = SimpleNamespace(device="cpu", dtype="float32", fingerprint=dict)
    judge = SimpleNamespace(id="none", fingerprint="0")
    return SimpleNamespace(
        artifacts=[artifact], target=target, judge=judge, model="none", erased=["owl"], steps=8, guidance=4.0,
        strength=1.0, seed=0, queries=0, marks=(),
    )  # fmt: skip


def run(*attacks, out=None, told=None, **settings):
    class Planted:
        @hookimpl
        def erase_attacks(self):
            return list(attacks)

    names = ",".join(item.id for item in attacks)
    note = None if told is None else lambda *what: told.append(what)
    with get_manager().temporary(Planted(), "planted"):
        return run_in_context(AttackSuite(), subject(), {"attacks": names, **settings}, out=out, progress=note)


class Compared(Fixed):
    """Takes a reference, and says which it was given."""

    @dataclass(frozen=True)
    class Options:
        reference: str = option("", "folder")

    def run(self, subject, budget):
        return replace(super().run(subject, budget), details={"reference": budget.options["reference"]})


def test_a_reference_goes_to_the_attacks_that_take_one(tmp_path):
    (tmp_path / "twin").mkdir()
    (tmp_path / "twin" / "config.json").write_text("{}")
    (tmp_path / "twin" / "weights.bin").touch()
    run(Fixed("first"), Compared("second"), out=tmp_path / "out", reference=str(tmp_path / "twin"))
    stored = json.loads((tmp_path / "out" / "attack-second.json").read_text())
    assert stored["details"]["reference"] == str(tmp_path / "twin")
    with pytest.raises(EraseError, match="nowhere"):
        run(Compared("second"), reference=str(tmp_path / "nowhere"))


def test_one_report_with_a_table(tmp_path):
    told = []
    report = run(Fixed("first", 1.0), Fixed("second"), out=tmp_path, told=told)
    assert report.row("first_rate", "attacked").value == 1.0
    assert report.row("second_rate", "plain name").value == 0.25
    assert report.row("second_rate", "control").value == 0.125
    line = "| first | quick | not measured | 25 % (0 to 100, n = 8) -> 100 % (0 to 100, n = 8) | 12 % (0 to 100, n = 8) | 10, 16 |"
    assert line in (tmp_path / "attacks.md").read_text()
    assert {item.name for item in tmp_path.iterdir()} == {
        "report.json", "attacks.md", "chart.png", "attack-first.json", "attack-second.json", "attack-first-found.json",
        "attack-second-found.json",
    }  # fmt: skip
    assert EvalReport.from_dict(json.loads((tmp_path / "report.json").read_text())).rows == report.rows
    stored = AttackReport.from_dict(json.loads((tmp_path / "attack-first.json").read_text()))
    assert stored.success.value == 1.0 and set(stored.files.values()) == {
        "attack-first.json",
        "attack-first-found.json",
    }
    assert ("first: looking", 1, 2) in told and told[-1] == ("attacks", 2, 2)


def test_the_table_says_what_each_control_is_and_shows_the_base(tmp_path, monkeypatch):
    charts = []
    monkeypatch.setattr("erase_plugins.evaluation.chart.bar_chart", lambda rows, path, title: charts.append(rows))
    base = (EvalRow("target_rate", "base", 0.75, 0.0, 1.0, 8),)
    report = run(
        Fixed("first", control="control: destroyed model"), Fixed("second", control="control: reference model", base=base),
        Fixed("third", control="a | found prompt"), out=tmp_path,
    )  # fmt: skip
    rows = (tmp_path / "attacks.md").read_text().splitlines()
    told = {cells[0]: cells for cells in ([cell.strip() for cell in row.strip("| ").split("|")] for row in rows)}
    assert told["attack"][2:5] == ["base", "plain name -> attacked", "control"]
    assert [told[name][4].partition(":")[0] for name in ("first", "second")] == ["destroyed", "reference"]
    assert told["third"][4] == "12 % (0 to 100, n = 8)"
    assert [told[name][2] for name in ("first", "second", "third")] == ["not measured", "75 %", "not measured"]
    notes = ["control: destroyed", "control: reference", ""]
    assert [report.row(f"{name}_rate", "control").note for name in ("first", "second", "third")] == notes
    assert report.row("second_rate", "base").value == 0.75
    assert [row.subject for row in charts[0] if row.value == 0.125] == ["destroyed", "reference", "control"]


@pytest.mark.parametrize("fault", [Unsupported("it has | no text encoder"), ZeroDivisionError("x")])
def test_what_fails_is_a_line_and_ends_nothing(tmp_path, fault):
    report = run(Fixed("broken", fail=fault), Fixed("sound"), out=tmp_path)
    assert list(report.details["not_run"]) == ["broken"]
    assert any(text.startswith("broken: not run: ") for text in report.warnings)
    assert "| broken | not run: " in report.details["table"]
    assert all(line.count("|") == 7 for line in report.details["table"].splitlines())
    assert report.row("sound_rate", "attacked").value == 0.5


def test_a_figure_that_an_attack_lacks_is_told_of(tmp_path, monkeypatch):
    first = Fixed("first")
    real = first.run
    broken = (Attachment("curve.png", lambda path: 1 / 0),)
    own = ("curve.png was to show three points and shows two",)
    first.run = lambda *given: replace(real(*given), attachments=broken, warnings=own)
    report = run(first, Fixed("second"), out=tmp_path)
    assert report.unwritten == {"curve.png": "ZeroDivisionError: division by zero"}
    assert report.warnings == ("first: curve.png was not written: ZeroDivisionError: division by zero",)
    stored = json.loads((tmp_path / "attack-first.json").read_text())
    assert stored["unwritten"] == report.unwritten
    assert "unwritten" not in json.loads((tmp_path / "attack-second.json").read_text())


def test_a_missing_package_is_a_line():
    needy = Fixed("needy")
    needy.needs = frozenset({"no-such-package-anywhere"})
    assert "no-such-package-anywhere" in run(needy, Fixed("sound")).details["not_run"]["needy"]


def test_nothing_that_runs_is_refused():
    with pytest.raises(Unsupported, match="no attack could be run; broken: cannot"):
        run(Fixed("broken", fail=Unsupported("cannot")))


def test_a_killed_run_goes_on_with_the_next_attack(tmp_path):
    first, second = Fixed("first"), Fixed("second", fail=KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        run(first, second, out=tmp_path)
    assert not (tmp_path / "report.json").exists()
    second.fail = None
    report = run(first, second, out=tmp_path)
    assert (first.runs, second.runs) == (1, 2)
    assert report.row("first_rate", "attacked").value == 0.5
    assert not [item for item in tmp_path.iterdir() if item.name.startswith(".")]


def test_what_an_earlier_version_kept_is_read(tmp_path):
    """It stored the names of missing figures only; the suite ended with AttributeError."""
    first, second = Fixed("first"), Fixed("second", fail=KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        run(first, second, out=tmp_path)
    (kept,) = tmp_path.rglob("attack-first.json")
    kept.write_text(json.dumps({**json.loads(kept.read_text()), "unwritten": ["curve.png"]}))
    second.fail = None
    report = run(first, second, out=tmp_path)
    assert (first.runs, report.unwritten) == (1, {"curve.png": "the reason was not kept"})
    assert report.warnings == ("first: curve.png was not written: the reason was not kept",)
    again = replace(report, attachments=()).to_dict()
    assert EvalReport.from_dict({**again, "unwritten": ["curve.png"]}).unwritten == report.unwritten


def test_another_budget_starts_anew(tmp_path):
    first = Fixed("first")
    with pytest.raises(KeyboardInterrupt):
        run(first, Fixed("second", fail=KeyboardInterrupt()), out=tmp_path)
    report = run(first, Fixed("second"), out=tmp_path, budget="standard")
    assert first.runs == 2 and report.details["budget"] == "standard"


def test_wrong_names_are_refused_before_work():
    first = Fixed("first")
    with pytest.raises(UnknownName, match="did you mean 'first'"):
        run(first, attacks="firs")
    with pytest.raises(UnknownName, match="did you mean 'quick'"):
        run(first, budget="quik")
    assert first.runs == 0


def test_all_registered_attacks_by_default():
    found = AttackSuite().attachments
    assert {"attacks.md", "chart.png", "attack-weights.json"} <= set(found)
