"""The accountant of noisy gradient descent against stored numbers of a numerical minimisation (relative 1e-6).

Runs every case in --golden-dir whose JSON describes noisy gradient descent; unseen cases follow the same format.
"""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path
from typing import Any

import pytest

from erase_plugins.records import accountant

TOLERANCE = 1e-6


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "golden" in metafunc.fixturenames:
        folder = Path(metafunc.config.getoption("--golden-dir"))
        found = {path.stem: json.loads(path.read_text()) for path in sorted(folder.glob("noisy_gd*.json"))}
        metafunc.parametrize("golden", found.values(), ids=found)


def near(value: float) -> Any:
    return pytest.approx(value, rel=TOLERANCE)


def test_every_set(golden: dict) -> None:
    assert golden["sets"]
    for item in golden["sets"]:
        L, n, lam, beta, g, m = (item[name] for name in ("L", "n", "lam", "beta", "g", "m"))
        rules = {"paper": 1 / (2 * (lam + beta)), "fast": 1 / (lam + beta), "fastest_c": 2 / (2 * lam + beta)}
        eta = rules[item["eta_rule"]]
        c, s, v = (
            accountant.contraction(eta, lam, beta),
            accountant.step_shift(L, eta, n, item["Delta"], g),
            2 * eta * item["sigma2"],
        )
        assert (eta, c, s, v) == (near(item["eta"]), near(item["c"]), near(item["s"]), near(item["v"]))
        assert accountant.segment(c, s, v, item["K1"], m) == near(item["rho_seg"])
        assert accountant.segment(c, s, v, item["K1"], m) == near(item["rho_non_adaptive"])
        marks = [0, *item["releases_while_present_after_steps"]]
        parts = [accountant.segment(c, s, v, b - a) for a, b in itertools.pairwise(marks)]
        assert parts == [near(value) for value in item["rho_segments_releases"]]
        tail = accountant.segment(c, s, v, item["K1"] - marks[-1], m)
        assert tail == pytest.approx(item["rho_segment_after_last_release"], rel=TOLERANCE, abs=1e-15)
        adaptive = sum(parts) + tail
        assert adaptive == near(item["rho_adaptive"])
        s2 = accountant.step_shift(L, eta, n, 2, g)
        limit = accountant.segment(c, s2, v, math.inf)
        assert limit == near(item["rho_dp_limit_Delta2"])
        for factor in (10, 100):
            assert accountant.deletion_steps(limit, limit / factor, c) == item[f"K_D_for_rho_dp_over_{factor}"]
        assert accountant.noise_for(0.5, L, lam, beta, eta, n, g) == near(item["sigma2_for_rho_dp_0.5_Delta2"])
        assert accountant.epsilon(adaptive, 1e-5) == near(item["eps_at_delta_1e-5_adaptive"])
        assert accountant.advantage(adaptive) == near(item["advantage_bound_adaptive"])
        assert item["K1"] * s**2 / (2 * v) == near(item["composition_bound_K1_s2_over_2v"])


def test_factors_of_one_and_more(golden: dict) -> None:
    for item in golden["nonconvex_c_ge_1"]:
        variance = item["two_v"] / 2
        found = accountant.loose_segment(item["c"], item["s"], variance, item["K1"], item["m"])
        assert found * item["two_v"] == pytest.approx(item["sum_a2"], rel=1e-7)


def test_conversions_and_projected_edits(golden: dict) -> None:
    for item in golden["conversions"]:
        assert accountant.epsilon(item["rho"], 1e-5) == near(item["eps_delta_1e-5"])
        assert accountant.epsilon(item["rho"], 1e-6) == near(item["eps_delta_1e-6"])
        assert accountant.advantage(item["rho"]) == near(item["advantage"])
    for item in golden["projected_edit"]:
        assert accountant.projected_edit(item["c"], item["R"], item["v"], item["m"]) == near(item["rho"])


def test_the_table_of_the_specification(golden: dict) -> None:
    given = golden["spec_table_inputs"]
    L, n, lam, beta, sigma2 = (given[name] for name in ("L", "n", "lam", "beta", "sigma2"))
    for rule, eta in (("paper", 1 / (2 * (lam + beta))), ("fast", 1 / (lam + beta))):
        wanted, c, v = golden["spec_table"][rule], accountant.contraction(eta, lam, beta), 2 * eta * sigma2
        s = accountant.step_shift(L, eta, n, given["Delta"])
        assert c == near(wanted["c"])
        for steps, value in wanted["rho_seg_K_0"].items():
            assert accountant.segment(c, s, v, int(steps)) == near(value)
        for steps, value in wanted["rho_inf_m"].items():
            assert accountant.segment(c, s, v, math.inf, int(steps)) == near(value)
        assert accountant.segment(c, s, v, 100, 50) == near(wanted["rho_seg_100_50"])
        assert accountant.segment(c, s / 2, v, 100) == near(wanted["Delta1_K100"])
