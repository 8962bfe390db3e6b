"""Gradients against the slopes that small steps measure: by hand, and on a model whose edit hides its gradient."""

from __future__ import annotations

import pytest
import torch

from erase_plugins.engine.slopes import PLACES, TokenPath, hidden_share, hidden_warning
from erase_plugins.testing.models import shared_pipeline
from erase_plugins.workflow.models import target_of


@pytest.fixture
def target():
    return target_of(shared_pipeline("tiny_sd1"), "tiny")


@pytest.fixture
def hidden(target):
    """What attention reads of the text reaches the prediction, but its gradient does not."""
    hooks = [
        module.register_forward_hook(lambda _m, _i, out: out.detach())
        for name, module in target.pipe.unet.named_modules() if name.endswith("attn2.to_v")
    ]  # fmt: skip
    yield target
    for hook in hooks:
        hook.remove()


def test_a_gradient_that_is_right_and_one_that_lacks_a_part():
    def parabola(where):
        return (where.double() ** 2).float() * 100

    places = (torch.arange(PLACES) + 0.5) / PLACES
    steepest = float((2 * places).quantile(0.9))
    assert hidden_share(parabola) == pytest.approx(0, abs=1e-3)
    lacking = hidden_share(lambda where: parabola(where) + (300 * where).detach())
    assert lacking == pytest.approx(3 / (steepest + 3), rel=0.01)
    assert hidden_share(lambda where: (3 * where).detach()) == pytest.approx(1, rel=1e-3)
    weight = torch.ones(1, requires_grad=True)
    assert hidden_share(lambda where: weight * (3 * where).detach()) == pytest.approx(1, rel=1e-3)


def test_where_it_jumps_everywhere_nothing_is_said():
    told = iter([0.0, 0.0, 1.0, 0.0])
    assert hidden_share(lambda where: where * 0 + next(told)) is None


def test_the_path_ends_at_the_concepts_own_name(target):
    path = TokenPath(target, "owl")
    ended = path.rows.encode(path.where, [0], path.named[None])
    assert torch.allclose(ended.embeds, target.encode(["a picture of owl"]).embeds, atol=1e-6)
    begun = path.rows.encode(path.where, [0], path.neutral[None])  # no other neutral word is one token here
    assert torch.allclose(begun.embeds, target.encode(["a picture of picture"]).embeds, atol=1e-6)


def test_a_name_of_several_tokens_has_a_row_for_each(target):
    path = TokenPath(target, "van gogh")
    assert path.named.shape == path.neutral.shape == (target.tokens(["van gogh"]).last[0], 32)


def test_a_model_that_shows_its_gradient_is_not_spoken_of(target):
    assert hidden_warning(target, "owl") == []


def test_a_model_that_hides_its_gradient_is(hidden):
    (told,) = hidden_warning(hidden, "owl")
    assert told.startswith("the gradient of the edited model is off by ") and "says little" in told


def test_a_name_that_fills_a_prompt_is_not_asked(hidden):
    assert hidden_warning(hidden, "owl " * 100) == []


def test_coarse_numbers_are_not_asked(hidden, monkeypatch):
    monkeypatch.setattr(type(hidden), "dtype", torch.float16)
    assert hidden_warning(hidden, "owl") == []
