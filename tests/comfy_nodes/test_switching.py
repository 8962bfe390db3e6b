"""Strength 0, bypass and removal are the base to the last bit; only what must runs again; stop is quick and harmless."""

from __future__ import annotations

import pytest

pytestmark = [pytest.mark.comfy, pytest.mark.slow]
BASE, ERASED = "13", "14"


@pytest.fixture(scope="module")
def served(answered):
    """What switching.py saw."""
    return answered[1]["switching"]


def test_the_first_workflow_needs_seconds_of_one_processor(served):
    """Processor time of the server, models loaded from disk included: below ten seconds on a quiet machine."""
    assert served["shipped"]["end"] == "execution_success"
    assert served["cpu_seconds"] < 20


@pytest.mark.parametrize("case", ["off", "bypassed"])
def test_switched_off_is_the_base_to_the_last_bit(served, case):
    found = served[case]["pixels"]
    assert found[ERASED] == found[BASE] == served["first"]["pixels"][BASE]


def test_switched_on_is_not_the_base(served):
    first, half = served["first"]["pixels"], served["half"]["pixels"]
    assert len({first[ERASED], half[ERASED], first[BASE]}) == 3
    assert half[BASE] == first[BASE]
    assert served["full again"]["pixels"] == first


def test_another_strength_runs_the_erased_branch_only(served):
    """Erase node, its sampler and decoder, comparison, and the three outputs behind them; nothing of the base."""
    for case in ("half", "off"):
        assert sorted(map(int, served[case]["executed"])) == [2, 6, 8, 9, 10, 11, 14]


@pytest.mark.parametrize(("case", "nodes"), [("stopped while sampling", "56"), ("stopped while erasing", "2")])
def test_stop_ends_the_node_that_runs(served, case, nodes):
    assert served[case]["end"] == "execution_interrupted"
    assert served[case]["ended_in"] in nodes


def test_sampling_stops_within_a_few_of_its_2000_steps(served):
    assert served["stopped while sampling"]["steps_after_stop"] < 100


def test_a_run_after_stops_gives_the_same_pictures(served):
    assert served["after stops"]["pixels"] == served["first"]["pixels"]
    assert "2" in served["after stops"]["executed"]
