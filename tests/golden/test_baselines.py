"""The classic baselines against replays of the official codes and against dense solves.

Runs every case in --golden-dir whose JSON holds a part ``salun``. The golden values are float64.
"""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

from erase_plugins.engine.optimizers import make_optimizer
from erase_plugins.engine.whole import WholeWeights
from erase_plugins.families.labelled import Labelled
from erase_plugins.methods.baselines.boundary import nearest_other, stepped
from erase_plugins.methods.baselines.finetune import L1Options, absolute
from erase_plugins.methods.baselines.influence import newton
from erase_plugins.methods.baselines.random_label import gradients, salient
from erase_plugins.methods.baselines.scrub import ScrubOptions, scrub_terms
from erase_plugins.training.baseline import error, flat_gradient, picture_gradients
from erase_plugins.workflow.models import target_of

CLOSE = {"rtol": 1e-6, "atol": 1e-9}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "case" in metafunc.fixturenames:
        folder = Path(metafunc.config.getoption("--golden-dir"))
        files = [path for path in sorted(folder.glob("*.json")) if "salun" in json.loads(path.read_text())]
        metafunc.parametrize("case", files, ids=[path.stem for path in files], indirect=True, scope="module")


@pytest.fixture(scope="module")
def case(request):
    return json.loads(request.param.read_text()), load_file(request.param.with_suffix(".safetensors"))


@pytest.fixture
def run(case):
    """A stand-in for a run: the model of the case with all weights in training."""
    from transformers import ViTConfig, ViTForImageClassification

    data, tensors = case
    host = ViTForImageClassification(ViTConfig(**data["model"]["config"])).double().eval()
    host.load_state_dict({name[4:]: part.double() for name, part in tensors.items() if name.startswith("vit.")})
    target = target_of(host)
    adapters = WholeWeights(target, "classifier")
    with adapters:
        yield SimpleNamespace(target=target, adapters=adapters, options=SimpleNamespace(batch=5))


def pool(tensors, name):
    return Labelled(tensors[f"data.x_{name}"].double(), tensors[f"data.y_{name}"])


def test_masks_of_salun(case, run):
    data, tensors = case
    grads = gradients(run, pool(tensors, "forget"))
    flat = torch.cat([part.flatten() for part in grads.values()])
    assert list(grads) == data["salun"]["parameter_order"]
    assert torch.allclose(flat, tensors["salun.grad_sum_flat"].double(), **CLOSE)
    for share in data["salun"]["q"]:
        masks = salient(grads, share)
        assert sum(int(mask.sum()) for mask in masks.values()) == data["salun"]["ones"][str(share)]
        for name, mask in masks.items():
            assert torch.equal(mask, tensors[f"salun.mask_q{share}.{name}"].bool())


@pytest.mark.parametrize("part", ["rl_epoch", "salun_epoch"])
def test_an_epoch_with_random_labels(case, run, part):
    """Weight decay is on, and what the mask leaves out stays to the last bit."""
    data, tensors = case
    facts, forget, retain = data[part], pool(tensors, "forget"), pool(tensors, "retain")
    short = part.partition("_")[0]
    base = {name: value.detach().clone() for name, value in run.adapters.values.items()}
    masks = {}
    if short == "salun":
        masks = {name: tensors[f"salun.mask_q0.5.{name}"].bool() for name in base}
        run.adapters.mask(masks)
    labels = torch.tensor(facts["labels_per_forget_batch"])
    batches = [Labelled(forget.pictures[5 * number : 5 * number + 5], row) for number, row in enumerate(labels)]
    batches += [retain[rows] for rows in torch.arange(len(retain)).split(8)]
    parameters = run.adapters.parameters()
    optimizer = make_optimizer("sgd", parameters, facts["lr"], facts["weight_decay"], facts["momentum"])
    losses = []
    for batch in batches:
        loss = error(run, batch)
        losses.append(float(loss.detach()))
        for parameter, grad in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
            parameter.grad = grad
        optimizer.step()
    assert losses == pytest.approx(facts["losses_in_order"], rel=1e-6)
    for slot in run.adapters.slots:
        now, name = slot.now.detach(), slot.ref.path
        assert torch.allclose(now, tensors[f"{short}.after.{name}"].double(), **CLOSE)
        if masks:
            assert torch.equal(now[~masks[name]], base[name][~masks[name]])


def test_the_fading_norm_of_l1_sparse(case, run):
    data, tensors = case
    part, retain = data["l1_sparse"], pool(tensors, "retain")
    options = L1Options(alpha=part["alpha"], epochs=part["E"], quiet=part["E0"])
    norm = float(absolute(run.adapters.parameters()).detach())
    assert norm == pytest.approx(part["l1_norm_all_parameters"], rel=1e-6)
    plain = float(error(run, retain[torch.arange(8)]).detach())
    for epoch, expected in part["by_epoch"].items():
        weight = options.weight(int(epoch))
        assert weight == pytest.approx(expected["a_e"], rel=1e-12)
        assert plain + weight * norm == pytest.approx(expected["loss_first_retain_batch"], rel=1e-6)


