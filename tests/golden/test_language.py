"""Losses of language unlearning against the official code: values and gradients, from logits and through a model.

Runs every case in --golden-dir whose JSON holds runs of those losses.
"""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from safetensors.torch import load_file

from erase_plugins.families.texts import Texts
from erase_plugins.manager import get_manager
from erase_plugins.training import Asked
from erase_plugins.training.asked import divergence

#: official class -> our method; what the official retain term averages over differs for KL (see `divergence`)
METHODS = {"GradAscent": "graddiff", "GradDiff": "graddiff", "NPO": "npo", "SimNPO": "simnpo", "DPO": "dpo-idk"}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "case" in metafunc.fixturenames:
        folder = Path(metafunc.config.getoption("--golden-dir"))
        files = sorted(folder.glob("lm_losses*.json"))
        metafunc.parametrize("case", files, ids=[path.stem for path in files], indirect=True, scope="module")


@pytest.fixture(scope="module")
def case(request):
    """(JSON, tensors in float64, the model)."""
    from transformers import LlamaConfig, LlamaForCausalLM

    data = json.loads(request.param.read_text())
    tensors = {
        name: part.double() if part.is_floating_point() else part.long()
        for name, part in load_file(request.param.with_suffix(".safetensors")).items()
    }
    facts = data["config"]
    config = LlamaConfig(
        vocab_size=facts["vocab"], hidden_size=facts["hidden"], intermediate_size=facts["inter"],
        num_hidden_layers=facts["layers"], num_attention_heads=facts["heads"], num_key_value_heads=facts["kv"],
        max_position_embeddings=facts["max_position_embeddings"], rms_norm_eps=facts["rms_norm_eps"],
        rope_theta=facts["rope_theta"], tie_word_embeddings=facts["tie"], attn_implementation="eager",
    )  # fmt: skip
    model = LlamaForCausalLM(config).double().eval()
    model.load_state_dict({name[6:]: part for name, part in tensors.items() if name.startswith("theta.")})
    return data, tensors, model


def texts(tensors, name):
    """A stored batch with its likelihood before."""
    ids, labels, mask = (tensors[f"batch.{name}.{part}"] for part in ("input_ids", "labels", "attention_mask"))
    found = Texts(ids, labels, mask)
    return Texts(ids, labels, mask, Asked(found, tensors[f"logits.{name}.theta0"]).nll)


def ours(run, tensors, logits):
    """Forget and retain term of a stored run with our methods, weighted as it says."""
    method = get_manager().method(METHODS[run["class"]])
    options = method.Options(
        forget_weight=run["gamma"], retain_weight=run["alpha"], retain_term="nll",
        **{name: run[name] for name in ("beta", "delta") if name in run},
    )  # fmt: skip
    parts = {name: Asked(texts(tensors, name), logits(name)) for name in ("forget", "alternate", "retain")}
    forget = method.forget_loss(SimpleNamespace(options=options), parts["forget"], parts["alternate"])
    kept = None if run["alpha"] == 0 or run["class"] == "GradAscent" else parts["retain"]
    return method.total(None, forget, kept, options)


def runs(data):
    return {
        name: run for name, run in data["settings"]["runs"].items()
        if run["class"] in METHODS and (run["retain"] == "NLL" or run["alpha"] == 0)
    }  # fmt: skip


def test_values_and_gradients_from_logits(case):
    data, tensors, _ = case
    assert len(runs(data)) >= 9
    for name, run in runs(data).items():
        leaves = {part: tensors[f"logits.{part}.theta"].clone().requires_grad_() for part in
                  ("forget", "alternate", "retain")}  # fmt: skip
        loss = ours(run, tensors, leaves.__getitem__)
        expected = data["expected"]["logits"][name]
        assert loss.item() == pytest.approx(expected["loss"], abs=1e-9 * max(1, abs(expected["loss"]))), name
        loss.backward()
        norms = {part: 0.0 if leaf.grad is None else float(leaf.grad.norm()) for part, leaf in leaves.items()}
        assert norms == pytest.approx(expected["dlogits_norm"], rel=1e-6, abs=1e-9), name


