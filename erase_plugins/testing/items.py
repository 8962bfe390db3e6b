"""What the contracts of registered objects share: named checks, one pytest test for each, or a plain report."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from erase_plugins.errors import RequestError

#: takes the object under test with what the checks share, and raises `AssertionError` with what to change
Check = Callable[[Any], None]
_SHARED: dict[tuple[type, str], Any] = {}


class ItemContract:
    """Base of the contracts; one test per name and check.

    Attributes:
        names: registered ids.
        checks: what is looked at.
    """

    names: tuple[str, ...] = ()
    checks: tuple[Check, ...] = ()

    def case(self, name: str) -> Any:
        """What the checks are given for an id; made once, so that a run or a file serves them all."""
        raise NotImplementedError

    def report(self, name: str) -> dict[str, str]:
        """The contract without pytest: failed checks with the reason, empty if it is kept."""
        return failures(self.case(name), self.checks)

    def pytest_generate_tests(self, metafunc: Any) -> None:
        """Parametrises over names and checks; called by pytest."""
        if "item_check" not in metafunc.fixturenames:
            return
        if not self.names:
            raise RequestError(f"no test: give {type(self).__name__} the registered ids in 'names'")
        rows = [(name, check.__name__) for name in self.names for check in self.checks]
        metafunc.parametrize(("item_name", "item_check"), rows)

    def test_contract(self, item_name: str, item_check: str) -> None:
        """One check of the contract."""
        key = (type(self), item_name)
        if key not in _SHARED:
            _SHARED[key] = self.case(item_name)
        next(check for check in self.checks if check.__name__ == item_check)(_SHARED[key])


def failures(case: Any, checks: Iterable[Check]) -> dict[str, str]:
    """Name of each failed check with the reason."""
    failed = {}
    for check in checks:
        try:
            check(case)
        except Exception as error:
            failed[check.__name__] = str(error) or type(error).__name__
    return failed


def described(hook: str, item: Any) -> None:
    """The registry accepts it, and it has a title of one line."""
    from erase_plugins.plugin_checks import check_item

    check_item(hook, item)
    assert len(item.title) > 3, "give it a title of a few words"
    assert "\n" not in item.title, "the title has more than one line; it is shown in tables"
