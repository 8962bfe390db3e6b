"""Order and end of the trials, the front and its knee, and that a killed search goes on as if nothing had happened."""

from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace

import pytest

from erase_plugins.autotune.search import Budget, Search
from erase_plugins.autotune.space import Start
from erase_plugins.autotune.trials import Tried, front_of, knee_of, open_study, refusals_of, rows_of
from erase_plugins.errors import RequestError, Unsupported
from erase_plugins.options import OptionInfo

pytest.importorskip("optuna")

PULL = OptionInfo("pull", "float", 0.5, "", None, None, (), {}, (0.0, 1.0))
MODE = OptionInfo("mode", "str", "a", "", None, None, (), {}, ("a", "b"))


def start(method="quick", seconds=1.0, anchors=(None, "")):
    return Start(method, {}, {"pull": 0.5, "mode": "a"}, (PULL, MODE), anchors, seconds)


class Killed(BaseException):
    """What stands for the end of the process."""


class Bench:
    """Stands for erasing and measuring: more pull, less is left and more is changed; a clock that only it moves."""

    def __init__(self, takes=1.0, die_at=None, refuses=()):
        self.takes, self.die_at, self.refuses = takes, die_at, refuses
        self.now, self.asked = 0.0, []

    def clock(self):
        return self.now

    def __call__(self, settings):
        if len(self.asked) == self.die_at:
            raise Killed
        self.asked.append(settings)
        self.now += self.takes
        if settings.method in self.refuses:
            raise Unsupported(f"{settings.method} cannot")
        pull = settings.options["pull"]
        better = 0.1 if settings.method == "slow" else 0.0
        extra = 0.05 if settings.options["mode"] == "b" else 0.0
        left = 1 - pull + extra
        return Tried(left, max(pull**2 - better, 0), 1.0, {"name": 1 - pull}, (left - extra, left + extra))


def search(file, bench, starts=None, seconds=1000.0, asked=None, **budget):
    study = open_study(file, {"concept": "pizza"} if asked is None else asked)
    runner = Search(study, starts or [start()], bench, Budget(seconds, **budget), 3, bench.clock)
    return study, runner.run()


def plain(study):
    return [(row.settings, row.numbers, row.values) for row in rows_of(study)]


def test_killed_and_resumed_gives_the_same_front(tmp_path):
    starts = [start(), start("other", 2.0)]
    whole, _ = search(None, Bench(), starts, trials=14, patience=99)
    file = tmp_path / "study.journal"
    for die_at in (0, 3, 6):
        with pytest.raises(Killed):
            search(file, Bench(die_at=die_at), starts, trials=14, patience=99)
    resumed, told = search(file, Bench(), starts, trials=14, patience=99)
    assert told == "14 trials were asked for"
    assert plain(resumed) == plain(whole)
    assert [row.numbers for row in front_of(rows_of(resumed))] == [row.numbers for row in front_of(rows_of(whole))]
    assert len({row.settings.method for row in rows_of(whole)}) == 2
    assert len({row.settings.options["pull"] for row in rows_of(whole)}) > 5
    again = Bench()
    search(file, again, starts, trials=14, patience=99)
    assert again.asked == []  # what is finished is not done twice


def test_another_seed_gives_other_trials():
    one, _ = search(None, Bench(), trials=6, patience=99)
    study = open_study(None, {})
    Search(study, [start()], bench := Bench(), Budget(1000.0, 6, 99), 4, bench.clock).run()
    assert plain(one) != plain(study)
    assert plain(one)[0] == plain(study)[0]  # both begin with the defaults


def test_the_defaults_come_first_and_what_is_short_before_what_is_long():
    bench = Bench()
    search(None, bench, [start("first", 1.0), start("second", 2.0), start("slow", 400.0)], trials=30, patience=8)
    assert [item.method for item in bench.asked[:3]] == ["first", "second", "slow"]
    assert {item.options["pull"] for item in bench.asked[:3]} == {0.5}
    assert len(bench.asked) > 8


