"""The contract of guards: what `new-plugin` writes keeps it, and each rule of theirs is noticed when it is broken."""

from __future__ import annotations

import itertools
import sys
import types
from dataclasses import replace

import pytest

from erase_plugins import hookimpl
from erase_plugins.manager import get_manager
from erase_plugins.testing.checks import GUARD_CHECKS, SHARED
from erase_plugins.testing.contract import contract_report, contract_rows
from erase_plugins.testing.template import rendered

MODULE = types.ModuleType("my_guard_of_the_template")
sys.modules[MODULE.__name__] = MODULE  # dataclasses look there
exec(compile(rendered("my-guard", "guard"), "my_guard.py", "exec"), vars(MODULE))
Guard = MODULE.MyGuard


def planted(**changes):
    item = type("Odd", (Guard,), changes)()
    plugin = type("Planted", (), {"erase_methods": hookimpl(lambda self: [item], specname="erase_methods")})()
    return get_manager().temporary(plugin, "planted")


def changed(**fields):
    """A run whose policy has other fields."""

    def run(self, plan, target, ctx):
        found = Guard.run(self, plan, target, ctx)
        return replace(found, guards=tuple({**policy, **fields} for policy in found.guards))

    return run


NUMBERS = itertools.count()


def counted(self, plan, target, ctx):
    return changed(message=str(next(NUMBERS)))(self, plan, target, ctx)


def left(self, plan, target, ctx):
    target.pipe.unet.register_forward_hook(lambda *_: None)
    return Guard.run(self, plan, target, ctx)


def test_a_guard_is_held_to_checks_of_its_own():
    with planted():
        rows = [row[2] for row in contract_rows(("my-guard",), ("tiny_sd1", "tiny_lm"))]
        assert rows == [*SHARED, *GUARD_CHECKS], "a language model has no denoiser"
        assert contract_report("my-guard") == {}


@pytest.mark.parametrize(
    ("run", "check", "told"),
    [
        (counted, "policies_are_equal", "two runs give two policies"),
        (changed(action="block"), "policies_are_sound", "needs a message"),
        (changed(concept="secret"), "policies_are_sound", "'secret', not what it guards"),
        (changed(stages=[{"type": "unheard-of"}]), "guard_goes_on_and_off", "unheard-of"),
        (left, "run_leaves_the_model_alone", "changed the base model"),
    ],
)  # fmt: skip
def test_broken_rules_are_noticed(run, check, told):
    with planted(run=run):
        found = contract_report("my-guard", only=(check,))
    assert told in found.get(check, ""), found
