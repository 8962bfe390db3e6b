"""GS-LoRA against replays of the official code: terms, gradients, switched-off blocks, schedules, H.

Runs every case in --golden-dir whose JSON holds a part ``gs_lora``.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from erase_plugins.artifacts.edit import LowRank
from erase_plugins.engine.adapters import Adapters
from erase_plugins.families.labelled import harmonic
from erase_plugins.methods.gs_lora_plus import divergence, prototype_terms, prototypes
from erase_plugins.training.group_sparse import (
    GroupSparseOptions,
    change_norms,
    factors,
    group_norms,
    gs_lora_terms,
    small_blocks,
)
from erase_plugins.workflow.models import target_of


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "case" in metafunc.fixturenames:
        folder = Path(metafunc.config.getoption("--golden-dir"))
        files = [path for path in sorted(folder.glob("*.json")) if "gs_lora" in json.loads(path.read_text())]
        metafunc.parametrize("case", files, ids=[path.stem for path in files], indirect=True, scope="module")


@pytest.fixture(scope="module")
def case(request):
    """(JSON, tensors, model with the adapters of the case attached)."""
    from transformers import ViTConfig, ViTForImageClassification

    data, tensors = json.loads(request.param.read_text()), load_file(request.param.with_suffix(".safetensors"))
    host = ViTForImageClassification(ViTConfig(**data["model"]["config"])).double().eval()
    host.load_state_dict({name[4:]: part.double() for name, part in tensors.items() if name.startswith("vit.")})
    target, part = target_of(host), data["gs_lora"]
    adapters = Adapters(target, target.modules("ffn"), part["rank"], part["scale_s"])
    for slot in adapters.slots:
        block, layer = re.search(r"layers\.(\d+)\.mlp\.(fc\d)", slot.ref.path).groups()
        for name in "AB":
            value = tensors[f"gs.lora.{block}.{layer}.{name}"].double()
            setattr(slot, name, torch.nn.Parameter(value))
    with adapters:
        yield data, tensors, target, adapters


def batches(data, tensors):
    """The first forget and the first retain batch: pictures and classes."""
    rows = [int(last) + 1 for last in re.findall(r"rows 0\.\.(\d+)", data["gs_lora"]["batch"])]
    return [
        (tensors[f"data.x_{name}"][:count].double(), tensors[f"data.y_{name}"][:count])
        for name, count in zip(("forget", "retain"), rows, strict=True)
    ]


def test_base_logits(case):
    data, tensors, target, adapters = case
    with adapters.disabled(), torch.no_grad():
        found = target.classifier.logits(tensors["data.x_forget"].double())
    wanted = torch.tensor(data["original"]["logits_forget"], dtype=torch.float64)
    assert torch.allclose(found, wanted, rtol=1e-6, atol=1e-9)


def test_terms_and_their_gradients(case):
    data, tensors, target, adapters = case
    (x_f, y_f), (x_r, y_r) = batches(data, tensors)
    names = [f"{block}.{layer}.{part}" for block in range(data["model"]["config"]["num_hidden_layers"])
             for layer in ("fc1", "fc2") for part in "AB"]  # fmt: skip
    assert data["gs_lora"]["sets"]
    for expected in data["gs_lora"]["sets"].values():
        logits_r, logits_f = target.classifier.logits(torch.cat([x_r, x_f])).split([len(x_r), len(x_f)])
        terms = gs_lora_terms(logits_r, y_r, logits_f, y_f, factors(adapters), expected["BND"])
        for ours, theirs in (("retain", "L_r"), ("forget", "L_f"), ("sparse", "L_s")):
            assert float(terms[ours].detach()) == pytest.approx(expected["terms"][theirs], rel=1e-6)
            grads = torch.autograd.grad(terms[ours], adapters.parameters(), retain_graph=True, allow_unused=True)
            norms = [0.0 if grad is None else float(grad.norm()) for grad in grads]
            assert dict(zip(names, norms, strict=True)) == pytest.approx(
                expected["grad_norm"][theirs], rel=1e-6, abs=1e-12
            )


def test_groups_and_switched_off_blocks(case):
    part, adapters = case[0]["gs_lora"], case[3]
    norms = [float(norm) for norm in group_norms(factors(adapters))]
    assert norms == pytest.approx(part["group_norms_sqrt_of_squares"], rel=1e-6)
    changes = change_norms(
        (slot.ref.path, LowRank(slot.A.detach(), slot.B.detach() * slot.scale)) for slot in adapters.slots
    )
    assert list(changes.values()) == pytest.approx(part["block_delta_norm_fro_sBA"], rel=1e-6)
    assert [list(changes).index(name) for name in small_blocks(changes, 0.01)] == part["zero_group"]["off"]


def test_schedules_and_h(case):
    part = case[0]["gs_lora"]
    options = GroupSparseOptions(epochs=100, lr=1e-2, alpha=part["weights"]["alpha"])
    for epoch, rate in part["schedule"]["lr_by_epoch"].items():
        assert options.rate(int(epoch)) == pytest.approx(rate, rel=1e-6)
    for epoch, weight in part["schedule"]["alpha_by_epoch"].items():
        assert options.lasso(int(epoch)) == weight
    for item in part["H"]["cases"]:
        before, after = (item[name] for name in ("f_before", "f_after"))
        assert harmonic(before, after, item["acc_r"]) == pytest.approx(item["H"], rel=1e-6)


def test_prototype_terms(case):
    """GS-LoRA++: prototypes, both terms, the total with its gradients."""
    data, tensors, target, adapters = case
    part, weights = data["gs_lora"], data["gs_lora"]["weights"]
    every = torch.cat([tensors[f"data.x_{name}"] for name in ("forget", "retain")]).double()
    labels = torch.cat([tensors[f"data.y_{name}"] for name in ("forget", "retain")])
    with torch.no_grad(), adapters.disabled():
        table = prototypes(target.classifier.features(every), labels, data["model"]["config"]["num_labels"])
    assert torch.allclose(table, tensors["gs.prototypes"].double(), rtol=1e-6, atol=1e-9)
    (x_f, y_f), (x_r, y_r) = batches(data, tensors)
    for name, expected in part["sets"].items():
        both = target.classifier.read(torch.cat([x_r, x_f]))
        (seen_r, seen_f), (logits_r, logits_f) = (item.split([len(x_r), len(x_f)]) for item in both)
        terms = gs_lora_terms(logits_r, y_r, logits_f, y_f, factors(adapters), expected["BND"])
        near = prototype_terms(seen_r, y_r, seen_f, y_f, table, expected["BND_p"])
        assert float(near["retain"].detach()) == pytest.approx(expected["terms"]["L_pr"], rel=1e-6)
        assert float(near["forget"].detach()) == pytest.approx(expected["terms"]["L_pf"], rel=1e-6, abs=1e-12)
        total = (terms["retain"] + weights["beta"] * terms["forget"] + weights["alpha"] * terms["sparse"]
                 + weights["gamma_f"] * near["forget"] + weights["gamma_r"] * near["retain"])  # fmt: skip
        assert float(total.detach()) == pytest.approx(expected["total"], rel=1e-6)
        for slot in adapters.slots:
            block, layer = re.search(r"layers\.(\d+)\.mlp\.(fc\d)", slot.ref.path).groups()
            for letter, value in slot.parts():
                (grad,) = torch.autograd.grad(total, value, retain_graph=True)
                wanted = tensors[f"gs.grad_total.{name}.{block}.{layer}.{letter}"].double()
                assert torch.allclose(grad, wanted, rtol=1e-6, atol=1e-9)


def test_divergence_by_hand(case):
    part = case[0]["gs_lora"]["kl_hand"]
    pair = [torch.tensor([part[name]], dtype=torch.float64) for name in ("prototype", "h")]
    assert float(divergence(*pair)) == pytest.approx(part["KL_prototype_to_h"], rel=1e-9)
    assert float(divergence(*pair[::-1])) == pytest.approx(part["swapped_wrong"], rel=1e-9)
    assert float(divergence(pair[0], pair[0])) == pytest.approx(0, abs=1e-12)
