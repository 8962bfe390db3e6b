"""A filter of finished pictures with a stand-in classifier: hits are black, the rest is untouched, nothing stays."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from erase_plugins.errors import RequestError, Unsupported
from tests.outside.erase_image_filter import ImageFilter, filtered

ASKED = {"num_inference_steps": 1, "output_type": "pil"}


def drawn(pipe, **more):
    draw = [torch.Generator().manual_seed(seed) for seed in (0, 1)]
    return [np.asarray(item) for item in pipe(["a dog", "a cat"], generator=draw, **{**ASKED, **more}).images]


def second(pictures):
    """A stand-in: is sure of every second picture."""
    return [float(place % 2) for place in range(len(pictures))]


def test_a_hit_is_black_and_the_others_are_untouched(tiny_sd1):
    pipe = tiny_sd1()
    plain = drawn(pipe)
    with filtered(pipe, ImageFilter(second)) as looks:
        found = drawn(pipe)
    assert np.array_equal(found[0], plain[0])
    assert plain[1].any()
    assert not found[1].any()
    assert found[1].shape == plain[1].shape
    assert looks.seen == [0.0, 1.0]
    assert all(np.array_equal(one, other) for one, other in zip(drawn(pipe), plain, strict=True))


def test_two_filters_stand_together_and_go_one_by_one(tiny_sd1):
    pipe = tiny_sd1()
    plain = drawn(pipe)
    with filtered(pipe, ImageFilter(second)):
        with filtered(pipe, ImageFilter(lambda pictures: [0.9 for _ in pictures])):
            assert not any(item.any() for item in drawn(pipe))
        assert [bool(item.any()) for item in drawn(pipe)] == [True, False]
    assert "postprocess" not in vars(pipe.image_processor)
    assert all(np.array_equal(one, other) for one, other in zip(drawn(pipe), plain, strict=True))


@pytest.mark.parametrize("form", ["latent", "np", "pt"])
def test_what_cannot_be_looked_at_is_refused(tiny_sd1, form):
    pipe = tiny_sd1()
    with filtered(pipe, ImageFilter(second)), pytest.raises(Unsupported, match="ask for 'pil'"):
        pipe("a dog", num_inference_steps=1, output_type=form)
    assert "postprocess" not in vars(pipe.image_processor)


def test_a_strange_classifier_or_threshold_is_one_line(tiny_sd1):
    with filtered(pipe := tiny_sd1(), ImageFilter(lambda _: [])), pytest.raises(RequestError, match="0 scores for 2"):
        drawn(pipe)
    with pytest.raises(RequestError, match="threshold"):
        ImageFilter(second, 0.0)