def test_the_last_part_of_the_budget_is_for_proposals():
    bench = Bench(takes=100.0)
    starts = [start("quick", 1.0), *(start(f"slow {number}", 110.0 + number) for number in range(9))]
    search(None, bench, starts, seconds=1000.0, patience=99)
    names = [item.method for item in bench.asked]
    # the sixth would end after three quarters, with what measuring takes
    assert names[:6] == ["quick", *(f"slow {number}" for number in range(5))]
    assert set(names[6:]) <= set(names[:6])
    assert len(names) == 10


def test_of_what_is_long_proposals_vary_the_strength_alone_and_cost_what_measuring_costs():
    made = set()

    class Trained(Bench):
        def __call__(self, settings):
            key = repr(settings.options) + settings.method
            self.takes = 5.0 if settings.method == "quick" or key in made else 200.0
            made.add(key)
            super().__call__(settings)
            near = 0.1 if settings.method == "slow" else 0.5
            return Tried(near, abs(settings.strength - 1.2), 1.0, {})

    bench = Trained()
    slow = replace(start("slow", 290.0), scales=True)
    study = open_study(None, {})
    runner = Search(study, [start("quick", 1.0), slow], bench, Budget(402.0, None, 99), 3, bench.clock,
                    at_hand=lambda settings: repr(settings.options) + settings.method in made)  # fmt: skip
    assert runner.run() == "nothing that is left would finish in time"
    trained = [item for item in bench.asked if item.method == "slow"]
    assert len(trained) > 5, "a second training would have taken all that is left of the budget"
    assert {repr(item.options) for item in trained} == {repr({"pull": 0.5, "mode": "a"})}
    assert knee_of(front_of(rows_of(study))).settings.strength == 1.2


def test_what_cannot_finish_in_the_budget_is_never_started():
    bench = Bench()
    _, told = search(None, bench, [start("quick", 1.0), start("slow", 400.0)], seconds=300.0, patience=10, trials=60)
    assert {item.method for item in bench.asked} == {"quick"}
    assert told == "the knee did not move in 10 trials"
    bench = Bench(takes=7.0)  # the estimate said 1: what was seen counts
    _, told = search(None, bench, seconds=30.0, patience=99)
    assert len(bench.asked) == 4
    assert told == "nothing that is left would finish in time"


def test_time_before_an_interruption_counts(tmp_path):
    with pytest.raises(Killed):
        search(tmp_path / "j", Bench(takes=7.0, die_at=3), seconds=30.0, patience=99)
    bench = Bench(takes=7.0)
    search(tmp_path / "j", bench, seconds=30.0, patience=99)
    assert len(bench.asked) == 1


def test_what_was_refused_takes_time_too(tmp_path):
    starts = [start("broken", 0.5), start()]
    with pytest.raises(Killed):
        search(tmp_path / "j", Bench(takes=7.0, die_at=1, refuses=("broken",)), starts, seconds=20.0, patience=99)
    bench = Bench(takes=7.0)
    search(tmp_path / "j", bench, starts, seconds=20.0, patience=99)
    assert [item.method for item in bench.asked] == ["quick"]  # a second one would end after 21 seconds


def test_a_trial_takes_making_and_measuring():
    bench = Bench(takes=100.0)
    search(None, bench, [start("quick", 1.0), start("other", 20.0)], seconds=210.0, patience=99)
    assert [item.method for item in bench.asked] == ["quick", "quick"]
    bench = Bench(takes=100.0)
    search(None, bench, [start("quick", 1.0), start("other", 20.0)], seconds=230.0, patience=99)
    assert [item.method for item in bench.asked] == ["quick", "other"]


def test_a_refusal_is_told_and_does_not_end_the_search():
    bench = Bench(refuses=("broken",))
    study, _ = search(None, bench, [start("broken", 0.5), start()], trials=5, patience=99)
    assert [text for _, text in refusals_of(study)] == ["broken cannot"]
    assert {row.settings.method for row in rows_of(study)} == {"quick"}
    assert len(bench.asked) == 5


