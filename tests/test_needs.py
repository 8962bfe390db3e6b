"""What is needed of a model and what must be installed, for measurements of every age."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from erase_plugins.families import capabilities, model
from erase_plugins.needs import needs_of, packages_of


@pytest.mark.parametrize(
    ("said", "model", "installed"),
    [
        ({"needs": {"denoiser", "text"}}, {"denoiser", "text"}, set()),
        ({"needs": {"prompts", "embedding_map"}}, {"prompts", "embedding_map"}, set()),
        ({"needs": {"ray"}}, set(), {"ray"}),  # as version 0.1 said it
        ({"needs": {"language", "ray"}}, {"language"}, {"ray"}),
        ({"needs": {"records"}, "packages": {"ray"}}, {"records"}, {"ray"}),
    ],
)
def test_a_measurement_without_packages_may_name_capabilities(said, model, installed):
    item = SimpleNamespace(id="mine", **said)
    assert (needs_of(item), packages_of(item)) == (model, installed)


def test_words_of_a_method_of_before_are_packages():
    old = SimpleNamespace(id="old", families={"sd1"}, needs={"ray"}, produces={"lowrank"})
    assert (needs_of(old), packages_of(old)) == (frozenset(), {"ray"})


def test_words_that_are_no_packages_are_those_of_the_families():
    names = [getattr(capabilities, name) for name in ("TEXT", "DENOISER", "CODEC", "CLASSIFIER", "LANGUAGE")]
    item = SimpleNamespace(needs={*names, model.EMBEDDING_MAP, model.CROSS_ATTENTION})
    assert packages_of(item) == frozenset()
