"""GS-LoRA++ on digits: prototypes, few pictures, a chain of requests, one of them taken back, wrong parents."""

from __future__ import annotations

import json

import pytest
import torch

import erase_plugins as ep
from erase_plugins.artifacts.lineage import CHAIN, edit_hash, needs
from erase_plugins.errors import ArtifactError, BaseMismatch, RequestError, UnknownName
from erase_plugins.families.labelled_data import stored
from erase_plugins.methods.gs_lora_plus import prototypes
from erase_plugins.testing.contract import contract_report
from erase_plugins.testing.models import MODELS
from erase_plugins.training.group_sparse import block_of
from erase_plugins.types import Concept
from erase_plugins.workflow.models import target_of
from tests import classifiers
from tests.methods.runs import begun, prepared

#: s = 1 and few epochs, enough for the small model
OPTIONS = {"lora_alpha": 8, "epochs": 40, "epoch_steps": 3, "alpha": 0.01, "warmup": 10, "beta": 0.3}
TASKS = ("three", "eight", "one", "six")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return classifiers.small(tmp_path_factory.mktemp("digits") / "model", train=1000)


def task(folder, name, out, parents=(), **options):
    parent = {"parent": ",".join(map(str, parents))} if parents else {}
    return ep.erase(
        str(folder), [name], "gs-lora-plus", kind="class", out=out, options={**OPTIONS, **parent, **options}
    )


@pytest.fixture(scope="module")
def chain(folder, tmp_path_factory):
    """Four requests, one after the other."""
    place, made = tmp_path_factory.mktemp("chain"), []
    for name in TASKS:
        made.append(task(folder, name, place / name, [item.path for item in made]))
    return made


def right(host):
    """Which held-out pictures get the right label, and their labels."""
    pictures = classifiers.digits()
    rows = slice(0, 120)
    with torch.no_grad():
        found = host(pixel_values=pictures["test.pictures"][rows].float() / 127.5 - 1).logits
    return found.argmax(-1) == pictures["test.labels"][rows], pictures["test.labels"][rows], found


def test_a_chain_of_four_forgets_all_of_them(folder, chain):
    host = ep.load(str(folder))
    base, labels, _ = right(host)
    gone = torch.isin(labels, torch.tensor([3, 8, 1, 6]))
    with ep.apply(host, chain[0]), ep.apply(host, chain[1]), ep.apply(host, chain[2]), ep.apply(host, chain[3]):
        found, _, _ = right(host)
    assert found[torch.isin(labels, torch.tensor([3, 8, 1]))].float().mean() <= 0.10  # Acc_o
    assert found[labels == 6].float().mean() <= 0.10
    assert found[~gone].float().mean() >= base[~gone].float().mean() - 0.06
    numbers = chain[3].manifest.extra["numbers"]
    assert numbers["earlier_accuracy_after"] <= 0.10
    facts = chain[3].manifest.extra[CHAIN]
    assert facts["task"] == 3
    assert facts["needs"] == [edit_hash(item.edit) for item in chain[:3]]
    assert facts["forgotten"] == ["three", "eight", "one"]
    assert str(folder.parent) not in json.dumps(chain[3].manifest.to_dict())


def test_merged_is_the_base_with_the_factors_side_by_side(folder, chain, tmp_path):
    merged = ep.merge([item.path for item in chain])
    assert merged.edit.rank == 32
    host = ep.load(str(folder))
    with ep.apply(host, merged):
        whole = right(host)[2]
    by_hand = ep.load(str(folder))
    weights = dict(by_hand.named_parameters())
    for item in chain:
        for _, key, delta in item.edit.items():
            weights[key].data += delta.B @ delta.A
    assert (right(by_hand)[2] - whole).abs().max() < 1e-5
    saved = merged.save(tmp_path / "merged")
    from peft import PeftModel

    stock = PeftModel.from_pretrained(ep.load(str(folder)), saved.path / "peft_model").eval()
    assert (right(stock)[2] - whole).abs().max() < 1e-4
    assert needs(merged.manifest) == ()
    assert merged.manifest.extra[CHAIN]["holds"] == [edit_hash(item.edit) for item in chain]


