"""Models that paint into a picture take nine channels, and samplers draw four of them."""

from __future__ import annotations

import pytest

pytestmark = [pytest.mark.comfy, pytest.mark.slow]


def test_before_and_after_are_drawn_with_a_model_for_painting_into_a_picture(in_comfy, tmp_path):
    """With a vae connected, the run ended in an error of a convolution after the concept had been erased."""
    found = in_comfy("inpainting.py", str(tmp_path))
    assert found["shown"] == 2
    assert found["far"] < 1e-4
    assert found["change"] > 0.05
