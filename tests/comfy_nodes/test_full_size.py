"""The closed-form node on Stable Diffusion 1.5's shapes: one small system of equations, whatever the model's size."""

from __future__ import annotations

import psutil
import pytest

pytestmark = [pytest.mark.comfy, pytest.mark.slow]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Where sessions keep what they computed of the common words."""
    if psutil.virtual_memory().available < 5 * 2**30:
        pytest.skip("needs 5 GB of free memory for a model of this size")
    return {"ERASE_PLUGINS_CACHE": str(tmp_path_factory.mktemp("cache"))}


@pytest.fixture(scope="module")
def numbers(in_comfy, place):
    """What full_size.py measured; processor time, so that a busy machine does not decide."""
    return in_comfy("full_size.py", env=place)


@pytest.fixture(scope="module")
def later(in_comfy, place, numbers):
    """The same in another process, with what the first one kept."""
    return in_comfy("full_size.py", env=place)


def quickest(measure, first, limit):
    """Least processor time of up to three measurements: neighbours on the machine slow the processor too."""
    times = [first["solve_seconds"]]
    while min(times) >= limit and len(times) < 3:
        times.append(measure()["solve_seconds"])
    return min(times)


def test_every_projection_is_reached(numbers):
    assert "patched 32 of 32 modules" in numbers["report"]
    assert 0 < numbers["rank"] <= 2 * 77


def test_the_node_takes_less_than_three_and_a_half_seconds_and_200_mb(in_comfy, tmp_path, numbers):
    """On a machine that never saw this text encoder: the common words are encoded as well."""
    fresh = (str(tmp_path / str(number)) for number in range(3))
    assert quickest(lambda: in_comfy("full_size.py", env={"ERASE_PLUGINS_CACHE": next(fresh)}), numbers, 3) < 3.5
    assert numbers["solve_mb"] < 200


def test_the_first_rows_of_a_prompt_are_those_of_the_whole_prompt(numbers):
    assert numbers["start_shape"] == [5, 5, 768]
    assert numbers["start_difference"] < 1e-5


def test_another_strength_costs_nothing(numbers):
    assert numbers["strength_seconds"] < 0.3


def test_a_later_session_need_not_encode_the_common_words(in_comfy, place, numbers, later):
    assert later["encoded_rows"] == numbers["encoded_rows"] - 100 * 5
    assert quickest(lambda: in_comfy("full_size.py", env=place), later, 3) < 3
    assert later["solve_mb"] < 200
    assert later["rank"] == numbers["rank"]
    assert later["map"] == numbers["map"]
