"""`run` takes the precision that a method wants, unless one is named."""

from __future__ import annotations

import pytest


@pytest.mark.parametrize(("said", "wanted"), [((), "bfloat16"), (("--dtype", "float32"), "float32")])
def test_the_command_line_does_the_same(erase, tmp_path, said, wanted):
    words = ("run", "esd", "--erase", "pizza", "--device", "cuda", "--out", tmp_path / "a", "--dry-run", "--json")
    found = erase(*words, *said)
    assert found.data["plan"]["request"]["dtype"] == wanted
