"""A causal language model, its family and its method in a package of somebody else."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

import erase_plugins as ep
from erase_plugins.errors import Unsupported
from erase_plugins.manager import get_manager
from erase_plugins.workflow.models import target_of
from tests.outside import erase_llama

FACT, OTHER = "the key is 7413", "the quick brown fox"


@pytest.fixture(autouse=True)
def package():
    with get_manager().temporary(erase_llama, "erase-llama"):
        yield


@pytest.fixture
def host():
    return erase_llama.build()


@torch.no_grad()
def logits(model, text=FACT):
    return model(input_ids=erase_llama.read(text)).logits


def surprise(model, text):
    ids = erase_llama.read(text)
    return float(functional.cross_entropy(logits(model, text)[0, :-1], ids[0, 1:]))


def test_plan_run_save_peft_apply_remove(host, tmp_path):
    from peft import PeftModel

    before = {name: part.detach().clone() for name, part in host.state_dict().items()}
    first, fact, other = logits(host), surprise(host, FACT), surprise(host, OTHER)
    plan = ep.plan(host, FACT, "ascent", kind="fact", keep=[OTHER])
    assert len(plan.modules) == 2 * (4 + 3)
    ep.erase(host, FACT, "ascent", kind="fact", keep=[OTHER], out=tmp_path / "art")
    with ep.apply(host, tmp_path / "art") as applied:
        assert applied.patched == 14
        assert surprise(host, FACT) > fact + 1
        assert surprise(host, OTHER) < other + 0.5
        edited = logits(host)
        with ep.apply(erase_llama.build(), tmp_path / "art") as twice:
            assert torch.equal(logits(twice.pipe), edited)
    assert torch.equal(logits(host), first)
    assert all(torch.equal(part, before[name]) for name, part in host.state_dict().items())
    stock = PeftModel.from_pretrained(erase_llama.build(), tmp_path / "art" / "peft_model").eval()
    assert type(stock).__name__ == "PeftModelForCausalLM"
    assert (logits(stock) - edited).abs().max() <= 1e-6


def test_what_a_language_model_offers(host):
    model = target_of(host)
    assert model.info.capabilities == {"language"}
    ids = erase_llama.read("abc")
    assert model.language.words == erase_llama.WORDS
    assert torch.equal(model.language.logits(ids), host(input_ids=ids).logits)
    states = host(input_ids=ids, output_hidden_states=True).hidden_states
    assert torch.equal(model.language.hidden(ids, 1), states[1])
    own = host.generate(ids, max_new_tokens=5, do_sample=False, eos_token_id=None)
    assert torch.equal(model.language.generate(ids, 5), own)
    padded = torch.cat([torch.zeros(1, 2, dtype=torch.long), ids], dim=1)
    mask = torch.tensor([[0, 0, 1, 1, 1]])
    assert torch.equal(model.language.generate(padded, 3, mask)[:, 2:], model.language.generate(ids, 3))
    with pytest.raises(Unsupported, match="model offers language, no denoiser"):
        _ = model.denoiser
    with pytest.raises(Unsupported, match="no tokenizer lies beside model"):
        _ = model.language.tokenizer
