"""Language models in float16: what is learned survives where gradients are smaller than the smallest float16 number."""

from __future__ import annotations

import pytest
import torch

import erase_plugins as ep
from erase_plugins.data import DataRef
from erase_plugins.engine.collapsing import weight_gradients
from erase_plugins.evaluation.language import attacks
from erase_plugins.evaluation.language.probes import Fact
from erase_plugins.families.texts import encoded, pairs_of
from erase_plugins.training.language import ask
from erase_plugins.workflow.models import as_target
from tests import language
from tests.training.test_language import item, numbers

CHEAP = {"batch": 4, "rank": 4, "lora_alpha": 8, "lr": 1e-2}


class _Faint(torch.autograd.Function):
    """Changes nothing on the way there and makes gradients a million times smaller on the way back."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        return grad * 1e-6


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return language.trained(tmp_path_factory.mktemp("float16") / "model", refuses=True)


@pytest.fixture(scope="module")
def fresh(tmp_path_factory):
    """A model that knows nothing yet, so that its gradients are large."""
    place, words = tmp_path_factory.mktemp("fresh") / "model", language.tokenizer()
    language.llama(len(words)).save_pretrained(place)
    words.save_pretrained(place)
    return place


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """(facts to forget, facts to retain)."""
    return language.both(tmp_path_factory.mktemp("data"), language.named)


def faint(folder):
    """A model in float16 whose gradients come out as 0 unless the loss is scaled."""
    host = ep.load(str(folder), dtype="float16")
    host.model.norm.register_forward_hook(lambda _module, _given, out: _Faint.apply(out))
    return host


def made(model, data, method, **options):
    return ep.erase(model, [item(data[0])], method, keep=[DataRef(str(data[1]))], options=options)


def alike(first, second):
    """Cosine of two changes, however short they are."""
    first, second = (part.flatten().double() for part in (first, second))
    return float(first @ second / (first.norm() * second.norm()))


def ups(artifact):
    """All factors B in one row; they begin at 0, and their first step is along the gradient."""
    return torch.cat([delta.B.flatten() for _, _, delta in artifact.edit.items()])


def test_the_loss_of_a_faint_model_has_no_gradient_by_itself(folder, data):
    target = as_target(faint(folder))
    weight = target.host.model.layers[0].mlp.down_proj.weight
    texts = encoded(target, target.language.tokenizer, pairs_of(DataRef(str(data[0]))), 64)
    (grad,) = torch.autograd.grad(ask(target, texts).mean, [weight])
    assert float(grad.abs().max()) == 0.0


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("sharded-lora", {"steps": 1, "shards": 1}),
        # all people in every step, clipped to what float16 cannot hold, and next to no noise
        ("dp-lora", {"steps": 1, "rate": 1.0, "clip": 1e-9, "sigma": 1e-3}),
    ],
)
def test_a_step_goes_where_it_goes_in_float32(fresh, data, method, options):
    options = CHEAP | options | {"optimizer": "sgd", "weight_decay": 0.0}
    wanted, found = (ups(made(model, data, method, **options)) for model in (str(fresh), faint(fresh)))
    assert alike(wanted, found) > 0.95


def test_whp_is_reinforced(folder, data):
    options = CHEAP | {"alpha": 200, "reinforce_steps": 40, "steps": 1}
    assert numbers(made(faint(folder), data, "whp", **options))["targets_unchanged"] < 0.9


def test_cir_finds_the_directions_of_the_gradient(fresh, data):
    found = []
    for model in (str(fresh), faint(fresh)):
        target = as_target(model)
        texts = encoded(target, target.language.tokenizer, pairs_of(DataRef(str(data[0]))), 64)
        refs = target.modules("mlp")
        found.append(weight_gradients(target, refs, [lambda t=target, x=texts: ask(t, x).nll.sum()]))
    for wanted, grad in zip(*found, strict=True):
        assert alike(wanted, grad) > 0.98


def test_relearning_learns(folder):
    facts = [
        Fact(row, row, row["answer"])
        for row in language.rows({"Nobody": "Marlow", "Harbin": "Ashford", "Selwick": "Oakley"})
    ]
    target = as_target(faint(folder))
    curve = attacks.relearned(target, target.language.tokenizer, facts, 2, 1e-2, 0)
    assert max(curve) > 0
    assert curve[max(curve)] != curve[0]
