"""Options: description, conversion of what users type, bounds, choices, defaults per profile."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from erase_plugins.errors import RequestError, UnknownName
from erase_plugins.options import as_dict, describe, option, resolve


@dataclass(frozen=True)
class Options:
    steps: int = option(100, "gradient steps", low=1, high=1000, per={"pocket": 10, "sdxl": 50})
    lr: float = option(1e-4, "learning rate", low=0.0)
    rank: int | None = option(None, "cap on the rank", low=1)
    train: str = option("x", "what is trained", choices=("x", "u"))
    lora: bool = option(True, "train adapters")
    words: tuple[str, ...] = option((), "extra words")
    sizes: tuple[int, ...] = option((1,), "sizes")


def value(name, given, profiles=()):
    return getattr(resolve(Options, {name: given}, profiles), name)


def test_description_in_declared_order():
    found = describe(Options)
    assert [item.name for item in found] == ["steps", "lr", "rank", "train", "lora", "words", "sizes"]
    steps, _, rank, train = found[:4]
    assert (steps.type, steps.default, steps.help, steps.low, steps.high) == ("int", 100, "gradient steps", 1, 1000)
    assert dict(steps.per) == {"pocket": 10, "sdxl": 50}
    assert (rank.type, rank.default) == ("int or none", None)
    assert train.choices == ("x", "u")


def test_a_plain_field_has_no_help():
    @dataclass(frozen=True)
    class Bare:
        size: int = field(default=1)

    assert describe(Bare)[0].help == ""


@pytest.mark.parametrize(
    ("name", "given", "expected"),
    [
        ("steps", "7", 7), ("steps", 7.0, 7), ("lr", "1e-3", 1e-3), ("lr", 1, 1.0), ("rank", "none", None), ("rank", None, None),
        ("rank", "4", 4), ("lora", "no", False), ("lora", "On", True), ("lora", "0", False), ("lora", True, True),
        ("words", "red, blue", ("red", "blue")), ("words", ["a"], ("a",)), ("words", "", ()), ("sizes", "1,2", (1, 2)),
        ("train", "u", "u"),
    ],
)  # fmt: skip
def test_what_users_type_is_converted(name, given, expected):
    found = value(name, given)
    assert found == expected
    assert type(found) is type(expected)


@pytest.mark.parametrize(
    ("name", "given", "words"),
    [
        ("steps", "many", "steps='many' is not of type int"), ("steps", 1.5, "not of type int"),
        ("steps", True, "not of type int"), ("steps", 0, "below its minimum 1"), ("steps", 1001, "above its maximum 1000"),
        ("lr", "nan", "not of type float"), ("lr", float("inf"), "not of type float"), ("lr", -1e-9, "below its minimum"),
        ("lora", "maybe", "not of type bool; write true or false"), ("steps", None, "needs a value of type int"), ("rank", 0, "below its minimum 1"),
        ("sizes", "1,x", "not of type"), ("lr", [1], "not of type float"),
    ],
)  # fmt: skip
def test_bad_values_are_refused_with_the_reason(name, given, words):
    with pytest.raises(RequestError, match=words):
        value(name, given)


def test_unknown_option_and_choice_suggest_the_nearest():
    with pytest.raises(UnknownName, match="no option named 'step'; did you mean 'steps'"):
        resolve(Options, {"step": 1})
    with pytest.raises(UnknownName, match=r"value for option train named 'y'.*u, x"):
        resolve(Options, {"train": "y"})


@pytest.mark.parametrize(
    ("profiles", "expected"),
    [
        ((), 100),
        (("pocket",), 10),
        (("pocket", "sdxl"), 10),
        (("sdxl", "pocket"), 50),
        (("other", "sdxl"), 50),
        (("other",), 100),
    ],
)
def test_the_first_matching_profile_gives_the_default(profiles, expected):
    assert resolve(Options, {}, profiles).steps == expected


def test_what_the_user_says_wins_over_the_profile():
    assert value("steps", 77, ("pocket",)) == 77


def test_round_trip_through_a_dictionary():
    options = resolve(Options, {"steps": 5, "words": ["a", "b"], "rank": 2})
    assert list(as_dict(options)) == [item.name for item in describe(Options)]
    assert resolve(Options, as_dict(options)) == options


@given(st.integers(-10_000, 10_000))
def test_bounds_are_inclusive_and_complete(number):
    if 1 <= number <= 1000:
        assert value("steps", str(number)) == number
    else:
        with pytest.raises(RequestError):
            value("steps", str(number))


@given(st.text(max_size=20))
def test_any_text_gives_a_number_or_our_error(text):
    with contextlib.suppress(RequestError):
        assert value("lr", text) >= 0.0