def test_whatever_a_plugin_raises_is_a_refusal_in_one_line():
    class Broken(Bench):
        def __call__(self, settings):
            if settings.method == "broken":
                self.now += self.takes
                raise ZeroDivisionError("no rows in /home/me/x/y.txt\nand more")
            return super().__call__(settings)

    study, _ = search(None, Broken(), [start("broken", 0.5), start()], trials=3, patience=99)
    assert [text for _, text in refusals_of(study)] == ["ZeroDivisionError: no rows in y.txt"]
    assert len(rows_of(study)) == 2


def test_what_comes_before_the_trials_counts_once(tmp_path):
    """Loading and measuring the base take as long each time that a search is gone on with."""

    def going_on():
        study = open_study(tmp_path / "j", {"concept": "pizza"})
        bench = Bench(takes=2.0)
        runner = Search(study, [start()], bench, Budget(30.0, len(rows_of(study)) + 1, 99), 3, bench.clock)
        bench.now += 5.0
        runner.opened()
        runner.run()
        return runner.spent()

    assert [going_on() for _ in range(3)] == [7.0, 9.0, 11.0]


def test_a_trial_is_over_with_the_budget_once_there_is_another_to_show():
    said = []

    class Long(Bench):
        def __call__(self, settings):
            found = super().__call__(settings)
            said.append(runner.over())
            return found

    bench = Long(takes=4.0)
    study = open_study(None, {})
    runner = Search(study, [start()], bench, Budget(7.0, patience=99), 3, bench.clock)
    runner._expected = lambda item: 1.0  # it is wrong
    runner.run()
    assert said == [False, True]


def test_the_search_ends_where_nothing_can_be_won():
    class Perfect(Bench):
        def __call__(self, settings):
            super().__call__(settings)
            return Tried(0.0, 0.0, 1.0, {})

    bench = Perfect()
    _, told = search(None, bench, [start("quick", 1.0), start("slow", 200.0)], patience=6)
    assert [item.method for item in bench.asked] == ["quick"]
    assert told == "no more than 0.5% is left and has changed"


def shown(monkeypatch, *numbers):
    """A search behind which trials gave these (left, change)."""
    rows = [SimpleNamespace(number=number, left=left, change=change, cost=1.0, values=(), numbers=(left, change, 1.0),
                            distance=math.hypot(left, change), seconds=1.0)
            for number, (left, change) in enumerate(numbers)]  # fmt: skip
    monkeypatch.setattr("erase_plugins.autotune.search.rows_of", lambda study: rows)
    monkeypatch.setattr("erase_plugins.autotune.search.counted", lambda study: [])
    return Search(None, [start()], Bench(), Budget(1.0), 3, lambda: 0.0)


def test_equal_settings_are_not_measured_again():
    """A search over one choice of two: what was tried is known, however often it is proposed."""

    class Modes(Bench):
        def __call__(self, settings):
            self.asked.append(settings.options["mode"])
            return Tried(0.5, 0.1, 1.0, {}, (0.25, 0.75))

    bench = Modes()
    study, _ = search(None, bench, [Start("quick", {}, {"mode": "a"}, (MODE,), (None, ""), 1.0)], trials=6, patience=99)
    assert [row.values for row in rows_of(study)] == [(0.25, 0.75)] * 6
    assert sorted(bench.asked) == sorted({row.settings.options["mode"] for row in rows_of(study)})


def test_less_than_pictures_can_tell_does_not_move_the_knee(monkeypatch):
    assert shown(monkeypatch, (0.5, 0.0), (0.499, 0.0), (0.4985, 0.0))._still() == 2
    assert shown(monkeypatch, (0.5, 0.0), (0.6, 0.0), (0.49, 0.0), (0.6, 0.0))._still() == 1


def test_something_can_be_won_where_either_number_is_not_yet_nothing(monkeypatch):
    assert shown(monkeypatch, (0.0, 0.2))._room()
    assert shown(monkeypatch, (0.2, 0.0))._room()
    assert not shown(monkeypatch, (0.004, 0.004))._room()


def test_a_search_for_something_else_is_not_gone_on_with(tmp_path):
    search(tmp_path / "j", Bench(), trials=1)
    with pytest.raises(RequestError, match=r"asked something else \(concept\)"):
        search(tmp_path / "j", Bench(), asked={"concept": "taco"}, trials=1)
