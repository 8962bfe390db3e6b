"""GS-LoRA on scikit-learn's digits: the specification's numbered tests, files, errors."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
import torch
from PIL import Image

import erase_plugins as ep
from erase_plugins.artifacts.edit import LowRank
from erase_plugins.engine.context import RunContext
from erase_plugins.engine.loop import shuffled
from erase_plugins.errors import RequestError
from erase_plugins.manager import get_manager
from erase_plugins.methods.gs_lora import GSLoRA
from erase_plugins.testing.contract import contract_report
from erase_plugins.testing.models import MODELS
from erase_plugins.training.group_sparse import (
    answers,
    block_of,
    change_norms,
    divergence_from,
    factors,
    group_norms,
    gs_lora_terms,
)
from erase_plugins.training.views import views
from erase_plugins.types import Concept, DataRef, ForgetItem
from erase_plugins.workflow.models import target_of
from tests import classifiers
from tests.methods.runs import begun, prepared

FORGET = ["three", "eight"]
#: the specification's tiny model: s = 1, 60 epochs of about 115 pictures to retain
OPTIONS = {"lora_alpha": 8, "lr": 1e-2, "epochs": 60, "epoch_steps": 3, "alpha": 0.05}
#: the loss as the paper has it
PUBLISHED = {"teacher": 0.0, "bound_on": "batch", "beta": 0.2, "retain_least": 1}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return classifiers.trained(tmp_path_factory.mktemp("digits") / "model")


@pytest.fixture(scope="module")
def made(folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("made") / "artifact"
    return ep.erase(str(folder), FORGET, "gs-lora", kind="class", options=OPTIONS, out=out)


def logits(model, folder):
    pictures = classifiers.digits()["test.pictures"].float() / 127.5 - 1
    with torch.no_grad():
        return model(pixel_values=pictures).logits


def test_two_digits_are_forgotten_and_the_others_stay(folder, made):
    host = ep.load(str(folder))
    labels, before = classifiers.digits()["test.labels"], logits(host, folder)
    gone = (labels == 3) | (labels == 8)
    with ep.apply(host, made):
        right = logits(host, folder).argmax(-1) == labels
    base = (before.argmax(-1) == labels)[gone].float().mean()
    forget, retain = right[gone].float().mean(), right[~gone].float().mean()
    drop = base - forget
    assert forget <= 0.05
    assert retain >= 0.95
    assert 2 * retain * drop / (retain + drop) >= 0.94
    assert torch.equal(logits(host, folder), before)
    numbers = made.manifest.extra["numbers"]
    assert numbers["forget_accuracy_after"] == pytest.approx(float(forget), abs=1e-6)
    assert numbers["retain_accuracy_after"] == pytest.approx(float(retain), abs=1e-6)


_ELSEWHERE = """
import sys, torch, erase_plugins as ep
from tests.methods.test_gs_lora import logits
host = ep.load(sys.argv[1])
with ep.apply(host, ep.load_artifact(sys.argv[2])):
    torch.save(logits(host, sys.argv[1]), sys.argv[3])
