"""What attacks count."""

from __future__ import annotations

import pytest

from erase_plugins.evaluation.attacks.rates import picture_passes
from erase_plugins.evaluation.run import Subject
from erase_plugins.testing.tiny import tiny_flux, tiny_sd1
from erase_plugins.workflow.models import target_of
from tests.evaluation.attacks.stub import StubJudge


@pytest.mark.parametrize("make", [tiny_sd1, tiny_flux, lambda: tiny_flux(distilled=False)])
@pytest.mark.parametrize("guidance", [1.0, 4.0])
def test_passes_are_those_that_are_made(make, guidance):
    pipe = make()
    target = target_of(pipe, "tiny")
    subject = Subject(pipe, target, "tiny", [], StubJudge(), ["owl"], steps=2, guidance=guidance)
    rows = []
    target.network("denoiser").register_forward_pre_hook(
        lambda module, given, named: rows.append(len(given[0] if given else named["hidden_states"])), with_kwargs=True
    )
    subject.draw(["a cat", "a dog"], [1, 2])
    assert sum(rows) == 2 * picture_passes(subject)