def test_switched_off_blocks_of_a_chain_stay_out_of_the_merged_file(tmp_path):
    """The file of a task holds some blocks only; merged they are the base with the factors of both side by side."""
    folder = classifiers.save(classifiers.vit(width=16), tmp_path / "model", classifiers.digits())
    few = {"epochs": 6, "warmup": 0, "lr": 2e-2, "off": 0.99}
    first = task(folder, "three", tmp_path / "one", **few)
    second = task(folder, "eight", tmp_path / "two", [first.path], **few)
    blocks = {f"vit.layers.{number}" for number in range(4)}
    for made in (first, second):
        left = {block_of(key) for _, key, _ in made.edit.items()}
        assert left < blocks
        assert made.manifest.extra["numbers"]["zero_group_ratio"] == pytest.approx(1 - len(left) / 4)
    merged = ep.merge([first.path, second.path])
    beside: dict[str, list[tuple[torch.Tensor, torch.Tensor]]] = {}
    for made in (first, second):
        for _, key, delta in made.edit.items():
            beside.setdefault(key, []).append((delta.A, delta.B))
    assert {key for _, key, _ in merged.edit.items()} == set(beside)
    host, by_hand = ep.load(str(folder)), ep.load(str(folder))
    for key, parts in beside.items():
        A, B = (torch.cat([part[place] for part in parts], dim=place).double() for place in (0, 1))
        by_hand.get_submodule(key.removesuffix(".weight")).register_forward_hook(
            lambda _module, args, out, A=A, B=B: out + args[0] @ A.T @ B.T
        )
    pictures = classifiers.digits()["test.pictures"][:120].double() / 127.5 - 1
    with torch.no_grad():
        base = host.double()(pixel_values=pictures).logits
        wanted = by_hand.double()(pixel_values=pictures).logits
        with ep.apply(host, merged):
            found = host(pixel_values=pictures).logits
    assert (found - wanted).abs().max() < 1e-5
    assert (found - base).abs().max() > 0.01


def test_a_later_task_needs_those_before_it(folder, chain):
    host = ep.load(str(folder))
    with pytest.raises(BaseMismatch, match="trained on top of 1 other artifacts, and 1 of them are not in force"):
        ep.apply(host, chain[1])
    with ep.apply(host, ep.merge([chain[0], chain[1]])), ep.apply(host, chain[2]):
        pass
    with ep.apply(host, chain[0]), pytest.raises(BaseMismatch, match="trained on top of 2 other"):
        ep.apply(host, chain[2])


def test_one_of_three_users_takes_the_request_back(folder, chain):
    """The others stay forgotten; that digit is known again."""
    host = ep.load(str(folder))
    base, labels, _ = right(host)
    handles = [ep.apply(host, item) for item in chain[:3]]
    handles[1].remove()
    found, _, _ = right(host)
    assert found[(labels == 3) | (labels == 1)].float().mean() <= 0.10
    assert found[labels == 8].float().mean() >= 0.5 * base[labels == 8].float().mean()
    rest = ~torch.isin(labels, torch.tensor([3, 8, 1]))
    assert found[rest].float().mean() >= base[rest].float().mean() - 0.10
    whole = right(host)[2]
    for handle in (handles[0], handles[2]):
        handle.remove()
    without = ep.merge([chain[0], chain[2]])
    assert "was trained on top of others that are not in it" in without.manifest.notes[-1]
    with ep.apply(host, without):
        assert (right(host)[2] - whole).abs().max() < 1e-5


@pytest.mark.parametrize("case", ["left out", "other order", "no artifact", "another model", "again", "damaged"])
def test_wrong_parents(folder, chain, tmp_path, case):
    if case == "left out":
        with pytest.raises(ArtifactError, match=r"wrong parent: .* not named before it"):
            task(folder, "two", tmp_path / "x", [chain[1].path])
    elif case == "other order":
        with pytest.raises(ArtifactError, match="wrong parent"):
            task(folder, "two", tmp_path / "x", [chain[1].path, chain[0].path])
    elif case == "no artifact":
        with pytest.raises(ArtifactError):
            task(folder, "two", tmp_path / "x", [tmp_path / "nothing"])
    elif case == "another model":
        other = classifiers.save(classifiers.vit(width=16, layers=1, seed=5), tmp_path / "m", classifiers.digits())
        with pytest.raises(ArtifactError, match=r"wrong parent: .* was made for another model"):
            task(other, "two", tmp_path / "x", [chain[0].path])
    elif case == "again":
        with pytest.raises(RequestError, match="'three' is forgotten by 'erase_three' already"):
            task(folder, "three", tmp_path / "x", [chain[0].path])
    else:
        import shutil

        place = tmp_path / "copy"
        shutil.copytree(chain[0].path, place)
        file = place / "edit.safetensors"
        file.write_bytes(file.read_bytes()[:-1] + b"\x7f")
        with pytest.raises(ArtifactError, match=r"edit\.safetensors"):
            task(folder, "two", tmp_path / "x", [place])
    assert not (tmp_path / "x").exists()


