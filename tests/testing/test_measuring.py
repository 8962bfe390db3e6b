"""The contract of suites and attacks: the built-in ones keep it, and each rule is noticed when it is broken."""

from __future__ import annotations

import itertools

import pytest

from erase_plugins import hookimpl
from erase_plugins.manager import get_manager
from erase_plugins.testing.measuring import AttackContract, SuiteContract, measuring_report
from erase_plugins.types import Attachment, AttackReport, EvalReport, EvalRow


class TestBuiltInSuites(SuiteContract):
    names = ("quick",)


class TestBuiltInAttacks(AttackContract):
    names = ("weights",)
    queries = 38


def row(value=0.5, low=0.25, high=0.75, n=4, subject="s"):
    return EvalRow("m", subject, value, low, high, n)


class Suite:
    id, title, needs, needs_subject = "good", "A good suite", frozenset(), False
    attachments = ("a.txt",)
    files = (Attachment("a.txt", lambda path: path.write_text("a")),)

    def run(self, subject, ctx):
        return EvalReport(self.id, "none", (self.row(),), attachments=self.files)

    def row(self):
        return row()


class Attack:
    id, title, needs, needs_judge = "good", "A good attack", frozenset(), False
    budgets = {"quick": 4, "standard": 8, "long": 16}
    control, found, more = row(subject="control"), {"prompt": "x"}, 0

    def run(self, subject, budget):
        count = budget.queries + self.more if self.more else 1
        subject.generate(["a dog"] * count, range(count), edit="off")
        return AttackReport(
            self.id,
            subject.model,
            budget.name,
            row(),
            self.control,
            found=self.found,
            queries=min(count, budget.queries),
        )


def failed(kind, base, **changes):
    numbers = itertools.count()
    item = type("Odd", (base,), changes)()
    item.numbers = numbers

    class Planted:
        @hookimpl
        def erase_suites(self):
            return [item] if kind == "suite" else []

        @hookimpl
        def erase_attacks(self):
            return [item] if kind == "attack" else []

    with get_manager().temporary(Planted(), "planted"):
        return measuring_report(kind, "good", queries=2 if kind == "attack" else 0)


def harm(self, subject, budget):
    next(subject.pipe.unet.parameters()).data += 1e-3
    return Attack.run(self, subject, budget)


def test_good_ones_pass():
    assert failed("suite", Suite) == {}
    assert failed("attack", Attack) == {}


@pytest.mark.parametrize(
    ("kind", "changes", "check", "told"),
    [
        ("suite", {"title": ""}, "describes_itself", "title"),
        ("suite", {"row": lambda self: row(0.9)}, "report_is_valid", "0.9 [0.25..0.75]"),
        ("suite", {"row": lambda self: row(n=0)}, "report_is_valid", "n=0"),
        ("suite", {"run": lambda self, subject, ctx: EvalReport("other", "none", (row(),))}, "report_is_valid", "is of other"),
        ("suite", {"row": lambda self: row(0.3 + next(self.numbers) / 100)}, "runs_are_equal", "seed"),
        ("suite", {"attachments": ()}, "attachments_are_written", "name a.txt in the attribute"),
        ("suite", {"files": (Attachment("a.txt", print),)}, "attachments_are_written", "nothing was made"),
        ("attack", {"found": {}}, "success_is_controlled", "report.found is empty"),
        ("attack", {"control": row()}, "success_is_controlled", "no control run"),
        ("attack", {"more": 1}, "budget_is_kept", "3 answers were generated, 2 are allowed"),
    ],
)  # fmt: skip
def test_broken_rules_are_noticed(kind, changes, check, told):
    found = failed(kind, Suite if kind == "suite" else Attack, **changes)
    assert told in found[check], found


def test_a_changed_model_is_noticed():
    from erase_plugins.testing.models import discard, shared_pipeline

    try:
        assert "conv_in" in failed("attack", Attack, run=harm)["leaves_the_model_alone"]
    finally:
        discard(shared_pipeline("pocket"))
