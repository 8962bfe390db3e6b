"""Numbers of language unlearning against hand calculations and the values that the specification states."""

from __future__ import annotations

import math

import pytest

from erase_plugins.evaluation.language import metrics


@pytest.mark.parametrize(("n", "p"), [(10, 1.08e-5), (20, 1.45e-11), (200, 1.94e-119), (400, 1.06e-239)])
def test_samples_that_do_not_overlap_have_the_published_p(n, p):
    statistic, found = metrics.ks_test(range(n), range(n, 2 * n))
    assert statistic == 1.0
    assert found == pytest.approx(p, rel=5e-3)


def test_ks_by_hand_and_against_scipy_with_ties():
    # 1 2 | 3: orders of {a, a, b} are 3, the gap of 1 is reached by baa and aab
    assert metrics.ks_test([1, 2], [3]) == (1.0, pytest.approx(2 / 3))
    assert metrics.ks_test([1, 2, 3], [1, 2, 3]) == (0.0, 1.0)
    import numpy as np
    from scipy.stats import ks_2samp

    rng = np.random.default_rng(0)
    for size in (7, 13, 40):
        a, b = rng.integers(0, 9, size), rng.integers(0, 12, size + 5)
        expected = ks_2samp(a, b, method="exact")
        assert metrics.ks_test(a, b) == pytest.approx((expected.statistic, expected.pvalue), rel=1e-9)
    with pytest.raises(ValueError, match="empty"):
        metrics.ks_test([], [1.0])


def test_truth_ratio_by_hand():
    # p(true) = 1/2, wrong 1/4 and 1/16 with geometric mean 1/8: R = 4; the other way round R = 1/4
    found = metrics.truth_ratios([math.log(2), math.log(8)], [[math.log(4), math.log(16)], [math.log(2)] * 3])
    assert found == pytest.approx([4.0, 0.25])
    assert metrics.truth_forgotten(found) == pytest.approx([0.25, 0.25])
    assert metrics.truth_kept(found) == pytest.approx([0.75, 0.0])
    assert metrics.chosen_probability([math.log(2)], [[math.log(4), math.log(4)]]) == pytest.approx([0.5])
    assert metrics.harmonic([0.5, 1.0]) == pytest.approx(2 / 3)
    assert metrics.harmonic([0.5, 0.0]) == 0.0


def test_extraction_by_hand():
    assert metrics.extraction_strength([True, True, True]) == 1.0
    assert metrics.extraction_strength([False, True, True, True]) == 0.75
    assert metrics.extraction_strength([True, True, False]) == 0.0  # ours: the official code stops at 1 / n
    assert metrics.exact_memorization([True, True, False, False]) == 0.5
    assert (metrics.extraction_strength([]), metrics.exact_memorization([])) == (0.0, 0.0)


def test_membership_by_hand():
    assert metrics.min_k([-1.0]) == 1.0  # one token is no NaN
    assert metrics.min_k([-5.0, -1.0, -3.0, -0.5, -0.1]) == 4.0  # two of five
    assert metrics.member_auc([1.0, 2.0], [2.0, 3.0]) == 0.875
    assert metrics.privacy_leak(1.0, 0.67) == pytest.approx(-100)
    assert metrics.privacy_leak(0.67, 0.67) == 0.0


def test_rouge_by_hand():
    # "a c d" is the longest common subsequence of both: 3 of 4 words wanted, 3 of 5 said
    recall, f1 = metrics.rouge_l(["a b c x d"], ["a c d e"])
    assert recall == pytest.approx([0.75])
    assert f1 == pytest.approx([2 * 0.75 * 0.6 / 1.35])
    assert metrics.rouge_l(["walked"], ["walking"])[0] == [1.0]
    assert metrics.rouge_l(["walked"], ["walking"], stem=False)[0] == [0.0]
