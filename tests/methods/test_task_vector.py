"""Task vectors: what was learned is turned around and made as long as ``strength`` says."""

from __future__ import annotations

import warnings

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import erase_plugins as ep
from erase_plugins.data import DataRef
from erase_plugins.families.texts import encoded, pairs_of
from erase_plugins.types import ForgetItem
from erase_plugins.workflow.models import target_of
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


def test_it_goes_as_far_as_what_is_retained_stays(tmp_path):
    folder = language.trained(tmp_path / "model")
    forget, retain = (DataRef(str(path)) for path in language.both(tmp_path))

    def made(**options):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return ep.erase(
                str(folder), [ForgetItem(data=forget)], "task-vector", keep=[retain],
                options={"steps": 10, "rank": 2, "batch": 4, "retain_weight": 0.0, "strength": 64.0} | options,
            )  # fmt: skip

    def cost(edited):
        """Nat per token of what is to stay, by transformers itself."""
        model, words = (kind.from_pretrained(folder) for kind in (AutoModelForCausalLM, AutoTokenizer))
        pairs = pairs_of(retain)
        texts = encoded(target_of(model), words, pairs, 64)
        change = {key: delta.dense() for _, key, delta in edited.edit.items()} if edited else {}
        with torch.no_grad():
            for key, value in change.items():
                model.get_parameter(key if key.endswith("weight") else f"{key}.weight").add_(value)
            return float(model(input_ids=texts.ids, attention_mask=texts.mask, labels=texts.labels).loss)

    careful, bold, all_of_it = made(), made(harm=0.5), made(harm=1e4)
    lengths = [edited.manifest.extra["numbers"]["turned_around"] for edited in (careful, bold, all_of_it)]
    assert 0 < lengths[0] < lengths[1] < lengths[2] == 64.0
    before = cost(None)
    assert cost(careful) - before <= 0.03 + 1e-4
    assert 0.03 < cost(bold) - before <= 0.5 + 1e-4
    assert any("harm" in line for line in careful.manifest.warnings)
    assert not any("harm" in line for line in all_of_it.manifest.warnings)
