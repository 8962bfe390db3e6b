"""Closed-form edits of language models against the official code, and against solves of the size of the layer."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from erase_plugins.engine import key_edits


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "case" in metafunc.fixturenames:
        folder = Path(metafunc.config.getoption("--golden-dir"))
        files = sorted(folder.glob("lm_edit*.json"))
        metafunc.parametrize("case", files, ids=[path.stem for path in files], indirect=True, scope="module")


@pytest.fixture(scope="module")
def case(request):
    """(JSON, tensors in float64)."""
    tensors = load_file(request.param.with_suffix(".safetensors"))
    return json.loads(request.param.read_text()), {
        name: part.double() if part.is_floating_point() else part for name, part in tensors.items()
    }


def close(found, wanted, rel):
    return float((found - wanted).norm() / wanted.norm()) <= rel


def residual(tensors, batch, layer, layers):
    return (tensors[f"{batch}.z"] - tensors[f"{batch}.h.{layer}"]) / len(layers[layers.index(layer) :])


def test_memit(case):
    data, tensors = case
    layers, lam = data["settings"]["layers"], data["settings"]["lam"]
    for layer in layers:
        K, C = tensors[f"b0.K.{layer}"], tensors[f"C.{layer}"]
        A, R = key_edits.memit(C, K, lam), residual(tensors, "b0", layer, layers)
        assert close(A.T, tensors[f"memit.adj_k.{layer}"], 1e-6)
        assert close(R, tensors[f"memit.resid.{layer}"], 1e-6)
        assert close(R @ A, tensors[f"memit.dW.{layer}"], 1e-6)


def test_alphaedit_one_batch_after_the_other(case):
    data, tensors = case
    layers = data["settings"]["layers"]
    for layer in layers:
        N, kept = tensors[f"alphaedit.P.{layer}"], None
        for batch in ("b0", "b1"):
            K = tensors[f"{batch}.K.{layer}"]
            A = key_edits.alphaedit(N, K, data["settings"]["L2"], kept)
            found = residual(tensors, batch, layer, layers) @ A
            assert close(found, tensors[f"alphaedit.dW.{batch}.{layer}"], 1e-6), (batch, layer)
            kept = K
        assert close(key_edits.null_space(tensors[f"C.{layer}"], threshold=data["settings"]["thr"]), N, 1e-5)


def test_rome(case):
    _, tensors = case
    keys, C = tensors["rome.keys_per_context"], tensors["C.2"]
    mean, plain = keys.mean(0)[:, None], keys[0][:, None]
    A = key_edits.rome(C, plain, spread=mean)
    R = (tensors["rome.target"] - tensors["rome.cur_output"])[:, None]
    assert close(R @ A, tensors["rome.dW"], 1e-6)


def test_rome_through_a_model(case):
    """The value found by descent, and the edit, against the official code on the model of the losses' case."""
    from transformers import LlamaConfig, LlamaForCausalLM

    from erase_plugins.engine import fact_editing
    from erase_plugins.families.texts import Fact
    from erase_plugins.workflow.models import target_of

    data, tensors = case
    said, place = data["lm"], Path(__file__).parent / "data" / "lm_losses_case1.json"
    facts = json.loads(place.read_text())["config"]
    model = LlamaForCausalLM(LlamaConfig(
        vocab_size=facts["vocab"], hidden_size=facts["hidden"], intermediate_size=facts["inter"],
        num_hidden_layers=facts["layers"], num_attention_heads=facts["heads"], num_key_value_heads=facts["kv"],
        max_position_embeddings=facts["max_position_embeddings"], rms_norm_eps=facts["rms_norm_eps"],
        rope_theta=facts["rope_theta"], tie_word_embeddings=facts["tie"], attn_implementation="eager",
    )).double().eval()  # fmt: skip
    weights = load_file(place.with_suffix(".safetensors"))
    model.load_state_dict({name[6:]: part.double() for name, part in weights.items() if name.startswith("theta.")})
    target = target_of(model)
    ref = target.modules("mlp_out")[said["layer"]]
    assert ref.weight == said["weight"]
    prompts = said["prompts_token_ids (one per context template, subject filled in)"]
    plain, last = prompts[0], said["subject_last_index"][0]
    answer = said["target_token_ids"]
    fact = Fact((), tuple(plain), last, tuple(answer), "here")
    prefixes = [tuple(row[: len(row) - len(plain)]) for row in prompts]
    kl = Fact((), tuple(said["kl_prompt_token_ids"]), said["kl_index"], (), "here")
    how = said["hparams"]
    descent = fact_editing.Descent(
        how["v_num_grad_steps"], how["v_lr"], how["kl_factor"], how["v_weight_decay"], how["clamp_norm_factor"]
    )
    rows = fact_editing.rows_of([fact], prefixes, [answer])
    assert rows.last.tolist() == said["subject_last_index"]
    delta, _ = fact_editing.find_values(target, ref, target.module(ref), rows, fact_editing.rows_of([kl]), descent)
    (keys,) = fact_editing.keys(target, [ref], rows)
    A = key_edits.rome(tensors["lm.C"], keys[:1].T, spread=keys.mean(0)[:, None])
    assert close(delta.T @ A, tensors["lm.rome.dW"], 1e-5)


def test_collapse_of_gradients(case):
    from erase_plugins.engine.collapsing import KINDS, collapse

    _, tensors = case
    gradient = tensors["repselect.grad"]
    U, S, V = torch.linalg.svd(gradient, full_matrices=False)
    for kind in KINDS:
        into = collapse(gradient, V[:4].T, S[:4], kind)
        out = collapse(gradient.T, U[:, :4], S[:4], kind).T
        both = collapse(into.T, U[:, :4], S[:4], kind).T
        for name, found in (("act", into), ("grad", out), ("both", both)):
            assert close(found, tensors[f"repselect.{kind}.{name}"], 1e-5), (kind, name)
