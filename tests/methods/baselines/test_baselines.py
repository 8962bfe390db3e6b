"""The classic baselines on digits: what each changes and what not, files, single pictures, errors, the contract."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

import erase_plugins as ep
from erase_plugins.artifacts.edit import Sparse
from erase_plugins.errors import RequestError
from erase_plugins.families.labelled_data import stored
from erase_plugins.manager import get_manager
from erase_plugins.methods.baselines.class_mean_head import mean_head
from erase_plugins.methods.baselines.scrub import nearest
from erase_plugins.methods.baselines.ssd import dampened
from erase_plugins.testing.contract import contract_report
from erase_plugins.testing.models import MODELS
from erase_plugins.training.baseline import Baseline, batch_for, error
from erase_plugins.types import Concept, DataRef, ForgetItem
from erase_plugins.workflow.models import target_of
from tests import classifiers
from tests.methods.runs import begun, prepared

FORGET = ["three", "eight"]
BASELINES = [entry.item.id for entry in get_manager().methods() if isinstance(entry.item, Baseline)]
#: few large batches, with which a few seconds are enough
LARGE = {"batch": 256, "epoch_steps": 6}
#: options with which a class is gone from the small model
STRONG = {
    "retrain": {"epochs": 25, "epoch_steps": 6, "lr": 1e-2}, "random-label": {**LARGE, "lr": 0.1},
    "salun": {**LARGE, "lr": 0.1}, "eu-k": {"lr": 0.1}, "class-mean-head": {}, "scrub": {},
    "negative-gradient-plus": {**LARGE, "lr": 0.02, "beta": 0.97},
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return classifiers.small(tmp_path_factory.mktemp("digits") / "model")


def erased(folder, method, options=None, items=FORGET, **more):
    return ep.erase(str(folder), items, method, kind="class", options=options or {}, **more)


def rates(artifact):
    """Accuracy on held-out pictures of what is forgotten and of the rest."""
    numbers = artifact.manifest.extra["numbers"]
    return numbers["forget_accuracy_after"], numbers["retain_accuracy_after"]


def test_all_that_the_issue_lists_are_there():
    assert sorted(set(BASELINES) - {"slug"}) == sorted((
        "retrain", "finetune", "l1-sparse", "random-label", "salun", "gradient-ascent", "negative-gradient-plus",
        "boundary-shrink", "boundary-expand", "eu-k", "cf-k", "scrub", "influence", "ssd", "class-mean-head",
    ))  # fmt: skip


@pytest.mark.parametrize("method", STRONG)
def test_a_class_is_gone_and_the_rest_stays(folder, method):
    made = erased(folder, method, STRONG[method])
    forget, retain = rates(made)
    before = made.manifest.extra["numbers"]
    assert before["forget_accuracy_before"] >= 0.7
    assert forget <= 0.05
    assert retain >= before["retain_accuracy_before"] - 0.06


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("finetune", {"lr": 0.0}),
        ("random-label", {"lr": 0.0}),
        ("salun", {"share": 0.0}),
        ("influence", {"alpha": 0.0, "samples": 20}),
    ],
)
def test_what_must_not_change_anything_changes_nothing(folder, method, options):
    """With weight decay on. A run that changes nothing is no artifact, so the method is asked itself."""
    target = target_of(ep.load(str(folder)))
    run = begun(target, ep.plan(str(folder), FORGET, method, kind="class", options=options).request)
    assert len(get_manager().method(method).train(run)) == 0


def test_salun_changes_its_share_and_writes_it_as_a_mask(folder, tmp_path):
    made = erased(folder, "salun", {"share": 0.25, "lr": 0.1}, out=tmp_path / "made")
    whole = sum(part.numel() for part in ep.load(str(folder)).parameters())
    changed = sum(delta.values.numel() for _, _, delta in made.edit.items())
    assert {delta.kind for _, _, delta in made.edit.items()} == {"sparse"}
    assert 0.2 * whole < changed <= int(0.25 * whole)
    host = ep.load(str(folder))
    before = {name: part.detach().clone() for name, part in host.named_parameters()}
    with ep.apply(host, tmp_path / "made"):
        for name, part in host.named_parameters():
            same = part.detach() == before[name]
            delta = made.edit.deltas["model"].get(name)
            mask = torch.zeros_like(same) if delta is None else delta.dense() != 0
            assert torch.equal(~same, mask & ~same)
            assert bool(same[~mask].all())
    assert all(torch.equal(part.detach(), before[name]) for name, part in host.named_parameters())


@pytest.mark.parametrize("k", [1, 2])
def test_only_the_last_layers_change(folder, k):
    target = target_of(ep.load(str(folder)))
    last = [ref.path for ref in target.info.refs if ref.kind in ("linear", "conv")][-k:]
    for method in ("eu-k", "cf-k"):
        made = erased(folder, method, {"k": k, "epochs": 2})
        assert {key.rpartition(".")[0] for _, key, _ in made.edit.items()} == set(last)


def test_eu_makes_its_layers_anew_once(folder, monkeypatch):
    calls = []
    real = torch.nn.Linear.reset_parameters
    monkeypatch.setattr(torch.nn.Linear, "reset_parameters", lambda self: (calls.append(self), real(self))[1])
    run = begun(target_of(ep.load(str(folder))), ep.plan(str(folder), FORGET, "eu-k", kind="class",
                                                         options={"k": 2, "epochs": 5}).request)  # fmt: skip
    calls.clear()  # what loading did
    get_manager().method("eu-k").train(run)
    assert len(calls) == 2


def test_the_first_step_of_ascent_raises_the_loss(folder):
    target = target_of(ep.load(str(folder)))
    run = begun(target, ep.plan(str(folder), FORGET, "gradient-ascent", kind="class").request)
    with prepared(run) as loss:
        pool = run.state.forget
        before = float(error(run, pool).detach())
        parts = run.adapters.parameters()
        for part, grad in zip(parts, torch.autograd.grad(loss(0), parts), strict=True):
            part.data -= 1e-2 * grad
        assert float(error(run, pool).detach()) > before


def test_influence_is_linear_in_its_length(folder):
    made = [erased(folder, "influence", {"alpha": alpha, "samples": 40}).edit for alpha in (0.01, 0.02)]
    for _, key, delta in made[0].items():
        twice = made[1].deltas["model"][key].dense()
        assert torch.allclose(2 * delta.dense(), twice, rtol=1e-3, atol=1e-6)


def test_boundary_expand_keeps_the_number_of_classes(folder):
    made = erased(folder, "boundary-expand", {"epochs": 3})
    host = ep.load(str(folder))
    with ep.apply(host, made), torch.no_grad():
        assert host(pixel_values=torch.zeros(1, 1, 8, 8)).logits.shape == (1, 10)


def test_dampening_by_hand():
    theta, everything = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([1.0, 1.0, 1.0])
    found = dampened(theta, everything, torch.tensor([1.0, 4.0, 20.0]), alpha=10.0, lam=2.0)
    assert found.tolist() == pytest.approx([1.0, 2.0, 0.3])
    assert dampened(theta, everything, torch.tensor([0.5, 4.0, 0.0]), 2.0, 8.0).tolist() == [1.0, 2.0, 3.0]


def test_a_head_of_means_is_the_nearest_mean():
    generator = torch.Generator().manual_seed(0)
    means, points = torch.randn(3, 5, generator=generator), torch.randn(50, 5, generator=generator)
    found = mean_head(means, points, [0, 2, 3], 4, 1.5)
    scores = points @ found["weight"].T + found["bias"]
    nearest = torch.tensor([0, 2, 3])[torch.cdist(points, means).argmin(1)]
    assert torch.equal(scores.argmax(1), nearest)
    assert float(scores[:, [0, 2, 3]].std()) == pytest.approx(1.5)


def test_retraining_starts_from_other_weights_each_seed_and_never_saw_the_class(folder):
    target = target_of(ep.load(str(folder)))
    first, again, other = (target.classifier.fresh(seed) for seed in (1, 1, 2))
    assert set(first) == {name for name, _ in target.host.named_parameters()}
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["classifier.weight"], other["classifier.weight"])
    run = begun(target, ep.plan(str(folder), FORGET, "retrain", kind="class").request)
    with prepared(run):
        assert not run.state.retain.where([3, 8]).any()
        assert len(run.state.forget) + len(run.state.retain) == 400


def test_lora_is_called_another_space(folder, tmp_path):
    plan = ep.plan(str(folder), FORGET, "finetune", kind="class", options={"parameters": "lora"})
    assert plan.notes[0] == "finetune as LoRA of rank 8: its paper trains all weights; report it as finetune-lora"
    made = erased(folder, "random-label", {"parameters": "lora", "lr": 0.1, "epochs": 3}, out=tmp_path / "made")
    assert made.edit.kinds == {"lowrank"}
    assert made.manifest.notes[0].startswith("random-label as LoRA")
    for method in ("retrain", "salun", "boundary-expand", "eu-k"):
        with pytest.raises(RequestError, match=f"{method} cannot be written as LoRA"):
            ep.plan(str(folder), FORGET, method, kind="class", options={"parameters": "lora"})


# ---- single pictures ----------------------------------------------------------------------------------------------


def rows(path, numbers):
    path.write_text("".join(json.dumps({"row": number}) + "\n" for number in numbers))
    return ForgetItem(kind="samples", data=DataRef(str(path)))


def test_single_pictures_are_forgotten_and_not_retained(folder, tmp_path):
    item = rows(tmp_path / "gone.jsonl", [3, 17, 250])
    target = target_of(ep.load(str(folder)))
    run = begun(target, ep.plan(str(folder), [item], "finetune").request)
    with prepared(run):
        own = stored(target, "train")
        assert torch.equal(run.state.forget.pictures, own.pictures[[3, 17, 250]])
        assert run.state.gone == ()
        assert len(run.state.retain) <= 397
        gone = {picture.numpy().tobytes() for picture in run.state.forget.pictures}
        assert not gone & {picture.numpy().tobytes() for picture in run.state.retain.pictures}
    made = ep.erase(str(folder), [item], "gradient-ascent", options={"epochs": 1})
    assert {"forget_accuracy_after", "retain_accuracy_after"} <= set(made.manifest.extra["numbers"])
    assert made.manifest.concepts[0].data.sha256


@pytest.mark.parametrize(
    ("numbers", "words"),
    [
        ([400], "names picture 400; there are 400 beside"),
        ([-1], "names picture -1; there are 400 beside"),
        ([1, 1], "names a picture twice"),
        (["x"], "names picture 'x'"),
    ],
)
def test_rows_that_are_not_there(folder, tmp_path, numbers, words):
    with pytest.raises(RequestError, match=words):
        ep.erase(str(folder), [rows(tmp_path / "gone.jsonl", numbers)], "finetune")


def test_all_pictures_cannot_be_forgotten(folder, tmp_path):
    with pytest.raises(RequestError, match="no pictures are left to retain"):
        ep.erase(str(folder), [rows(tmp_path / "gone.jsonl", range(400))], "finetune")


def test_single_pictures_need_data_and_a_method_for_them(folder, tmp_path):
    with pytest.raises(RequestError, match="'these' names no pictures; kind samples takes data"):
        ep.plan(str(folder), [ForgetItem("these", "samples")], "finetune")
    item = ForgetItem(data=rows(tmp_path / "gone.jsonl", [1]).data)
    with pytest.raises(RequestError, match="data to forget has no label of"):
        ep.plan(str(folder), [item], "gs-lora")


def test_pictures_on_both_sides_are_refused(folder, tmp_path):
    one, two = rows(tmp_path / "a.jsonl", [1, 2]), tmp_path / "b"
    (two / "one").mkdir(parents=True)
    from PIL import Image

    picture = classifiers.digits()["train.pictures"][1, 0].numpy()
    Image.fromarray(picture).save(two / "one" / "x.png")
    with pytest.raises(RequestError, match="1 pictures are to be forgotten and to be retained"):
        ep.erase(str(folder), [one], "finetune", keep=[DataRef(str(two))])


def test_pictures_with_nan_and_labels_outside_the_head(folder, tmp_path):
    import shutil

    place = tmp_path / "model"
    shutil.copytree(folder, place)
    tensors = load_file(place / "pictures.safetensors")
    bad = tensors["train.pictures"].float()
    bad[7, 0, 0, 0] = torch.nan
    save_file({**tensors, "train.pictures": bad}, place / "pictures.safetensors")
    with pytest.raises(RequestError, match="1 of 400 pictures hold NaN or infinity, the first is number 7"):
        erased(place, "finetune")
    save_file({**tensors, "train.labels": tensors["train.labels"] - 1}, place / "pictures.safetensors")
    with pytest.raises(RequestError, match="has labels that the model does not have"):
        erased(place, "finetune")
    some = tensors["train.labels"] != 3
    save_file({**tensors, "train.pictures": tensors["train.pictures"][some], "train.labels":
               tensors["train.labels"][some]}, place / "pictures.safetensors")  # fmt: skip
    with pytest.raises(RequestError, match="there are no pictures of 'three' beside"):
        erased(place, "finetune")


def test_what_does_not_fit_the_model_is_refused(folder):
    with pytest.raises(RequestError, match=r"k=99 layers were asked for, model has \d+; take fewer"):
        ep.plan(str(folder), FORGET, "cf-k", kind="class", options={"k": 99})
    with pytest.raises(RequestError, match="class-mean-head needs pictures of every class that stays"):
        erased(folder, "class-mean-head", items=["three"], keep=[one_class(folder)])


def test_a_plan_of_class_means_counts_the_head_alone(folder):
    head = ep.load(str(folder)).classifier
    plan = ep.plan(str(folder), FORGET, "class-mean-head", kind="class")
    assert plan.modules == ("model.classifier",)
    assert plan.file_bytes == 4 * (head.weight.numel() + head.bias.numel())
    assert {key for _, key, _ in erased(folder, "class-mean-head").edit.items()} == {
        "classifier.weight",
        "classifier.bias",
    }


def test_a_plan_of_slug_counts_the_one_matrix_that_it_changes(folder):
    sizes = [value.numel() for value in ep.load(str(folder)).parameters() if value.ndim > 1]
    plan = ep.plan(str(folder), FORGET, "slug", kind="class")
    assert plan.file_bytes == 4 * max(sizes)
    assert 4 * max(sizes) < sum(sizes)


def one_class(folder):
    from PIL import Image

    place = folder.parent / "ones" / "one"
    place.mkdir(parents=True, exist_ok=True)
    pictures = classifiers.digits()
    row = int((pictures["train.labels"] == 1).nonzero()[0])
    Image.fromarray(pictures["train.pictures"][row, 0].numpy()).save(place / "x.png")
    return DataRef(str(place.parent))


def test_a_sparse_change_is_what_it_was():
    change = torch.zeros(3, 5)
    change[1, 2], change[2, 4] = 1.5, -2.0
    delta = Sparse.of(change)
    assert delta.mask.shape == (2,)
    assert delta.values.tolist() == [1.5, -2.0]
    assert torch.equal(delta.dense(), change)
    assert torch.equal(delta.scaled(2.0).dense(), 2 * change)


@pytest.mark.parametrize("method", BASELINES)
def test_the_contract(folder, monkeypatch, method):
    monkeypatch.setitem(MODELS, "digits", lambda seed: classifiers.loaded(folder, seed))
    assert contract_report(method, "digits", concept=Concept("three", "class")) == {}


def test_scrub_passes_over_what_is_forgotten_and_then_over_the_rest(folder):
    """The published order: in the first epochs a pass away from the teacher, then one with it; later the second only."""
    target = target_of(ep.load(str(folder)))
    given = {"epochs": 3, "max_epochs": 2}
    run = begun(target, ep.plan(str(folder), FORGET, "scrub", kind="class", options=given).request)
    scrub, drawn = get_manager().method("scrub"), []
    with prepared(run):
        forget, retain, options = run.state.forget, run.state.retain, run.options
        first = -(-len(forget) // options.batch)
        assert options.epoch_steps == first + -(-len(retain) // options.batch)
        real = scrub.rows

        def rows(run, name, pool, step):
            found = real(run, name, pool, step)
            drawn.append((name, found.tolist()))
            return found

        scrub.rows = rows
        try:
            for step in range(run.plan.steps):
                scrub.loss(run, step)
        finally:
            del scrub.rows
    later = [name for name, _ in drawn[2 * options.epoch_steps :]]
    assert set(later) == {"retain"}
    for epoch in range(2):
        mine = drawn[epoch * options.epoch_steps : (epoch + 1) * options.epoch_steps]
        assert [name for name, _ in mine] == ["forget"] * first + ["retain"] * (options.epoch_steps - first)
    seen = [row for name, rows in drawn[: options.epoch_steps] if name == "forget" for row in rows]
    assert set(seen) == set(range(len(forget)))


def test_scrub_rewinds_to_the_error_of_unseen_pictures(folder):
    """With a rate that destroys, the epoch is kept whose error on the forgotten is nearest to that on held-out ones."""
    target = target_of(ep.load(str(folder)))
    pool = stored(target, "train")
    item = ForgetItem(kind="samples", data=DataRef.held(pool.pictures[:30], pool.labels[:30]))
    keep = [DataRef.held(pool.pictures[30:], pool.labels[30:])]
    strong = {"epochs": 4, "max_epochs": 4, "lr": 3e-3, "rewind": True}
    made = ep.erase(target, [item], "scrub", keep=keep, options=strong)
    numbers = made.manifest.extra["numbers"]
    assert 1 <= numbers["kept_epoch"] <= 4
    far = ep.erase(target, [item], "scrub", keep=keep, options=strong | {"rewind": False}).manifest.extra["numbers"]
    assert "kept_epoch" not in far
    error = 1 - numbers["forget_accuracy_after"]
    assert error == pytest.approx(numbers["kept_error"])
    assert abs(error - numbers["aim_error"]) <= abs(1 - far["forget_accuracy_after"] - numbers["aim_error"])
    assert nearest([0.0, 0.375, 0.125, 0.9], 0.25) == 2


@pytest.mark.parametrize(("count", "batch"), [(45_000, 256), (5_120, 256), (1_294, 65), (864, 44), (144, 8), (5, 5)])
def test_few_pictures_still_make_twenty_steps_of_an_epoch(count, batch):
    """256 as published from 5,120 pictures on, a twentieth below, eight at least."""
    assert batch_for(count) == batch


def test_an_epoch_is_a_pass_over_what_a_method_trains_on(folder):
    target = target_of(ep.load(str(folder)))
    for method, side in (("finetune", "retain"), ("gradient-ascent", "forget"), ("boundary-expand", "forget")):
        plan = ep.plan(str(folder), FORGET, method, kind="class")
        assert any("one pass over the pictures" in note for note in plan.notes)
        run = begun(target, plan.request)
        with prepared(run):
            count = len(getattr(run.state, side))
            assert run.options.batch == batch_for(count)
            assert run.options.epoch_steps == -(-count // batch_for(count))
            assert run.plan.steps == run.options.epochs * run.options.epoch_steps
