"""The metrics of EraseEval against stored answers of the official scripts and hand calculations.

Runs every case in --golden-dir whose JSON holds the blocks M1, M2 and M3_M4; unseen cases follow the same format.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from erase_plugins.evaluation.erase_eval import metrics

RELATIVE = 1e-6  # as the case files state


def pytest_generate_tests(metafunc):
    if "case" in metafunc.fixturenames:
        folder = Path(metafunc.config.getoption("--golden-dir"))
        found = [json.loads(path.read_text()) for path in sorted(folder.glob("erase_eval*.json"))]
        metafunc.parametrize("case", found, ids=[item["name"] for item in found])


def close(value):
    return pytest.approx(value, rel=RELATIVE, abs=1e-12)


def test_explicit(case):
    for item in case["M1"]:
        for name, official in (("official", True), ("fixed", False)):
            pairs = zip(item["answers"], item["captions"], strict=True)
            present = [metrics.in_caption(*pair, item["concept"], official) for pair in pairs]
            assert present == item[f"present_{name}"], item["name"]
            value = metrics.scene_kept(item["original_embeddings"], item["erased_embeddings"], present)
            assert value == close(item[f"M1_{name}"]), item["name"]


def test_implicit(case):
    for item in case["M2"]:
        for name, official in (("official", True), ("by_whole_word_no", False)):
            pairs = zip(item["paligemma_answers"], item["vlm_answers"], strict=True)
            present = [metrics.in_answers(*pair, official) for pair in pairs]
            assert present == item[f"present_{name}"], item["name"]
            value = metrics.scene_kept(item["original_features"], item["erased_features"], present)
            assert value == close(item[f"M2_{name}"]), item["name"]


def test_what_is_kept(case):
    for item in case["M3_M4"]:
        original, erased = item["original_image_features"], item["erased_image_features"]
        matches = [metrics.text_match(part, item["text_features"]) for part in (original, erased)]
        assert matches == [close(item["CS_original"]), close(item["CS_erased"])]
        assert metrics.ratio_kept(*matches) == close(item["M3"])
        reference = item["reference_image_features"]
        distances = [metrics.cmmd(part, reference) for part in (original, erased)]
        assert distances == [close(item["CMMD_original"]), close(item["CMMD_erased"])]
        assert metrics.distribution_kept(*distances) == close(item["M4"])
        means = item["mean_form_10_times_squared_mean_difference"]
        center = metrics.unit(reference).mean(0)
        assert metrics.mean_distance(metrics.unit(original).mean(0), center) == close(means["original"])
        assert metrics.mean_distance(metrics.unit(erased).mean(0), center) == close(means["erased"])
        ratio = metrics.spread_ratio(metrics.unit(original), metrics.unit(erased))
        assert ratio == close(item["spread_ratio_trace_cov_erased_over_original"])
    for item in case.get("M3_scalar", ()):
        assert metrics.ratio_kept(item["CS_o"], item["CS_e"]) == close(item["M3"])
    for item in case.get("M4_scalar", ()):
        assert metrics.distribution_kept(item["CMMD_o"], item["CMMD_e"]) == close(item["M4"])
    for item in case.get("M4_prime", {}).get("cases", ()):
        assert metrics.distribution_kept_offline(item["CMMD_o"], item["CMMD_e"]) == close(item["value"])


def test_score(case):
    for item in case["aggregates"]["cases"]:
        for rule in metrics.RULES:
            assert metrics.combine(item["M"], rule) == close(item[rule]), (item["M"], rule)
    tiny = case["aggregates"].get("tiny_component")
    if tiny:
        assert metrics.combine(tiny["M"]) == close(tiny["harmonic_with_floor_1e-6"])


def test_offline(case):
    for item in case["offline"]["scaled_M"]:
        assert metrics.scaled(item["M"], item["floor"], item["ceiling"]) == close(item["scaled"])
    removed = case["offline"]["concept_direction_removed"]
    found = metrics.without_direction(removed["h"], removed["w"])
    assert np.abs(found - np.asarray(removed["h_prime_rows_unit"])).max() < 1e-6


def test_properties_of_the_distance():
    """The recipe of the case files, made here again: numbers of a second implementation are stored there."""
    draw = np.random.default_rng(2065)
    x, y = draw.standard_normal((500, 64)), draw.standard_normal((500, 64))
    y[:, 1] += 0.3
    kernel = metrics.cmmd(x, y)
    assert kernel == pytest.approx(0.04863287137690797, rel=RELATIVE)
    means = metrics.mean_distance(metrics.unit(x).mean(0), metrics.unit(y).mean(0))
    assert means == pytest.approx(0.04891763531451944, rel=RELATIVE)
    assert abs(means / kernel - 1) < 0.01
    assert abs(metrics.cmmd(y, x) - kernel) < 1e-9 and metrics.cmmd(x, x) == 0


def test_the_distance_to_the_same_rows_in_another_order_is_0():
    draw = np.random.default_rng(1)
    x = draw.standard_normal((200, 32))
    assert abs(metrics._cmmd(x, x[draw.permutation(200)])) < 1e-12
    assert metrics.cmmd(x, x[draw.permutation(200)]) < 1e-5


@pytest.mark.parametrize("rule", metrics.RULES)
def test_no_better_metric_lowers_the_score(rule):
    grid = np.linspace(0, 1, 6)
    for place in range(4):
        for others in np.random.default_rng(0).choice(grid, (50, 4)):
            scores = [metrics.combine([*others[:place], value, *others[place + 1 :]], rule) for value in grid]
            assert (np.diff(scores) >= -1e-12).all() and scores[-1] > scores[0] - 1e-12, others


def test_a_collapsed_set_is_near_by_distance_and_far_by_spread():
    x = metrics.unit(np.random.default_rng(5).standard_normal((60, 16)) + 2)
    y = np.repeat(x.mean(0, keepdims=True), 60, axis=0)
    assert metrics._cmmd(x, y) == pytest.approx(0.0010549913986857007, rel=RELATIVE)
    assert metrics.cmmd(x, y) == pytest.approx(0.10128604944470432, rel=RELATIVE)
    assert metrics.spread_ratio(x, y) == pytest.approx(0, abs=1e-12)


def test_identical_pictures():
    rows = np.random.default_rng(0).standard_normal((1, 16)).repeat(5, 0)
    assert metrics.scene_kept(rows, rows, [False] * 5) == pytest.approx(1)
    assert metrics.scene_kept(rows, rows, [True] * 5) == 0
