"""The contract, over every method that is registered: method x model x layout."""

from __future__ import annotations

import pytest

from erase_plugins.manager import get_manager
from erase_plugins.needs import changes_weights
from erase_plugins.testing.contract import MethodContract

EVERY = tuple(entry.item for entry in get_manager().methods())
METHODS = tuple(item.id for item in EVERY if changes_weights(item))
GUARDS = tuple(item.id for item in EVERY if not changes_weights(item))
#: on the trained pipeline too: a closed form, a trained one, one with both, and one of added modules
POCKET = ("uce", "esd", "mace", "receler")

#: on flow transformers too
FLOW = ("uce", "esd")


class TestRegisteredMethods(MethodContract):
    methods = METHODS
    models = ("tiny_sd1", "tiny_sdxl")


class TestOnFlowTransformers(MethodContract):
    methods = FLOW
    models = ("tiny_sd3", "tiny_flux")


@pytest.mark.full
class TestTheOthersOnFlowTransformers(MethodContract):
    methods = ("leco", "concept-ablation", "spm", "gem", "null-space")
    models = ("tiny_sd3", "tiny_flux")


class TestOnPocket(MethodContract):
    methods = POCKET
    models = ("pocket",)


@pytest.mark.full
class TestTheOthersOnPocket(MethodContract):
    methods = tuple(name for name in METHODS if name not in POCKET)
    models = ("pocket",)


class TestGuards(MethodContract):
    methods = ("keyword-guard", "negative-prompt")
    models = ("tiny_sd1",)


@pytest.mark.full
class TestTheOtherGuards(MethodContract):
    methods = tuple(name for name in GUARDS if name not in TestGuards.methods)
    models = ("tiny_sd1", "tiny_lm")


class TestOnALanguageModel(MethodContract):
    methods = ("npo",)
    models = ("tiny_lm",)
