"""The contract that erase-plugins asks of every method, and one test of what this one promises."""

from erase_plugins.testing.contract import MethodContract

pytest_plugins = ["erase_plugins.testing.fixtures"]


class TestNullValue(MethodContract):
    methods = ("null-value",)


def test_concept_rows_get_the_values_of_the_empty_prompt(erase_tiny_sd1):
    import erase_plugins
    from erase_plugins.workflow.models import target_of

    artifact = erase_plugins.erase(erase_tiny_sd1, "pizza", "null-value", options={"rank": 64, "words": 10})
    target = target_of(erase_tiny_sd1)
    empty, pizza = target.encode(["", "pizza"]).embeds
    difference = (pizza - empty).T
    for ref in target.modules("cross_v"):
        before = target.weight(ref) @ difference
        after = before + artifact.edit.deltas[ref.component][ref.weight].dense() @ difference
        assert after.norm() <= 1e-4 * before.norm()
