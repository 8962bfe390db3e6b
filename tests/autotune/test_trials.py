"""What is kept of trials, and which of them are the best."""

from __future__ import annotations

import pytest

from erase_plugins.autotune.space import Settings
from erase_plugins.autotune.trials import Row, counted, doubt_of, front_of, knee_of, open_study, refusals_of, rows_of

pytest.importorskip("optuna")


def row(number, left, change, cost=1.0, values=()):
    return Row(number, str(number), Settings("m"), left, change, cost, 1.0, {}, values)


def pictured(number, values, change, cost=1.0):
    """Pictures in which this is left."""
    return row(number, sum(values) / len(values), change, cost, values)


def test_front_and_knee():
    rows = [row(0, 0.5, 0.0), row(1, 0.1, 0.1), row(2, 0.2, 0.2), row(3, 0.0, 0.6), row(4, 0.2, 0.2, 0.5),
            row(5, 0.1, 0.1)]  # fmt: skip
    assert [item.number for item in front_of(rows)] == [0, 1, 3, 4]
    assert knee_of(front_of(rows)).number == 1
    assert knee_of([row(0, 0.6, 0.0), row(1, 0.3, 0.4)]).number == 1  # as the crow flies: 0.5, though 0.7 in sum
    assert knee_of([row(0, 0.1, 0.0, 9.0), row(1, 0.0, 0.1, 3.0)]).number == 1  # equally near: the cheaper one
    # what only luck tells apart counts as equally near: the first of those that cost the same
    assert knee_of([row(0, 0.003, 0.0), row(1, 0.002, 0.0), row(2, 0.0015, 0.0, 2.0)]).number == 0
    assert knee_of([row(0, 0.005, 0.0), row(1, 0.002, 0.0)]).number == 1


def test_what_leaves_clearly_less_is_the_knee_at_a_change_that_nobody_sees():
    small = pictured(0, (0.003, 0.002, 0.004, 0.003), 0.0)
    clear = pictured(1, (0.001, 0.001, 0.002, 0.001), 0.004, 9.0)
    assert knee_of([small, clear]).number == 1
    assert knee_of([small, pictured(1, clear.values, 0.006, 9.0)]).number == 0  # a change that can be seen
    # less on average, by one picture: luck, and the smaller file is taken
    assert knee_of([small, pictured(1, (0.0, 0.003, 0.004, 0.003), 0.004, 9.0)]).number == 0
    # of several the least, or a cheaper one that pictures do not tell from it; the first step took the cheapest
    least = pictured(2, (0.001, 0.0005, 0.002, 0.001), 0.001, 12.0)
    assert knee_of([small, clear, least]).number == 1
    assert knee_of([small, clear, pictured(2, (0.0, 0.0, 0.001, 0.0), 0.001, 12.0)]).number == 2
    assert knee_of([row(0, 0.003, 0.0), clear]).number == 0  # nothing to compare


def test_a_best_trial_that_is_no_good_is_told():
    assert doubt_of(row(0, 0.1, 0.2)) == ""
    assert "leaves 90% of the concept: nothing" in doubt_of(row(0, 0.9, 0.0))
    assert "changes everything else by 0.80" in doubt_of(row(0, 0.0, 0.8))
    assert "leaves 60% of the concept and changes" in doubt_of(row(0, 0.6, 0.8))


def tell(study, left=None):
    """A trial that is finished, or refused."""
    from optuna.trial import TrialState

    trial = study.ask()
    trial.set_user_attr("label", f"trial {left}")
    if left is None:
        trial.set_user_attr("refused", "cannot")
        study.tell(trial, state=TrialState.FAIL)
        return
    for name, value in {"settings": Settings("m").to_dict(), "seconds": 1.0, "parts": {}}.items():
        trial.set_user_attr(name, value)
    study.tell(trial, [left, 0.0, 1.0])


def test_a_journal_that_a_kill_cut_is_gone_on_with_and_trials_keep_their_numbers(tmp_path):
    file = tmp_path / "study.journal"
    study = open_study(file, {})
    tell(study, 0.5)
    study.ask()  # the trial that was cut off
    with file.open("ab") as torn:
        torn.write(b'{"op_code":4,"worker_id":"x","stu')
    again = open_study(file, {})
    tell(again)
    tell(again, 0.25)
    found = open_study(file, {})
    assert [(item.number, item.left) for item in rows_of(found)] == [(0, 0.5), (2, 0.25)]
    assert len(counted(found)) == 3
    assert refusals_of(found) == [("trial None", "cannot")]
    assert [item.name for item in tmp_path.iterdir()] == [file.name]  # no lock that would outlive a process