def test_values_and_gradients_through_the_model(case):
    data, tensors, model = case
    batches = {name: texts(tensors, name) for name in ("forget", "alternate", "retain")}
    for name, run in runs(data).items():
        if name not in data["expected"]["model"]:
            continue
        model.zero_grad()
        loss = ours(run, tensors, lambda part: model(
            input_ids=batches[part].ids, attention_mask=batches[part].mask, use_cache=False).logits)  # fmt: skip
        expected = data["expected"]["model"][name]
        assert loss.item() == pytest.approx(expected["loss"], abs=1e-6 * max(1, abs(expected["loss"]))), name
        loss.backward()
        largest = max(expected["grad"].values())
        for path, part in model.named_parameters():
            assert float(part.grad.norm()) == pytest.approx(expected["grad"][path], abs=1e-5 * largest), (name, path)


def test_terms(case):
    data, tensors, _ = case
    expected = data["expected"]["components"]
    for name in ("forget", "alternate", "retain"):
        for theta in ("theta", "theta0"):
            seen = Asked(texts(tensors, name), tensors[f"logits.{name}.{theta}"])
            assert seen.nll.tolist() == pytest.approx(expected[f"nll_sum.{name}.{theta}"], rel=1e-6)
            assert float(seen.mean) == pytest.approx(expected[f"loss_hf.{name}.{theta}"], rel=1e-6)
        assert seen.counts.tolist() == expected["num_target_tokens"][name]
    now, before, labels = (tensors[key] for key in (
        "logits.retain.theta", "logits.retain.theta0", "batch.retain.labels"))  # fmt: skip
    assert float(divergence(now, before, labels)) == pytest.approx(
        expected["KL_retain_target_positions_only"], rel=1e-6
    )
    answers = Asked(texts(tensors, "alternate"), tensors["logits.alternate.theta"])
    idk = get_manager().method("idk").forget_loss(None, None, answers)
    assert float(idk) == pytest.approx(expected["loss_hf.alternate.theta"], rel=1e-6)


def test_undial_over_the_positions_that_count(case):
    from erase_plugins.methods.undial import adjusted_cross_entropy

    data, tensors, _ = case
    for name, expected in data["expected"]["logits"]["UNDIAL_target_positions_only"].items():
        now, before = (tensors[f"logits.forget.{theta}"] for theta in ("theta", "theta0"))
        found = adjusted_cross_entropy(now, before, tensors["batch.forget.labels"], float(name[1:]))
        assert float(found) == pytest.approx(expected, rel=1e-6), name


def test_the_start(case):
    data, tensors, _ = case
    for name in ("NPO_b0.1_forget_only", "IdkDPO_b1_forget_only"):
        run = data["settings"]["runs"][name]
        loss = ours(run, tensors, lambda part: tensors[f"logits.{part}.theta0"])
        assert loss.item() == pytest.approx(data["expected"]["at_start"][name]["loss"], rel=1e-9)


def test_misdirection_from_stored_states_and_through_the_model(case):
    """RMU with the mean over each text's tokens, as its comments say (the official broadcast mixes texts)."""
    from erase_plugins.methods.rmu import RMU
    from erase_plugins.training.steered import mean_square
    from erase_plugins.workflow.models import target_of

    data, tensors, model = case
    method, expected = RMU(), data["expected"]
    batches = {name: texts(tensors, name) for name in ("forget", "retain")}
    counted = {name: method.counted(part, SimpleNamespace(tokens="answer")) for name, part in batches.items()}
    away = tensors["rmu.act.forget.theta"] - tensors["rmu.control_vec"]
    wanted = expected["rmu"]["per_sequence_mean_then_batch_mean (intended)"]["forget"]
    assert float(mean_square(away, counted["forget"])) == pytest.approx(wanted, rel=1e-6)
    target = target_of(model)
    run = SimpleNamespace(target=target, refs=target.modules("mlp_out")[: data["config"]["rmu_layer"] + 1])
    for name, weight in (("RMU_embed", 1.0), ("RMU_embed_g1_a0", 0.0)):
        model.zero_grad()
        forget = mean_square(method.hidden(run, batches["forget"]) - tensors["rmu.control_vec"], counted["forget"])
        held = method.hidden(run, batches["retain"]) - tensors["rmu.act.retain.theta0"]
        loss = forget + weight * mean_square(held, counted["retain"])
        known = expected["rmu_corrected"][name]
        assert loss.item() == pytest.approx(known["loss"], rel=1e-6)
        loss.backward()
        largest = max(known["grad"].values())
        for path, part in model.named_parameters():
            found = 0.0 if part.grad is None else float(part.grad.norm())
            assert found == pytest.approx(known["grad"][path], abs=1e-5 * largest), (name, path)
