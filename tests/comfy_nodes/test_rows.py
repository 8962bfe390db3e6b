"""Text boxes with a number on each line."""

from __future__ import annotations

import pytest

from comfy_nodes.rows import read_rows, renamed, rows_problem


def test_names_with_and_without_a_number():
    text = "pizza : 0.5  # half\n\nhub:me/no-dog@v1\nhub:me/no-cat : -1\na.safetensors:2e-1"
    assert read_rows(text) == (
        ("pizza", 0.5), ("hub:me/no-dog@v1", 1.0), ("hub:me/no-cat", -1.0), ("a.safetensors", 0.2),
    )  # fmt: skip
    assert rows_problem(text) is None
    assert read_rows("") == ()


def test_names_are_replaced_and_numbers_stay():
    rows = renamed("pizza : 0.123456789\nhub:me/no-dog", {"hub:me/no-dog": "hub:me/no-dog@c"})
    assert read_rows(rows) == (("pizza", 0.123456789), ("hub:me/no-dog@c", 1.0))


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("pizza : x", "'x' is not a number"),
        ("pizza :", "'' is not a number"),
        (": 1", "names nothing"),
        ("a\na : 2", "'a' is named twice"),
        ("a : nan", "nan is not a usable number"),
        ("a : 1e9", "1e9 is not a usable number"),
    ],
)
def test_lines_that_say_nothing_are_refused(text, problem):
    assert problem in str(rows_problem(text))
