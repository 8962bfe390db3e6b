"""The contract that erase-plugins asks of every method, and one test of what this one promises."""

import torch

from erase_plugins.testing.contract import MethodContract

pytest_plugins = ["erase_plugins.testing.fixtures"]


class TestNullValue(MethodContract):
    methods = ("null-value",)


def test_concept_rows_get_the_values_of_the_empty_prompt(erase_tiny_sd1):
    import erase_plugins
    from erase_plugins.families.diffusers_target import DiffusersTarget

    artifact = erase_plugins.erase(erase_tiny_sd1, "pizza", "null-value", options={"rank": 64, "words": 10})
    target = DiffusersTarget(erase_tiny_sd1)
    empty, pizza = target.encode(["", "pizza"]).embeds
    for ref in target.modules("cross_v"):
        change = artifact.edit.deltas[ref.component][ref.weight].dense()
        edited = target.weight(ref) + change
        wanted = edited @ empty.T
        assert torch.allclose(edited @ pizza.T, wanted, atol=1e-4 * float(wanted.abs().max()))
