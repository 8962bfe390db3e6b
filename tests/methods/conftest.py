"""Models on which official steps are compared: at the published width of text rows, and (``--full``) at full shapes."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="module", params=["wide", pytest.param("full", marks=pytest.mark.full)])
def shaped(request):
    """A random pipeline with 768-wide text rows, or all 860 million values of SD 1.5's U-Net at 16 x 16 latents."""
    from tests.methods.wide import full_sd1, wide_sd1

    return wide_sd1() if request.param == "wide" else full_sd1()
