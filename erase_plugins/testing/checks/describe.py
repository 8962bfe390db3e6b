"""A method says what it is, and documents every option."""

from __future__ import annotations

import dataclasses
import math

from erase_plugins.options import describe, resolve
from erase_plugins.testing.case import Case
from erase_plugins.testing.checks import check


@check
def describes_itself(case: Case) -> None:
    """Title, summary and source are there; the registry accepts it."""
    from erase_plugins.plugin_checks import check_item

    check_item("erase_methods", case.method)
    for name in ("title", "summary", "paper"):
        value = getattr(case.method, name)
        assert isinstance(value, str), f"{name} is {value!r}, not text"
        assert value.strip(), f"{name} is empty"
        assert "\n" not in value, f"{name} has more than one line; it is shown in tables"


@check
def options_are_documented(case: Case) -> None:
    """Every option has help, a default that is allowed, and numbers have at least one bound."""
    options = case.method.Options
    assert options.__dataclass_params__.frozen, "Options must be a frozen dataclass: @dataclass(frozen=True)"
    for item in describe(options):
        where = f"option {item.name}"
        assert len(item.help.strip()) >= 8, f"{where} has no help text; use option(default, 'what it does')"
        assert item.default is not dataclasses.MISSING, f"{where} has no default"
        numeric = any(part in ("int", "float") for part in item.type.split(" or "))
        if numeric:
            assert item.low is not None or item.high is not None, f"{where} has neither low nor high"
        for preset, value in {"": item.default, **item.per}.items():
            told = f"{where}, default {f'for {preset} ' if preset else ''}{value!r}"
            if item.choices and value is not None:
                assert value in item.choices, f"{told} is not among its choices"
            if isinstance(value, int | float) and not isinstance(value, bool):
                assert math.isfinite(value), f"{told} is not finite"
                assert item.low is None or value >= item.low, f"{told} is below its minimum {item.low}"
                assert item.high is None or value <= item.high, f"{told} is above its maximum {item.high}"


@check
def options_resolve(case: Case) -> None:
    """Defaults and ``contract_options`` are accepted, for every preset of the model."""
    plain = resolve(case.method.Options, {}, case.info.profiles)
    assert isinstance(plain, case.method.Options)
    chosen = resolve(case.method.Options, case.options, case.info.profiles)
    for name, value in case.options.items():
        found = getattr(chosen, name)
        assert found == value or list(found) == list(value), f"contract option {name} became {found!r}"