"""


def test_a_new_process_finds_the_same_and_the_manifest_says_what_was_done(folder, made, preloaded, tmp_path):
    host = ep.load(str(folder))
    with ep.apply(host, made):
        here = logits(host, folder)
    words = [*preloaded, "-c", _ELSEWHERE, str(folder), str(made.path), str(tmp_path / "logits.pt")]
    subprocess.run(words, check=True, timeout=120, cwd=Path(__file__).parents[2])
    there = torch.load(tmp_path / "logits.pt", weights_only=True)
    assert (there - here).abs().max() < 1e-6
    manifest = ep.load_artifact(made.path).manifest
    assert list(manifest.erased) == FORGET
    assert manifest.options["bound"] == 10.0
    left = {block_of(key) for _, key, _ in made.edit.items()}
    assert set(manifest.extra["switched_off"]) == {f"vit.layers.{number}" for number in range(4)} - left


def test_stock_peft_loads_it(folder, made):
    from peft import PeftModel

    host = ep.load(str(folder))
    with ep.apply(host, made):
        expected = logits(host, folder)
    stock = PeftModel.from_pretrained(ep.load(str(folder)), made.path / "peft_model").eval()
    assert (logits(stock, folder) - expected).abs().max() < 1e-4
    plain = ep.load(str(folder))
    plain.load_adapter(str(made.path / "peft_model"))
    assert (logits(plain, folder) - expected).abs().max() < 1e-4


def test_a_strong_lasso_switches_blocks_off(folder, made):
    given = {**OPTIONS, "alpha": 0.2, **PUBLISHED}
    strong = ep.erase(str(folder), FORGET, "gs-lora", kind="class", options={**given, "off": 0.0})
    sparse = ep.erase(str(folder), FORGET, "gs-lora", kind="class", options=given)
    left = {block_of(key) for _, key, _ in sparse.edit.items()}
    assert len({block_of(key) for _, key, _ in strong.edit.items()}) == 4
    assert 1 <= len(left) <= 3
    assert sparse.manifest.extra["numbers"]["zero_group_ratio"] == pytest.approx(1 - len(left) / 4)
    assert sparse.manifest.extra["switched_off"] == sorted({f"vit.layers.{number}" for number in range(4)} - left)
    host = ep.load(str(folder))
    with ep.apply(host, strong):
        whole = logits(host, folder)
    with ep.apply(host, sparse):
        assert (logits(host, folder) - whole).abs().max() < 1e-2


def test_it_starts_at_the_base_and_trains_lora_only(folder):
    target = target_of(ep.load(str(folder)))
    request = ep.plan(str(folder), FORGET, "gs-lora", kind="class").request
    run = begun(target, request)
    with prepared(run) as loss:
        retain = run.state.retain
        with torch.no_grad():
            found = target.classifier.logits(retain.pictures)
            with run.adapters.disabled():
                assert torch.equal(found, target.classifier.logits(retain.pictures))
        loss(0).backward()
        assert all(part.grad is None for part in target.host.parameters())
        assert any(part.grad is not None and bool(part.grad.any()) for part in run.adapters.parameters())
        reach = [(part.shape[1] ** -0.5, float(part.detach().abs().max())) for name, part in
                 run.adapters.named_parameters().items() if name.endswith(".A")]  # fmt: skip
        assert all(0.8 * bound < most <= bound for bound, most in reach)


def test_the_lasso_begins_after_the_warm_up(folder):
    target = target_of(ep.load(str(folder)))
    losses = []
    for alpha in (0.0, 10.0):
        options = {"alpha": alpha, "warmup": 20, "epochs": 30, "epoch_steps": 2}
        run = begun(target, ep.plan(str(folder), FORGET, "gs-lora", kind="class", options=options).request,
                    ctx=RunContext("gs-lora"))  # fmt: skip
        with prepared(run) as loss:
            losses.append([float(loss(step).detach()) for step in (0, 39, 40)])
    assert losses[0][:2] == losses[1][:2]
    assert losses[1][2] > losses[0][2] + 1


def test_terms():
    scores, labels = torch.randn(6, 4, dtype=torch.float64, requires_grad=True), torch.tensor([0, 1, 2, 3, 0, 1])
    plain = torch.nn.functional.cross_entropy(scores, labels)
    (ce,) = torch.autograd.grad(plain, scores)
    high = gs_lora_terms(scores, labels, scores, labels, {}, float(plain.detach()) - 0.1)["forget"]
    assert float(high.detach()) == 0.0
    assert not torch.autograd.grad(high, scores)[0].any()
    low = gs_lora_terms(scores, labels, scores, labels, {}, 50.0)["forget"]
    assert torch.allclose(torch.autograd.grad(low, scores)[0], -ce)
    parts = [torch.full((2, 3), 2.0), torch.full((4, 1), 1.0)]
    (norm,) = group_norms({"block": parts})
    assert float(norm) == pytest.approx(28**0.5)
    assert float(group_norms({"block": [2 * part for part in parts]})[0]) == pytest.approx(2 * 28**0.5)
    zero = torch.zeros(3, 3, requires_grad=True)
    assert torch.isfinite(torch.autograd.grad(group_norms({"block": [zero]})[0], zero)[0]).all()


def test_every_picture_has_to_reach_the_bound():
    """One that is far away does not pay for one that is still known, as it does in the published mean of a batch."""
    scores, labels = torch.tensor([[0.0, 40.0], [40.0, 0.0]]), torch.tensor([0, 0])  # cross-entropies 40 and 0
    found = {name: float(gs_lora_terms(scores, labels, scores, labels, {}, 10.0, name)["forget"])
             for name in ("batch", "picture")}  # fmt: skip
    assert found == {"batch": 0.0, "picture": pytest.approx(5.0)}


def test_what_a_model_would_say_that_never_knew_the_classes():
    scores = torch.tensor([[2.0, 1.0, 0.0], [50.0, 0.0, 1.0]], dtype=torch.float64, requires_grad=True)
    found = answers(scores.detach(), [0])
    e = torch.tensor([1.0, 0.0], dtype=torch.float64).exp()
    assert torch.allclose(found, torch.stack([torch.cat([torch.zeros(1), e / e.sum()]),
                                              torch.cat([torch.zeros(1), e.flip(0) / e.sum()])]))  # fmt: skip
    wanted = torch.tensor([[0.0, 0.25, 0.75]], dtype=torch.float64)
    said = scores[:1].softmax(-1)[0]
    by_hand = 0.25 * (0.25 / said[1]).log() + 0.75 * (0.75 / said[2]).log()
    (loss,) = divergence_from(wanted, scores[:1])
    assert float(loss.detach()) == pytest.approx(float(by_hand.detach()))
    assert torch.isfinite(torch.autograd.grad(loss, scores)[0]).all()
    assert divergence_from(found, found.clamp(min=1e-30).log()).tolist() == pytest.approx([0.0, 0.0])


@pytest.mark.parametrize(("options", "each"), [({}, 10), ({"retain_least": 3}, 3), ({"retain_share": 1.0}, None)])
def test_a_small_share_leaves_some_pictures_of_each_class(folder, options, each):
    target = target_of(ep.load(str(folder)))
    given = {"retain_share": 0.001} | options
    run = begun(target, ep.plan(str(folder), FORGET, "gs-lora", kind="class", options=given).request)
    with prepared(run):
        counts = run.state.retain.labels.bincount(minlength=10).tolist()
    known = classifiers.digits()["train.labels"].bincount().tolist()
    assert counts == [0 if number in (3, 8) else each or known[number] for number in range(10)]


def test_the_loss_by_hand_and_as_published(folder):
    """The sum of the module's docstring over the rows of a step, from the plain network; teacher=0 is the paper's."""
    target = target_of(ep.load(str(folder)))
    ce = torch.nn.functional.cross_entropy
    for options in ({"teacher": 0.0, "bound_on": "batch"}, {"teacher": 2.0, "beta": 0.3}):
        given = {"warmup": 0, "alpha": 0.1, "views": 0} | options
        run = begun(target, ep.plan(str(folder), FORGET, "gs-lora", kind="class", options=given).request)
        with prepared(run) as loss:
            with torch.no_grad():
                for part in run.adapters.parameters():
                    part.add_(0.05)
            own, sets = run.state.own, run.state
            assert own.prefix is not None
            found = loss(5)
            retain, forget = (
                pool[shuffled(run.ctx, name, len(pool), 48, 5)]
                for name, pool in (("retain", sets.retain), ("forget", sets.forget))
            )
            said = [target.classifier.logits(part.pictures) for part in (retain, forget)]
            with run.adapters.disabled():
                before = [target.classifier.logits(part.pictures) for part in (retain, forget)]
            lasso = sum(sum(part.square().sum() for part in parts).sqrt() for parts in factors(run.adapters).values())
            each = ce(said[1], forget.labels, reduction="none")
            push = (10 - each.mean()).relu() if run.options.bound_on == "batch" else (10 - each).relu().mean()
            wanted = ce(said[0], retain.labels) + run.options.beta * push + 0.1 * lasso
            for new, old in zip(said, before, strict=True):
                rest = [number for number in range(10) if number not in (3, 8)]
                p = old[:, rest].softmax(-1)
                wanted = wanted + run.options.teacher * (p * (p.log() - new.log_softmax(-1)[:, rest])).sum(-1).mean()
            assert float(found.detach()) == pytest.approx(float(wanted.detach()), rel=1e-5)


def test_other_views_have_the_answers_of_the_model_and_no_label(folder):
    target = target_of(ep.load(str(folder)))
    given = {"warmup": 99, "beta": 0.0, "teacher": 1.0, "views": 3}
    run = begun(target, ep.plan(str(folder), FORGET, "gs-lora", kind="class", options=given).request)
    with prepared(run) as loss:
        own, once = run.state.own, len(run.state.retain) + len(run.state.forget)
        assert len(own.pool) == 4 * once
        assert torch.equal(own.pool.pictures[once : 2 * once], own.pool.pictures[:once].flip(-1))
        with torch.no_grad():
            said = target.classifier.logits(own.pool.pictures[once:])
        rest = [number for number in range(10) if number not in (3, 8)]
        assert torch.allclose(own.wanted[once:][:, rest], said[:, rest].softmax(-1), atol=1e-5)
        kept = loss(0)
        own.pool.labels[once:] = 0  # what stands there for other views of what is retained is not looked at
        assert torch.equal(loss(0), kept)


def test_views_of_pictures():
    pictures = torch.rand(5, 3, 20, 20, generator=torch.Generator().manual_seed(1))
    mirrored, moved, both = views(pictures, 3, torch.Generator().manual_seed(0))
    assert torch.equal(mirrored, pictures.flip(-1))
    steps = [(down, right) for down in range(-2, 3) for right in range(-2, 3)]
    for source, found in ((pictures, moved), (mirrored[3:], both[3:])):
        for old, new in zip(source, found, strict=True):  # the inside is the same, up to two pixels away
            assert any(torch.equal(new[:, 2:18, 2:18], old[:, 2 + y : 18 + y, 2 + x : 18 + x]) for y, x in steps)
    assert not any(torch.equal(new, old) for new, old in zip(both[:3], mirrored[:3], strict=True))
    low, high = pictures.amin((2, 3)).amin(0), pictures.amax((2, 3)).amax(0)
    assert bool(((both.amin((2, 3)) >= low) & (both.amax((2, 3)) <= high)).all())


def test_blocks_and_their_changes():
    assert block_of("vit.layers.11.mlp.fc1.weight") == "vit.layers.11"
    assert block_of("swin.encoder.layers.0.blocks.1.mlp.fc2") == "swin.encoder.layers.0.blocks.1"
    delta = LowRank(torch.tensor([[3.0]]), torch.tensor([[1.0]]))
    assert change_norms([("a.0.x", delta), ("a.0.y", LowRank(torch.tensor([[4.0]]), torch.tensor([[1.0]])))]) == {
        "a.0": 5
    }


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"concepts": list(classifiers.NAMES)}, "all 10 labels of model would be forgotten"),
        ({"concepts": ["eigth"]}, "no label of model named 'eigth'; did you mean 'eight'"),
        ({"concepts": ["one"], "keep": ["one"]}, "both erased and kept: one"),
        ({"concepts": ["one"], "to": "two"}, r"takes no to= \(one\)"),
        ({"concepts": ["one"], "options": {"bound": 0}}, "bound=0 would never push"),
        ({"concepts": ["one"], "options": {"parameters": "full"}}, "a method of LoRA"),
    ],
    ids=["everything", "unknown", "overlap", "anchor", "bound", "full"],
)
def test_what_cannot_be_is_refused_when_planned(folder, given, words):
    with pytest.raises(RequestError, match=words):
        ep.plan(str(folder), given.pop("concepts"), "gs-lora", **given)


def test_pictures_of_the_request(folder, tmp_path):
    pictures = classifiers.digits()
    for name, number in (("three", 3), ("one", 1), ("two", 2)):
        (tmp_path / name).mkdir()
        rows = (pictures["train.labels"] == number).nonzero()[:6, 0].tolist()
        for row in rows:
            Image.fromarray(pictures["train.pictures"][row, 0].numpy()).save(tmp_path / name / f"{row}.png")
    host = ep.load(str(folder))
    host.name_or_path = host.config._name_or_path = ""  # a live module with nothing beside it
    item = ForgetItem(label="three", kind="class", data=DataRef(str(tmp_path / "three")))
    with pytest.raises(RequestError, match="no pictures beside model to retain"):
        ep.erase(host, [item], "gs-lora")
    with pytest.raises(RequestError, match="6 pictures to retain have a label that is to be forgotten"):
        ep.erase(host, [item], "gs-lora", keep=[DataRef(str(tmp_path))])
    with pytest.raises(RequestError, match="there are no pictures of 'four' beside model"):
        ep.erase(host, ["four"], "gs-lora", kind="class", keep=[DataRef(str(tmp_path))])
    (tmp_path / "others").mkdir()
    for name in ("one", "two"):
        (tmp_path / name).rename(tmp_path / "others" / name)
    made = ep.erase(host, [item], "gs-lora", keep=[DataRef(str(tmp_path / "others"))], options={"epochs": 2})
    assert made.manifest.concepts[0].data.sha256
    assert str(tmp_path) not in json.dumps(made.manifest.to_dict())


def test_the_contract(folder, monkeypatch):
    monkeypatch.setitem(MODELS, "digits", lambda seed: classifiers.loaded(folder, seed))
    assert isinstance(get_manager().method("gs-lora"), GSLoRA)
    assert contract_report("gs-lora", "digits", concept=Concept("three", "class")) == {}
