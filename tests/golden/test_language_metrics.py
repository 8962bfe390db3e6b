"""Metrics of language unlearning against the official code of TOFU, open-unlearning and MUSE.

Runs every case in --golden-dir whose JSON holds such metrics.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from erase_plugins.evaluation.language import metrics


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "case" in metafunc.fixturenames:
        files = sorted(Path(metafunc.config.getoption("--golden-dir")).glob("lm_metrics*.json"))
        metafunc.parametrize("case", files, ids=[path.stem for path in files], indirect=True, scope="module")


@pytest.fixture(scope="module")
def case(request):
    return json.loads(request.param.read_text())


def ratios(data, name):
    given = data["tofu"]["input"][name]
    return metrics.truth_ratios(given["avg_paraphrased_loss"], given["average_perturb_loss"])


def test_truth_ratios_and_forget_quality(case):
    expected = case["tofu"]["expected_ou"]
    for name in ("forget.unlearned", "forget.retrained"):
        wanted = expected[f"truth_ratio.{name}.closer_to_1_better"]
        # the official code divides the other way round, and adds 1e-10 to what it divides by
        true = metrics.probability(case["tofu"]["input"][name]["avg_paraphrased_loss"])
        found = [p / (p + 1e-10) / ratio for p, ratio in zip(true, ratios(case, name), strict=True)]
        assert found == pytest.approx(wanted["by_index"], rel=1e-9)
        assert np.mean(metrics.truth_forgotten(ratios(case, name))) == pytest.approx(wanted["agg"], abs=1e-9)
    found = metrics.ks_test(ratios(case, "forget.unlearned"), ratios(case, "forget.retrained"))
    quality = case["tofu"]["expected_tofu"]["get_forget_quality"]
    assert found == pytest.approx((quality["KS Test Forget"], quality["Forget Quality"]), rel=1e-6)


def test_utility(case):
    parts, given = [], case["tofu"]["input"]
    expected = case["tofu"]["expected_ou"]
    for name in ("retain", "ra", "wf"):
        one = given[f"{name}.unlearned"]
        parts.append(
            metrics.probability(one["avg_gt_loss"]) if name == "retain" else
            metrics.chosen_probability(one["avg_gt_loss"], one["average_perturb_loss"])
        )  # fmt: skip
        parts += [one["rougeL_recall"], metrics.truth_kept(ratios(case, f"{name}.unlearned"))]
    means = [float(np.mean(part)) for part in parts]
    assert means == pytest.approx(list(expected["model_utility_parts"].values()), abs=1e-9)
    assert metrics.harmonic(means) == pytest.approx(expected["model_utility"], abs=1e-9)
    for name in ("forget.unlearned", "forget.retrained"):
        found = metrics.probability(given[name]["avg_gt_loss"])
        assert np.mean(found) == pytest.approx(expected[f"probability.{name}"], abs=1e-9)


def test_ks(case):
    for name, p in case["ks"]["disjoint"].items():
        n = int(name.rpartition("n")[2])
        assert metrics.ks_test(range(n), range(n, 2 * n))[1] == pytest.approx(p, rel=1e-6)
    pair = case["ks"]["pair"]
    assert metrics.ks_test(pair["a"], pair["b"]) == pytest.approx((pair["statistic"], pair["pvalue"]), rel=1e-6)


def test_rouge(case):
    wanted, said = ([row[key] for row in case["rouge"]] for key in ("ground_truth", "generation"))
    recall, f1 = metrics.rouge_l(said, wanted)
    assert recall == pytest.approx([row["tofu_rougeL_recall"] for row in case["rouge"]], abs=1e-9)
    assert f1 == pytest.approx([row["ou_rougeL_f1"] for row in case["rouge"]], abs=1e-9)
    recall, f1 = metrics.rouge_l(said, wanted, stem=False)
    assert recall == pytest.approx([row["muse_rougeL_recall"] for row in case["rouge"]], abs=1e-9)
    assert f1 == pytest.approx([row["muse_rougeL_f1"] for row in case["rouge"]], abs=1e-9)


def right(row):
    """Whether each token that counts, the last left out, is the most likely one."""
    ids, start = row["ids"], row["label_start"]
    return [int(np.argmax(row["logits"][place - 1])) == ids[place] for place in range(start, len(ids) - 1)]


def test_extraction_and_memorization(case):
    rows, expected = case["tokens"]["input"]["forget"], case["tokens"]["expected"]
    found = [metrics.exact_memorization(right(row)) for row in rows]
    assert found == pytest.approx(expected["exact_memorization"]["by_index"], abs=5e-6)
    for row, wanted in zip(rows, expected["extraction_strength"]["by_index"], strict=True):
        hits = right(row)
        if hits[-1]:
            assert metrics.extraction_strength(hits) == pytest.approx(wanted, abs=1e-9)
        else:  # nothing at the end is right: 0 by the formula, 1 / n in the official code
            assert (metrics.extraction_strength(hits), wanted) == (0.0, pytest.approx(1 / len(hits)))


def test_membership(case):
    logs = case["tokens"]["token_logprobs_ou"]
    for name, share in (("min_k_0.2", 0.2), ("min_k_0.4", 0.4)):
        wanted = case["mia"][name]
        found = {part: [metrics.min_k(row, share) for row in logs[part]] for part in ("forget", "holdout")}
        for part, values in found.items():
            assert values == pytest.approx(wanted[part], abs=5e-6)
        assert metrics.member_auc(found["forget"], found["holdout"]) == pytest.approx(wanted["auc"], abs=1e-9)
    auc, given = case["mia"]["min_k_0.4"]["auc"], case["privleak"]
    assert metrics.privacy_leak(auc, given["ref_auc"]) == pytest.approx(given["privleak_min_k_0.4"], rel=1e-6)
