"""The contract as single checks: each takes a `Case` and raises `AssertionError` with what is wrong and what to do."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

Check = Callable[..., None]
#: name -> check(case)
CHECKS: dict[str, Check] = {}
#: name -> check(case, layout id)
LAYOUT_CHECKS: dict[str, Check] = {}
#: name -> check(case) of a method that changes no weights
GUARD_CHECKS: dict[str, Check] = {}
#: general checks that such a method keeps as well
SHARED = (
    "describes_itself", "options_are_documented", "options_resolve", "plan_is_pure", "plan_survives_json",
    "bad_options_are_refused", "run_leaves_the_model_alone", "run_writes_no_files", "run_reports_progress",
    "cancel_leaves_nothing", "saved_files_are_declared", "manifest_round_trip",
)  # fmt: skip
#: name of a check -> capabilities without which a model gives it nothing to check
NEEDS: dict[str, frozenset[str]] = {}
#: name of a layout check -> the reader without which a layout gives it nothing to check
READERS: dict[str, str] = {}
#: stands for the program that users of the model under test load a file with, see `stock_reader`
STOCK_READER = "stock"
_ROOMS = ("describe", "planning", "running", "interrupting", "applying", "gradients", "files", "guards")


def check(function: Check) -> Check:
    """Adds a check that is run once per method and model."""
    CHECKS[function.__name__] = function
    return function


def check_with(*capabilities: str) -> Callable[[Check], Check]:
    """Adds a check that is run once per method and model, of models that have these capabilities."""

    def add(function: Check) -> Check:
        NEEDS[function.__name__] = frozenset(capabilities)
        return check(function)

    return add


def guard_check(function: Check) -> Check:
    """Adds a check that is run once per guard and model."""
    GUARD_CHECKS[function.__name__] = function
    return function


def layout_check(reader: str = "") -> Callable[[Check], Check]:
    """Adds a check that is run once per method, model and layout.

    Args:
        reader: the check is for layouts that this program reads (`STOCK_READER`: what users of the model load files
            with); every layout if empty.
    """

    def add(function: Check) -> Check:
        LAYOUT_CHECKS[function.__name__] = function
        if reader:
            READERS[function.__name__] = reader
        return function

    return add


def stock_reader(case: Any) -> str:
    """The program that loads files for the model of a `Case`."""
    return "diffusers" if "denoiser" in case.info.capabilities else "peft"


def load_checks() -> tuple[dict[str, Check], dict[str, Check]]:
    """All checks, general ones and those per layout."""
    for room in _ROOMS:
        importlib.import_module(f"erase_plugins.testing.checks.{room}")
    return CHECKS, LAYOUT_CHECKS


def refused(wanted: type[BaseException], call: Callable[[], Any], what: str) -> BaseException:
    """The error that ``call`` raises; fails unless it is of the wanted class."""
    try:
        call()
    except wanted as error:
        return error
    except Exception as error:
        raise AssertionError(f"{what}: expected {wanted.__name__}, got {type(error).__name__}: {error}") from error
    raise AssertionError(f"{what}: expected {wanted.__name__}, but it was accepted")
