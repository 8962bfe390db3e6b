"""Whose report is it: names say the concept only, so weights are compared."""

from __future__ import annotations

from dataclasses import replace

import pytest

import erase_plugins as ep
from erase_plugins.artifacts.lineage import marks
from erase_plugins.errors import ArtifactError
from erase_plugins.evaluation.attack import run_attack
from erase_plugins.evaluation.context import run_in_context
from erase_plugins.evaluation.saved import check_about
from erase_plugins.types import EvalReport
from tests.evaluation.test_attack import Counting, subject_of


class Suite:
    """Measures nothing."""

    id, title, needs = "nothing", "Nothing", frozenset()

    def run(self, subject, ctx):
        return EvalReport("nothing", "none", (), artifacts=tuple(item.name for item in subject.artifacts))


@pytest.fixture
def twins(tiny_sd1):
    """Two artifacts of one concept, and so of one name."""
    return [ep.erase(tiny_sd1(), "pizza", to="dog", options={"vocabulary": 0, "lam": lam}) for lam in (0.5, 5.0)]


def test_a_report_belongs_to_the_weights_that_it_measured(twins, tmp_path):
    one, other = twins
    subject = subject_of()
    subject.artifacts, subject.marks = [one], marks([one])
    measured = run_in_context(Suite(), subject, {}, out=tmp_path / "r")
    attacked = replace(run_attack(Counting(), lambda: subject, "quick"), artifacts=())
    assert measured.weights == attacked.weights == marks([one])
    check_about([measured, attacked], one)
    for report in (measured, attacked):
        with pytest.raises(ArtifactError, match="measured other weights that are called 'erase_pizza' too"):
            check_about([report], other)
    with pytest.raises(ArtifactError, match="the report measured other weights"):
        other.card(report=tmp_path / "r")
    assert "erase_pizza" in one.card(report=tmp_path / "r")
    check_about([replace(measured, weights=())], other)  # of a version that did not note it


def test_another_layout_of_an_artifact_is_the_same_artifact(twins, tmp_path):
    saved = twins[0].save(tmp_path / "no-pizza", ("patch", "context"))
    alone = ep.load_artifact(next((tmp_path / "no-pizza").glob("context_map*")))
    shared = set(marks([saved])) & set(marks([alone]))
    assert len(shared) == 1
    assert not shared & set(marks([twins[1]]))
    assert marks(["no artifact"]) == ()
