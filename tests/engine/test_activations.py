"""What a pass keeps is counted once for a model; whether the counts are right: `benchmarks.memory`, tests/training/test_plan.py."""

from __future__ import annotations

from dataclasses import replace

from erase_plugins.engine import activations
from erase_plugins.workflow.models import find_model


def test_every_step_of_a_training_asks_and_it_is_counted_once(monkeypatch):
    info, counted, real = replace(find_model("pocket").info), [], activations._tokens
    monkeypatch.setattr(activations, "_tokens", lambda info: counted.append(1) or real(info))
    first = [activations.per_sample(info, again, size) for again in (False, True) for size in (2, 4)]
    assert len(set(first)) == len(counted) == 4
    assert first == [activations.per_sample(info, again, size) for again in (False, True) for size in (2, 4)]
    assert len(counted) == 4
    assert activations.per_sample(replace(info, family=info.family), False, 2) == first[0]
    assert len(counted) == 5, "another description of a model is counted anew"
