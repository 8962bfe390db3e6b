"""docs/results-language.md: it is what the stored cells give, and what telling one reference from the others says."""

from __future__ import annotations

import json

from tools.docs import language_table
from tools.docs.language_draws import above, section, together, told, trainings
from tools.docs.language_page import over_seeds
from tools.docs.width import narrow

LOW, HIGH = [number / 100 for number in range(20)], [0.8 + number / 100 for number in range(20)]


def cell(probability):
    values = {"forget_probability": LOW, "forget_ratio": LOW}
    return {
        "method": "npo", "values": {"edited": {**values, "forget_probability": probability}, "reference": values},
        "table": {name: {"forget_extraction": 0.25} for name in ("edited", "reference")},
    }  # fmt: skip


def test_what_is_told_apart_is_counted_per_method_and_training():
    cells = [cell(LOW), cell(HIGH)]
    other = {"forget_probability": HIGH, "forget_ratio": LOW, "forget_extraction": [0.2, 0.4]}
    lines = section(cells, ["npo"], [other])
    assert "| 1 | 0.895 | 0.000 | 1.000 | 5.0 |" in lines
    assert any(
        line.startswith("Of 1 pairs of trainings the tests tell 1 apart by probabilities and 0 by") for line in lines
    )
    # one run is like the first reference, one like the other; both together look like neither
    assert lines[-2].endswith("| 0 of 2, 1 1 |")


def test_over_seeds_tests_hold_in_each_and_amounts_in_the_mean():
    def run(probability, utility, extraction):
        found = cell(probability)
        found["table"] = {
            "base": {"utility": 0.8}, "edited": {"utility": utility, "forget_extraction": extraction},
            "reference": {"forget_extraction": 0.25},
        }  # fmt: skip
        return found

    assert over_seeds([run(LOW, 0.79, 0.28), run(LOW, 0.76, 0.25)])  # 1.5 points above, 2.5 lost
    assert not over_seeds([run(LOW, 0.79, 0.28), run(LOW, 0.76, 0.27)])  # 2.5 above
    assert not over_seeds([run(LOW, 0.77, 0.25), run(LOW, 0.76, 0.25)])  # 3.5 lost
    assert not over_seeds([run(LOW, 0.79, 0.25), run(HIGH, 0.79, 0.25)])


def test_trainings_are_one_sample_together():
    found = trainings([cell(LOW)], [{"forget_probability": HIGH, "forget_ratio": LOW, "forget_extraction": [0.4] * 20}])
    assert len(together(found)["forget_probability"]) == 40
    assert abs(above(0.35, found) - 0.025) < 1e-9
    assert told({"forget_probability": LOW + HIGH, "forget_ratio": LOW}, found) == {"probability": 1, "truth ratio": 1}


def test_the_page_is_what_the_stored_cells_give():
    cells, draws = (
        json.loads(path.read_text(encoding="utf-8")) for path in (language_table.CELLS, language_table.DRAWS)
    )
    text = language_table.PAGE.read_text(encoding="utf-8")
    assert text == language_table.page(cells, draws), "run: python -m tools.docs.language_table --page"
    assert "$" not in text
    assert "Not measured yet: `undial`" in language_table.page([cell for cell in cells if cell["method"] != "undial"])


def test_long_lines_of_prose_are_broken_and_tables_are_not():
    item, row, code = "- " + "word " * 40 + "end", "| " + "cell " * 40 + "|", "    " + "code " * 40
    lines = narrow("\n".join([item, row, code, "short"])).split("\n")
    assert [len(line) <= 140 for line in lines] == [True, True, False, False, True]
    assert lines[1].startswith("  word") and " ".join(" ".join(lines[:2]).split()) == item
    assert lines[2:] == [row, code, "short"]
