"""Private steps against opacus and dp-accounting, and gradients of a LoRA by person."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from erase_plugins.engine import private


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "case" in metafunc.fixturenames:
        files = sorted(Path(metafunc.config.getoption("--golden-dir")).glob("dp_case*.json"))
        metafunc.parametrize("case", files, ids=[path.stem for path in files], indirect=True, scope="module")


@pytest.fixture(scope="module")
def case(request):
    return json.loads(request.param.read_text()), {
        name: part.double() for name, part in load_file(request.param.with_suffix(".safetensors")).items()
    }


def test_the_accountant(case):
    for row in case[0]["accountant"]:
        found = private.epsilon(row["q"], row["sigma"], row["steps"], row["delta"])
        assert found == pytest.approx(row["opacus_int_2_256"]["eps"], abs=1e-6), row
    for rate, sigma, steps, wanted in ((0.01, 1, 1000, 2.1078), (0.05, 1, 200, 5.3711), (0.1, 2, 100, 2.5867)):
        assert private.epsilon(rate, sigma, steps, 1e-5) == pytest.approx(wanted, abs=5e-5)


def gradients(case):
    """Gradient by A and B of every sample, through the adapters that training uses."""
    from erase_plugins.engine.adapters import LoraSlot
    from erase_plugins.families.model import ModuleRef

    data, tensors = case
    facts = data["settings"]
    layer = torch.nn.Linear(facts["di"], facts["do"], bias=False).double()
    layer.weight.data = tensors["W0"]
    slot = LoraSlot(ModuleRef("model", "layer", "linear", tuple(layer.weight.shape), False), layer, facts["r"],
                    facts["alpha"] / facts["r"], None)  # fmt: skip
    slot.A.data, slot.B.data = tensors["lora_A"], tensors["lora_B"]
    out = []
    for x, y, mask in zip(tensors["x"], tensors["y"], tensors["mask"], strict=True):
        each = 0.5 * (slot.changed(torch.nn.Linear.forward.__get__(layer), x) - y).square().sum(-1)
        out.append(torch.autograd.grad((mask * each).sum() / mask.sum(), [slot.A, slot.B]))
    return out


def test_gradients_are_clipped_together_and_by_person(case):
    data, tensors = case
    facts, each = data["settings"], gradients(case)
    norm = facts["clip"]
    for number, name in enumerate("AB"):
        found = torch.stack([parts[number] for parts in each])
        assert torch.allclose(found, tensors[f"grad_{name}"], rtol=1e-6, atol=1e-9)
    small = [private.clipped(parts, norm) for parts in each]
    assert all(sum(float(part.square().sum()) for part in parts) ** 0.5 <= norm * (1 + 1e-12) for parts in small)
    total = [sum(parts) for parts in zip(*small, strict=True)]
    people = {}
    for owner, parts in zip(facts["groups"], each, strict=True):
        people[owner] = [a + b for a, b in zip(people[owner], parts, strict=True)] if owner in people else list(parts)
    grouped = [sum(parts) for parts in zip(*(private.clipped(parts, norm) for parts in people.values()), strict=True)]
    noise = [tensors[f"noise_{name}"] for name in "AB"]
    mean = private.noisy_mean(total, norm, facts["sigma"], facts["exp_batch"], noise)
    for number, name in enumerate("AB"):
        for found, key in ((total, "clipped_sum"), (grouped, "group_clipped_sum"), (mean, "noisy_mean")):
            assert torch.allclose(found[number], tensors[f"{key}_{name}"], rtol=1e-6, atol=1e-9), key