def test_labels_of_boundary_shrink(case, run):
    data, tensors = case
    part, forget = data["boundary_shrink"], pool(tensors, "forget")
    logits = run.target.classifier.logits
    moved = stepped(logits, forget, part["bound"], 0.0, 1.0)
    assert torch.allclose(moved, tensors["bs.x_adv"].double(), atol=1e-6)
    found = nearest_other(logits, forget, part["bound"], 0.0, 1.0)
    assert found.tolist() == part["labels_excluding_true_class"]
    assert float(error(run, Labelled(forget.pictures, found)).detach()) == pytest.approx(
        part["ce_to_excluding_labels"], rel=1e-6
    )
    wide = nearest_other(logits, forget, 0.4, 0.0, 1.0)
    assert wide.tolist() == part["labels_bound_0.4"]["excluding"]


def test_terms_of_scrub(case):
    data, tensors = case
    part, student = data["scrub"], tensors["scrub.student_logits"].double().requires_grad_(True)
    terms = scrub_terms(student, tensors["scrub.teacher_logits"].double(), tensors["scrub.labels"], part["T"])
    assert {name: float(value.detach()) for name, value in terms.items()} == pytest.approx(
        {"kl": part["KL"], "ce": part["CE"]}, rel=1e-6
    )
    options = ScrubOptions(ce=0.99, kl=0.001)
    least = options.ce * terms["ce"] + options.kl * terms["kl"]
    assert float(least.detach()) == pytest.approx(part["min_step_loss"], rel=1e-6)
    for loss, name in ((-terms["kl"], "max"), (least, "min")):
        (grad,) = torch.autograd.grad(loss, student, retain_graph=True)
        assert torch.allclose(grad, tensors[f"scrub.grad_{name}"].double(), **CLOSE)
    rates = {epoch: options.rate(int(epoch)) / options.lr for epoch in part["lr_factor_by_epoch"]}
    assert rates == pytest.approx(part["lr_factor_by_epoch"])
    same = student.detach().requires_grad_(True)
    still = scrub_terms(same, same.detach(), tensors["scrub.labels"], part["T"])["kl"]
    assert float(still.detach()) == pytest.approx(0, abs=1e-12)
    assert torch.autograd.grad(still, same)[0].abs().max() < 1e-12
    near = (same.detach() + 0.1 * student.detach()).requires_grad_(True)  # a step away from the teacher goes further
    kl = lambda rows: scrub_terms(rows, same.detach(), tensors["scrub.labels"], part["T"])["kl"]  # noqa: E731
    (slope,) = torch.autograd.grad(-kl(near), near)
    assert kl(near - 0.1 * slope) > kl(near) > 0


def test_a_step_of_scrub_on_the_model(case, run):
    """The student starts beside the teacher; one step each from there."""
    data, tensors = case
    with torch.no_grad(), run.adapters.disabled():
        teacher = {name: run.target.classifier.logits(pool(tensors, name).pictures) for name in ("forget", "retain")}
    for kind, side, count in (("max", "forget", 5), ("min", "retain", 8)):
        facts, batch = data["scrub"][f"{kind}_step"], pool(tensors, side)[torch.arange(count)]
        for name, value in run.adapters.values.items():
            value.data.copy_(tensors[f"scrub.student.{name}"].double())
        terms = scrub_terms(run.target.classifier.logits(batch.pictures), teacher[side][:count], batch.labels,
                            data["scrub"]["T"])  # fmt: skip
        assert float(terms["kl"].detach()) == pytest.approx(facts["KL"], rel=1e-6)
        assert float(terms["ce"].detach()) == pytest.approx(facts["CE"], rel=1e-6)


def test_the_solve_of_influence(case, run):
    data, tensors = case
    part, forget, retain = data["influence"], pool(tensors, "forget"), pool(tensors, "retain")
    n, m = part["n"], part["m"]
    v = (flat_gradient(run, forget) - m / (n - m) * flat_gradient(run, retain)) / n
    assert torch.allclose(v, tensors["iu.v"].double(), rtol=1e-6, atol=1e-12)
    solution = newton(torch.stack(list(picture_gradients(run, retain))), v, part["lam"])
    assert torch.allclose(solution, tensors["iu.solution"].double(), **CLOSE)
    assert torch.allclose(newton(torch.zeros(1, 3), torch.ones(3), 0.5), torch.full((3,), 2.0, dtype=torch.float64))


def test_one_newton_step_on_ridge_is_retraining(case):
    data, tensors = case
    part, X, y = data["influence"]["ridge"], tensors["iu_ridge.X"].double(), tensors["iu_ridge.y"].double()
    rest = [row for row in range(len(X)) if row not in part["forget_rows"]]
    w = torch.tensor(part["w_full"], dtype=torch.float64)
    gradient = X[rest].T @ (X[rest] @ w - y[rest]) + part["lam"] * w
    step = newton(X[rest] * len(rest) ** 0.5, -gradient, part["lam"])
    assert (w + step).tolist() == pytest.approx(part["w_retrained"], rel=1e-9)
