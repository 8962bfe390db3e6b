"""The methods of other packages keep the contract of methods, on models that are no pipelines."""

from __future__ import annotations

from contextlib import ExitStack

import pytest

from erase_plugins.manager import get_manager
from erase_plugins.testing.contract import contract_report
from erase_plugins.testing.models import MODELS
from erase_plugins.types import Concept
from tests.outside import erase_llama, erase_vit

CASES = {"unlabel": ("tiny-vit", Concept("owl", "class")), "ascent": ("tiny-llama", Concept("the key is 7413", "fact"))}


@pytest.fixture(autouse=True)
def packages(monkeypatch):
    monkeypatch.setitem(MODELS, "tiny-vit", erase_vit.build)
    monkeypatch.setitem(MODELS, "tiny-llama", erase_llama.build)
    with ExitStack() as stack:
        for package in (erase_vit, erase_llama):
            stack.enter_context(get_manager().temporary(package, package.__name__))
        yield


@pytest.mark.parametrize(("method", "model", "concept"), [(name, *case) for name, case in CASES.items()], ids=CASES)
def test_the_contract_of_methods(method, model, concept):
    assert contract_report(method, model, concept=concept) == {}


def test_a_method_without_effect_breaks_it(monkeypatch):
    """The same suite, and a method whose edit changes nothing that the model shows."""
    from erase_plugins.artifacts.edit import LowRank

    honest = erase_vit.Unlabel.run
    weak = lambda self, plan, target, ctx: honest(self, plan, target, ctx).map(  # noqa: E731
        lambda _component, _key, delta: LowRank(delta.A, delta.B * 1e-30)
    )
    monkeypatch.setattr(erase_vit.Unlabel, "run", weak)
    model, concept = CASES["unlabel"]
    found = contract_report("unlabel", model, concept=concept, only=("edit_has_an_effect", "edit_is_valid"))
    assert list(found) == ["edit_has_an_effect"]
