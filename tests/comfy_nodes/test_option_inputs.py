"""Options become widgets and back; what depends on the model stays open until somebody writes it."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from comfy_nodes.option_inputs import AUTO, given_options, option_inputs
from erase_plugins.options import option, resolve


@dataclass(frozen=True)
class Options:
    rank: int = option(8, "rank of the change", low=1, high=64)
    steps: int = option(1000, "training steps", low=1, per={"pocket": 120})
    rate: float = option(1e-4, "learning rate", low=0.0, high=1.0)
    ratio: float | None = option(None, "closeness, or none", low=0.0)
    way: str = option("a", "which way", choices=("a", "b"))
    where: str = option("a", "which place", choices=("a", "b"), per={"sdxl": "b"})
    strict: bool = option(False, "refuse more")
    soft: bool = option(True, "soft or hard", per={"sdxl": False})
    words: tuple[str, ...] = option(("x", "y"), "words to use")
    name: str = option("", "any text")
    seed: int = option(5, "a clash with the node's own")


WIDGETS = {item.name: item for item in option_inputs(Options, {"seed"})}


def test_every_option_has_a_widget_in_its_order():
    names = ["rank", "steps", "rate", "ratio", "way", "where", "strict", "soft", "words", "name", "option_seed"]
    assert list(WIDGETS) == names
    assert not any(item.required for item in WIDGETS.values())


@pytest.mark.parametrize(
    ("name", "kind", "options"),
    [
        ("rank", "INT", {"default": 8, "min": 1, "max": 64}),
        ("steps", "STRING", {"default": AUTO}),
        ("ratio", "STRING", {"default": AUTO}),
        ("strict", "BOOLEAN", {"default": False}),
        ("words", "STRING", {"default": "x, y"}),
        ("name", "STRING", {"default": ""}),
    ],
)
def test_types_and_bounds(name, kind, options):
    assert (WIDGETS[name].type, WIDGETS[name].options) == (kind, options)


def test_small_rates_can_be_set():
    assert WIDGETS["rate"].options["step"] == pytest.approx(1e-5)
    assert WIDGETS["rate"].options["round"] is False


def test_choices_are_lists_with_auto_where_they_depend_on_the_model():
    assert WIDGETS["way"].entries() == ["a", "b"]
    assert WIDGETS["where"].entries() == [AUTO, "a", "b"]
    assert WIDGETS["soft"].entries() == [AUTO, "true", "false"]


def test_tooltips_name_the_defaults():
    assert WIDGETS["steps"].tooltip == "Training steps. Auto: 1000, 120 (pocket)."
    assert WIDGETS["ratio"].tooltip == "Closeness, or none. Auto: chosen by the method."
    assert WIDGETS["name"].tooltip == "Any text. Default: empty."


def test_untouched_widgets_leave_the_defaults_of_the_model():
    values = {name: item.options["default"] for name, item in WIDGETS.items()}
    given = given_options(Options, {"seed"}, values)
    assert "steps" not in given
    assert resolve(Options, given, ("pocket",)) == resolve(Options, {}, ("pocket",))
    assert given_options(Options, {"seed"}, {}) == {}


def test_written_values_arrive():
    given = given_options(Options, {"seed"}, {"steps": "30", "soft": "false", "words": "p,q", "option_seed": 9})
    found = resolve(Options, given, ("pocket",))
    assert (found.steps, found.soft, found.words, found.seed) == (30, False, ("p", "q"), 9)


def test_a_type_without_a_widget_is_an_error():
    @dataclass(frozen=True)
    class Strange:
        data: bytes = option(b"", "raw bytes")

    with pytest.raises(TypeError, match="option data is of type bytes"):
        option_inputs(Strange, ())
