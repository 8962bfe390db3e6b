"""Task vectors: what was learned is turned around and made as long as ``strength`` says."""

from __future__ import annotations

import torch

import erase_plugins as ep
from erase_plugins.data import DataRef
from erase_plugins.types import ForgetItem
from tests import language


def test_the_learned_change_is_turned_around_and_lengthened(tmp_path):
    folder = language.trained(tmp_path / "model", steps=10)
    forget = DataRef(str(language.write(tmp_path / "forget.jsonl", language.rows(language.FORGET))))

    def learned(method, **options):
        shared = {"steps": 2, "rank": 2, "batch": 4, "retain_weight": 0.0, "until_unknown": False}
        return {key: delta.dense() for _, key, delta in ep.erase(
            str(folder), [ForgetItem(data=forget)], method, options=shared | options).edit.items()}  # fmt: skip

    once, thrice = learned("task-vector", strength=1.0), learned("task-vector", strength=3.0)
    # graddiff goes the other way by itself, so of one step, in which Adam looks at signs only, it is the same change
    against, turned = learned("graddiff", steps=1), learned("task-vector", steps=1, strength=1.0)
    for key, change in once.items():
        assert torch.allclose(thrice[key], 3 * change, rtol=1e-5, atol=1e-7), key
        assert torch.allclose(turned[key], against[key], rtol=1e-3, atol=1e-7), key
        assert float(change.abs().max()) > 0