def test_prototypes_are_means_of_the_model_before(folder, chain):
    target = target_of(ep.load(str(folder)))
    request = ep.plan(str(folder), ["two"], "gs-lora-plus", kind="class",
                      options={"parent": str(chain[0].path)}).request  # fmt: skip
    own = stored(target, "train")
    run = begun(target, request)
    with prepared(run):
        table, forget = run.state.own.prototypes, run.state.forget
        assert not run.state.retain.where([2, 3]).any()
    with ep.apply(target.host, chain[0]), torch.no_grad():
        seen = target.classifier.features(own.pictures[own.labels == 2])
    assert len(forget) == len(seen)
    assert torch.allclose(table[2], seen.mean(0), atol=1e-5)
    with torch.no_grad():
        plain = target.classifier.features(own.pictures[own.labels == 2]).mean(0)
        empty = classifiers.vit(width=16, layers=1, seed=3)
        raw = target_of(empty).classifier.features(own.pictures[own.labels == 2]).mean(0)
    assert not torch.allclose(table[2], plain, atol=1e-3)
    assert not torch.allclose(plain, raw, atol=1e-2)
    assert torch.isnan(table[3]).all()


def test_a_mean_by_class():
    found = prototypes(torch.tensor([[1.0], [3.0], [5.0]]), torch.tensor([0, 0, 2]), 3)
    assert found[[0, 2]].tolist() == [[2.0], [5.0]]
    assert torch.isnan(found[1]).all()


def test_few_pictures(folder):
    """Four shots: at least as good as without prototypes, over three seeds."""
    few = {**OPTIONS, "epochs": 30, "shots": 4, "batch": 8}
    scores = {}
    for method in ("gs-lora", "gs-lora-plus"):
        total = 0.0
        for seed in range(3):
            made = ep.erase(str(folder), ["three", "eight"], method, kind="class", options=few, seed=seed)
            numbers = made.manifest.extra["numbers"]
            drop = numbers["forget_accuracy_before"] - numbers["forget_accuracy_after"]
            kept = numbers["retain_accuracy_after"]
            total += 2 * kept * drop / (kept + drop)
        scores[method] = total / 3
    assert scores["gs-lora-plus"] >= scores["gs-lora"] - 1e-9


def test_shots_and_classes_that_are_not_there(folder):
    with pytest.raises(RequestError, match=r"shots=5000, but there are \d+ pictures of '\w+'; take fewer"):
        ep.erase(str(folder), ["three"], "gs-lora-plus", kind="class", options={"shots": 5000})
    with pytest.raises(UnknownName, match="no label of model named 'elf'"):
        ep.erase(str(folder), ["three"], "gs-lora-plus", kind="class", options={"missing": "elf"})
    with pytest.raises(RequestError, match="bound_p=0 would never push"):
        ep.plan(str(folder), ["three"], "gs-lora-plus", kind="class", options={"bound_p": 0})


def test_classes_without_pictures_to_retain(folder):
    made = ep.erase(str(folder), ["three"], "gs-lora-plus", kind="class",
                    options={**OPTIONS, "epochs": 3, "missing": "one, two"})  # fmt: skip
    numbers = made.manifest.extra["numbers"]
    assert {"missing_accuracy_before", "missing_accuracy_after"} <= set(numbers)
    target = target_of(ep.load(str(folder)))
    run = begun(target, ep.plan(str(folder), ["three"], "gs-lora-plus", kind="class",
                                options={"missing": "one, two"}).request)  # fmt: skip
    with prepared(run):
        assert not run.state.retain.where([1, 2, 3]).any()


def test_the_contract(folder, monkeypatch):
    monkeypatch.setitem(MODELS, "digits", lambda seed: classifiers.loaded(folder, seed))
    assert contract_report("gs-lora-plus", "digits", concept=Concept("three", "class")) == {}
