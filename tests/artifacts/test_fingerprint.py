"""What counts as another weight: more than 1 % of the stored value, and a millionth for values near zero."""

from __future__ import annotations

import pytest
import torch

from erase_plugins.artifacts.fingerprint import fingerprint


def verdict(mine: float, theirs: float) -> tuple[str, int, int]:
    """Verdict, changed and counted values for one differing weight beside an equal one."""
    one, two = (fingerprint({"a": torch.tensor([0.5]), "b": torch.tensor([value])}) for value in (mine, theirs))
    found = one.compare(two)
    return found.verdict, found.changed, found.total


@pytest.mark.parametrize(
    ("mine", "theirs"), [(1.0, 1.00995), (1.0, 0.99005), (-2.0, -1.9802), (-2.0, -2.0198), (300.0, 302.99), (0.0, 9e-7)]
)
def test_up_to_one_percent_is_the_same_weight(mine, theirs) -> None:
    assert verdict(mine, theirs) == ("same", 0, 2)


@pytest.mark.parametrize(
    ("mine", "theirs"),
    [(1.0, 1.01005), (1.0, 0.98995), (-2.0, -1.9798), (-2.0, -2.0202), (300.0, 303.01), (0.0, 1.1e-6), (1.0, -1.0)],
)  # fmt: skip
def test_beyond_one_percent_is_another_weight(mine, theirs) -> None:
    assert verdict(mine, theirs) == ("weights", 1, 2)


def test_packed_weights_have_the_shape_that_they_stand_for() -> None:
    """GGUF keeps blocks of bytes; by those a model would be one of another architecture."""
    plain, packed = torch.zeros(8, 64), torch.zeros(8, 34, dtype=torch.uint8)
    packed.quant_shape = torch.Size((8, 64))
    one, two = fingerprint({"a": plain}), fingerprint({"a": packed})
    assert one.structure == two.structure
    assert (one.compare(two).verdict, one.compare(two).unread) == ("same", 1)
