"""Tools for plugin authors, loaded on first use.

`contract` holds the suite that every method passes, `measuring` that of suites and attacks, `judges`, `layouts` and
`families` those of what they are called after, `fixtures` pytest fixtures, `hub_server` a Hub on this machine, `tiny`
random models of every built-in family, `template` the skeleton of a new plugin package. Nothing here needs a network.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

_PUBLIC = {
    "AttackContract": "erase_plugins.testing.measuring",
    "FamilyContract": "erase_plugins.testing.families",
    "HubServer": "erase_plugins.testing.hub_server",
    "JudgeContract": "erase_plugins.testing.judges",
    "LayoutContract": "erase_plugins.testing.layouts",
    "MethodContract": "erase_plugins.testing.contract",
    "SuiteContract": "erase_plugins.testing.measuring",
    "contract_report": "erase_plugins.testing.contract",
    "measuring_report": "erase_plugins.testing.measuring",
    "tiny_sd1": "erase_plugins.testing.tiny",
    "tiny_sdxl": "erase_plugins.testing.tiny",
    "write_plugin_template": "erase_plugins.testing.template",
}

__all__ = [
    "AttackContract", "FamilyContract", "HubServer", "JudgeContract", "LayoutContract", "MethodContract",
    "SuiteContract", "contract_report", "measuring_report", "tiny_sd1", "tiny_sdxl", "write_plugin_template",
]  # fmt: skip

if TYPE_CHECKING:
    from erase_plugins.testing.contract import MethodContract, contract_report
    from erase_plugins.testing.families import FamilyContract
    from erase_plugins.testing.hub_server import HubServer
    from erase_plugins.testing.judges import JudgeContract
    from erase_plugins.testing.layouts import LayoutContract
    from erase_plugins.testing.measuring import AttackContract, SuiteContract, measuring_report
    from erase_plugins.testing.template import write_plugin_template
    from erase_plugins.testing.tiny import tiny_sd1, tiny_sdxl


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'erase_plugins.testing' has no attribute '{name}'")
    return getattr(importlib.import_module(_PUBLIC[name]), name)
