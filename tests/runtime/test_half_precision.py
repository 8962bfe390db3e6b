"""Half-precision models: sums of changes and mapped rows are those of float32, rounded once."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from erase_plugins.artifacts.edit import ContextMap, Dense, LowRank
from erase_plugins.runtime.context import ActiveMap, ContextHook
from erase_plugins.runtime.patcher import Patch, Record
from erase_plugins.training.embedding_map import map_rows

#: type -> distance of 1 to the next larger number
STEP = {torch.float16: 2.0**-10, torch.bfloat16: 2.0**-7}


@pytest.mark.parametrize("dtype", STEP)
def test_changes_too_small_for_the_type_count_together(dtype) -> None:
    """Three changes of 0.3 steps each: 1 + 0.9 steps rounds to the next number, one alone rounds to nothing."""
    step = STEP[dtype]
    parameter = nn.Parameter(torch.ones((2, 2), dtype=dtype))
    record = Record("unet", "layer.weight", parameter)
    patches = [Patch(Dense(torch.full((2, 2), 0.3 * step / strength)), strength) for strength in (1.0, 0.5, 2.0)]
    for patch in patches:
        record.patches = [patch]
        record.refresh()
        assert torch.equal(parameter.data, torch.ones((2, 2), dtype=dtype))
    record.patches = patches
    record.refresh()
    assert parameter.dtype == dtype
    assert torch.equal(parameter.data.double(), torch.full((2, 2), 1 + step, dtype=torch.float64))
    record.patches = []
    record.refresh()
    assert torch.equal(parameter.data, torch.ones((2, 2), dtype=dtype))


@pytest.mark.parametrize("dtype", STEP)
def test_factors_in_half_precision_are_multiplied_in_float32(dtype) -> None:
    """A = (1, s), B = (1, s) with s one step: (1 + s) + s^2 needs more digits than the type has."""
    step = STEP[dtype]
    delta = LowRank(torch.tensor([[1.0 + step]], dtype=dtype), torch.tensor([[1.0 + step]], dtype=dtype))
    found = delta.dense()
    assert found.dtype == torch.float32
    assert float(found) == 1 + 2 * step + step**2  # exact in float32


def far(found: torch.Tensor, exact: torch.Tensor, dtype: torch.dtype) -> float:
    """Largest error in units of what one rounding, and sums in float32, may cost."""
    return float(((found.double() - exact).abs() / (0.5 * STEP[dtype] * exact.abs() + 3e-6)).max())


@pytest.mark.parametrize("dtype", STEP)
def test_mapped_rows_are_rounded_once(dtype) -> None:
    draw = torch.Generator().manual_seed(0)
    rows = torch.randn((40, 24), generator=draw).to(dtype)
    A, B = (0.5 * torch.randn(shape, generator=draw) for shape in ((6, 24), (24, 6)))
    K = B.double() @ A.double()
    exact = rows.double() + 0.75 * rows.double() @ K.T
    found = ContextHook.apply(rows, [ActiveMap(ContextMap(A, B), 0.25), ActiveMap(ContextMap(A, B), 0.5)])
    assert found.dtype == dtype
    assert far(found, exact, dtype) <= 1.0
    with torch.autocast("cpu", torch.bfloat16):
        inside = ContextHook.apply(rows, [ActiveMap(ContextMap(A, B), 0.75)])
    assert far(inside, exact, dtype) <= 1.0
    whole = map_rows(rows, ContextMap(A, B))
    assert whole.dtype == dtype
    assert far(whole, rows.double() + rows.double() @ K.T, dtype) <= 1.0
