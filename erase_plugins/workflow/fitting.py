"""Which suites and attacks fit a model, told before anything is loaded. No torch."""

from __future__ import annotations

from typing import Any

from erase_plugins.errors import Unsupported
from erase_plugins.manager import get_manager
from erase_plugins.needs import lacks, needs_of


def suites_for(info: Any) -> list[str]:
    """Ids of the registered suites that can measure a model and ask for nothing more."""
    found = [entry.item for entry in get_manager().evaluators("suite")]
    return [item.id for item in found if needs_of(item) and not lacks(item, info)]


def check_fits(runner: Any, info: Any) -> None:
    """Refuses a suite or an attack on a model that it is not made for.

    Raises:
        Unsupported: says which suites fit.
    """
    if lacks(runner, info):
        raise Unsupported(
            f"{runner.id} needs {', '.join(sorted(needs_of(runner)))}; {info.model} (family {info.family.id}) offers "
            f"{', '.join(sorted(info.offers))}; suites that fit: {', '.join(suites_for(info)) or 'none'}"
        )
