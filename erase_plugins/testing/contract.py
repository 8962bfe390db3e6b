"""The contract that every method keeps, as a pytest class and as a plain function.

In an outside package, three lines are the whole test file:

    from erase_plugins.testing.contract import MethodContract

    class TestMyEraser(MethodContract):
        methods = ("my-eraser",)

``from erase_plugins.testing.contract import *`` does the same for every method that is not built in. A method that is
slow with its defaults offers ``contract_options = {"iterations": 3}``: what the suite passes instead.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from erase_plugins.errors import RequestError
from erase_plugins.testing.case import Case
from erase_plugins.testing.checks import (
    CHECKS,
    GUARD_CHECKS,
    LAYOUT_CHECKS,
    NEEDS,
    READERS,
    SHARED,
    STOCK_READER,
    load_checks,
    stock_reader,
)
from erase_plugins.types import Concept

__all__ = ["MethodContract", "TestOutsideMethods", "contract_report"]

ALL_MODELS = ("tiny_sd1", "tiny_sdxl", "pocket")
_CASES: dict[tuple[Any, ...], Case] = {}


def outside_methods() -> tuple[str, ...]:
    """Ids of the registered methods that do not come with this package."""
    from erase_plugins.manager import get_manager

    return tuple(entry.item.id for entry in get_manager().methods() if entry.package != "erase-plugins")


class MethodContract:
    """Subclass it under a name that starts with ``Test``; one test per method, model and check (and layout).

    Attributes:
        methods: ids to test; None takes every method of outside packages.
        models: names in `erase_plugins.testing.models.MODELS`; those of families the method lacks are left out.
        options: options by method id, in place of its ``contract_options``.
        concept: what is erased, in place of a word that suits the method's kinds.
    """

    methods: tuple[str, ...] | None = None
    models: tuple[str, ...] = ALL_MODELS
    options: Mapping[str, Mapping[str, Any]] = {}
    concept: Concept | None = None

    def pytest_generate_tests(self, metafunc: Any) -> None:
        """Parametrises over the registry; called by pytest."""
        import pytest

        if "contract_check" not in metafunc.fixturenames:
            return
        names = outside_methods() if self.methods is None else self.methods
        rows = list(contract_rows(names, self.models))
        if not rows:
            raise RequestError(
                f"no test: methods {', '.join(names) or 'none registered outside'} on models {', '.join(self.models)}; "
                "install the package with its entry point, or add a model of its family to testing.models.MODELS"
            )
        ids = ["-".join(part for part in row if part) for row in rows]
        params = [pytest.param(*row, id=label) for row, label in zip(rows, ids, strict=True)]
        metafunc.parametrize(("contract_method", "contract_model", "contract_check", "contract_layout"), params)

    def test_contract(
        self, contract_method: str, contract_model: str, contract_check: str, contract_layout: str
    ) -> None:
        """One check of the contract."""
        key = (type(self), contract_method, contract_model)
        if key not in _CASES:
            _CASES[key] = Case(contract_method, contract_model, self.options.get(contract_method), self.concept)
        run_check(_CASES[key], contract_check, contract_layout)


class TestOutsideMethods(MethodContract):
    """The contract for every method of an outside package."""


def contract_rows(methods: Iterable[str], models: Iterable[str]) -> Iterable[tuple[str, str, str, str]]:
    """(method, model, check, layout or "") for all combinations that have something to check.

    Raises:
        UnknownName: a method that is not registered.
    """
    from erase_plugins.manager import get_manager

    general, per_layout = load_checks()
    layouts = [entry.item for entry in get_manager().layouts()]
    models = tuple(models)
    for method in methods:
        get_manager().method(method)
        for model in models:
            case = Case(method, model)
            if not case.supported:
                continue
            if case.guard:
                yield from ((method, model, name, "") for name in (*SHARED, *GUARD_CHECKS))
                continue
            for name in general:
                if case.info.capabilities >= NEEDS.get(name, frozenset()):
                    yield method, model, name, ""
            for name in per_layout:
                reader = READERS.get(name, "")
                wanted = stock_reader(case) if reader == STOCK_READER else reader
                for layout in layouts:
                    if wanted in ("", *layout.readers):
                        yield method, model, name, layout.id


def run_check(case: Case, name: str, layout: str = "") -> None:
    """Runs one check by name."""
    load_checks()
    if layout:
        LAYOUT_CHECKS[name](case, layout)
    else:
        {**CHECKS, **GUARD_CHECKS}[name](case)


def contract_report(
    method: str,
    model: str = "tiny_sd1",
    options: Mapping[str, Any] | None = None,
    concept: Concept | None = None,
    only: Iterable[str] = (),
) -> dict[str, str]:
    """Runs the contract without pytest.

    Args:
        method: registered id.
        model: name in `erase_plugins.testing.models.MODELS`.
        options: in place of the method's ``contract_options``.
        concept: what is erased.
        only: names of checks; all if empty.

    Returns:
        Failed checks ("check" or "check/layout") with the reason; empty if the method keeps the contract.
    """
    case, chosen, failed = Case(method, model, options, concept), frozenset(only), {}
    for _, _, name, layout in contract_rows((method,), (model,)):
        if chosen and name not in chosen:
            continue
        try:
            run_check(case, name, layout)
        except Exception as error:
            failed[f"{name}/{layout}" if layout else name] = f"{type(error).__name__}: {error}"
    return failed
