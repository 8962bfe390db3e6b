"""A library at small scale: every part of it, and what it must say."""

from __future__ import annotations

import pytest

from benchmarks.library import names, rows


def test_there_are_a_thousand_names_and_each_has_its_own_folder() -> None:
    from erase_plugins.artifacts.manifest import slug

    found = names(1000)
    assert len({slug(name) for name in found}) == len(found) == 1000


@pytest.mark.slow
def test_a_small_library_is_made_published_pulled_in_part_and_solved(tmp_path) -> None:
    found = {row["part"]: row for row in rows(tmp_path, 100, 1, 5, 10, "tiny")}
    assert found["sweep"]["concepts"] == found["collection"]["artifacts"] == 100
    assert found["pull and solve"]["of them"] == 5
    assert found["pull and solve"]["requests"] < 60  # not the two files of each of 100
    assert found["all solved together"]["concepts"] == 100
    assert found["all solved together"]["same"]
    assert found["gates by prompt"]["own gate open"] == "100.0%"
