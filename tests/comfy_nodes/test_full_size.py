"""The closed-form node on Stable Diffusion 1.5's shapes: one small system of equations, whatever the model's size."""

from __future__ import annotations

import psutil
import pytest

pytestmark = [pytest.mark.comfy, pytest.mark.slow]


@pytest.fixture(scope="module")
def sessions(in_comfy, tmp_path_factory):
    """What full_size.py measured; no library is imported before the node asks for it, since its seconds count."""
    if psutil.virtual_memory().available < 5 * 2**30:
        pytest.skip("needs 5 GB of free memory for a model of this size")
    return in_comfy("full_size.py", fresh=True, env={"ERASE_PLUGINS_CACHE": str(tmp_path_factory.mktemp("cache"))})


@pytest.fixture(scope="module")
def numbers(sessions):
    """Of a session that starts with nothing on disk."""
    return sessions["first"]


@pytest.fixture(scope="module")
def later(sessions):
    """The same in another process, with what the first one kept."""
    return sessions["later"]


def test_every_projection_is_reached(numbers):
    assert "patched 32 of 32 modules" in numbers["report"]
    assert 0 < numbers["rank"] <= 2 * 77


def test_the_node_takes_seconds_and_200_mb(numbers):
    """Processor time where this text encoder was never seen, about three seconds: the common words are encoded as well."""
    assert numbers["encoded_rows"] < 900
    assert numbers["solve_seconds"] < 10
    assert numbers["solve_mb"] < 200


def test_the_first_rows_of_a_prompt_are_those_of_the_whole_prompt(numbers):
    assert numbers["start_shape"] == [5, 5, 768]
    assert numbers["start_difference"] < 1e-5


def test_another_strength_costs_nothing(numbers):
    assert numbers["strength_seconds"] < min(1, numbers["solve_seconds"] / 2)


def test_a_later_session_need_not_encode_the_common_words(numbers, later):
    assert later["encoded_rows"] == numbers["encoded_rows"] - 100 * 5
    assert later["solve_mb"] < 200
    assert later["rank"] == numbers["rank"]
    assert later["map"] == numbers["map"]
