"""The section of docs/results-language.md on other trainings of the reference."""

from __future__ import annotations

from tools.docs.language_draws import section


def test_what_is_told_apart_is_counted_per_method_and_training():
    low, high = [number / 100 for number in range(20)], [0.8 + number / 100 for number in range(20)]
    twin = {"forget_probability": low, "forget_ratio": low}
    cells = [
        {"method": "npo", "values": {"edited": {"forget_probability": one, "forget_ratio": low}, "reference": twin},
         "table": {"reference": {"forget_extraction": 0.25}}}
        for one in (low, high)
    ]  # fmt: skip
    other = {"forget_probability": high, "forget_ratio": low, "forget_extraction": [0.2, 0.4]}
    lines = section(cells, ["npo"], [other])
    assert "| training 1 | 0.895 | 0.000 | 1.000 | 5.0 |" in lines
    # one run is like the first reference, one like the other; the truth ratios are those of both
    assert "| `npo` | 1 of 2 | 2 of 2 | 1 of 2 | 2 of 2 |" in lines
