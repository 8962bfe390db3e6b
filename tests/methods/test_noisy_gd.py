"""Noisy gradient descent on a classifier's head: file, certificate, ledger, refusals. Noise with a seed is for tests."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import erase_plugins as ep
from erase_plugins.artifacts import chain
from erase_plugins.errors import CorruptArtifact, PushRefused, RequestError, Unsupported
from erase_plugins.families.labelled_data import stored
from erase_plugins.records.certificate import verify
from erase_plugins.records.head import Head
from erase_plugins.records.release import check_push, erase_before_push
from erase_plugins.records.store import Records
from erase_plugins.testing.contract import contract_report
from erase_plugins.testing.models import MODELS
from erase_plugins.types import Concept, DataRef, ForgetItem
from erase_plugins.workflow.models import target_of
from tests import classifiers

OPTIONS = {"rank": 8, "lam": 0.05, "rho_dp": 2.0, "steps": 60}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return classifiers.small(tmp_path_factory.mktemp("digits") / "model")


def item(place, numbers):
    place.write_text("".join(json.dumps({"row": number}) + "\n" for number in numbers))
    return ForgetItem(kind="record", data=DataRef(str(place)))


def deleted(folder, place, numbers, out=None, **options):
    return ep.erase(str(folder), [item(place, numbers)], "noisy-gd", options={**OPTIONS, **options}, out=out)


def logits(host):
    with torch.no_grad():
        return host(pixel_values=classifiers.digits()["test.pictures"][:120].float() / 127.5 - 1).logits


def test_a_run_is_a_release_with_a_certificate(folder, tmp_path):
    made = deleted(folder, tmp_path / "gone.jsonl", [4, 9], tmp_path / "made")
    found = made.manifest.certificate
    assert found.certified
    assert found.numbers[0][0] == "rho_adaptive"
    assert 0 < found.numbers[0][1] <= 2.0 / 100 + 1e-9  # nothing was published before
    data = verify(tmp_path / "made")
    assert data["certified"]
    assert data["weights"]
    assert data["rho_adaptive"] == pytest.approx(found.numbers[0][1])
    assert len(data["records"]) == 2
    check_push(tmp_path / "made", "owner/name", dry_run=True)
    bundle = SimpleNamespace(artifact=ep.load_artifact(tmp_path / "made"), dry_run=True)
    erase_before_push(bundle=bundle, destination="owner/name")
    other = replace(bundle.artifact, edit=bundle.artifact.edit.scaled(1.01))
    with pytest.raises(PushRefused, match="not the head that the ledger released"):
        erase_before_push(bundle=SimpleNamespace(artifact=other, dry_run=True), destination="owner/name")
    again = ep.load_artifact(tmp_path / "made")
    host = ep.load(str(folder))
    before = logits(host)
    with ep.apply(host, again):
        after = logits(host)
    assert torch.equal(logits(host), before)
    assert made.edit.kinds == {"lowrank"}
    from peft import PeftModel

    stock = PeftModel.from_pretrained(ep.load(str(folder)), tmp_path / "made" / "peft_model").eval()
    assert (logits(stock) - after).abs().max() < 1e-4
    numbers = made.manifest.extra["numbers"]
    labels = classifiers.digits()["test.labels"][:120]
    assert numbers["accuracy_after"] == pytest.approx(float((after.argmax(-1) == labels).double().mean()), abs=1e-6)


def test_the_released_head_is_the_edit(folder, tmp_path):
    deleted(folder, tmp_path / "gone.jsonl", [4], tmp_path / "made")
    target = target_of(ep.load(str(folder)))
    part = stored(target, "test")
    with torch.no_grad():
        features, base = (item.double() for item in target.classifier.read(part.pictures))
        with ep.apply(target.host, tmp_path / "made"):
            after = target.classifier.logits(part.pictures).double()
    change = Head.read(tmp_path / "made").logits(features.numpy())
    assert np.abs((after - base).numpy() - change).max() < 1e-5


def test_no_row_is_shortened(folder):
    target = target_of(ep.load(str(folder)))
    bound = target.classifier.longest()
    with torch.no_grad():
        pictures = 100 * torch.randn(50, 1, 8, 8, generator=torch.Generator().manual_seed(0))
        lengths = target.classifier.features(pictures).norm(dim=1)
    assert float(lengths.max()) <= bound
    from transformers import ResNetConfig, ResNetForImageClassification

    small = ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], num_labels=3, layer_type="basic")
    other = target_of(ResNetForImageClassification(small).eval())
    with pytest.raises(Unsupported, match="nothing bounds the features"):
        other.classifier.longest()


def test_a_ledger_goes_on_and_its_budget_ends(folder, tmp_path):
    place = tmp_path / "head"
    options = {"ledger": str(place), "max_releases": 2}
    first = deleted(folder, tmp_path / "a.jsonl", [1], **options)
    second = deleted(folder, tmp_path / "b.jsonl", [2, 3], tmp_path / "made", **options)
    assert len(Records.open(place).ids()) == 397
    entries = chain.read(place / "ledger.jsonl")
    assert [dict(entry) for entry in second.manifest.records] == entries
    assert (
        dict(second.manifest.certificate.numbers)["rho_adaptive"]
        > dict(first.manifest.certificate.numbers)["rho_adaptive"]
    )
    assert str(tmp_path) not in json.dumps(second.manifest.to_dict())
    assert second.manifest.options["ledger"] == "head"
    with pytest.raises(RequestError, match="record 0 of those to delete is not in this head"):
        deleted(folder, tmp_path / "b.jsonl", [2], **options)
    with pytest.raises(RequestError, match=r"made with lam 0\.05, now it is 0\.2"):
        deleted(folder, tmp_path / "c.jsonl", [5], **{**options, "lam": 0.2})
    with pytest.raises(PushRefused, match="release 3 of 2"):
        deleted(folder, tmp_path / "c.jsonl", [5], **options)


def test_what_was_changed_is_not_pushed(folder, tmp_path):
    deleted(folder, tmp_path / "gone.jsonl", [4], tmp_path / "made")
    for name in ("ledger.jsonl", "head.safetensors"):
        copy = tmp_path / f"bad {name}"
        shutil.copytree(tmp_path / "made", copy)
        content = bytearray((copy / name).read_bytes())
        content[-10] ^= 1
        (copy / name).write_bytes(content)
        with pytest.raises(CorruptArtifact):
            verify(copy)
        with pytest.raises(PushRefused):
            check_push(copy, "owner/name", dry_run=True)


def test_noise_with_a_seed_has_no_certificate(folder, tmp_path):
    made = deleted(folder, tmp_path / "gone.jsonl", [4], tmp_path / "made", test_seed=3)
    assert not made.manifest.certificate.certified
    assert "drawn again" in made.manifest.certificate.reasons[0]
    assert not made.manifest.records
    with pytest.raises(PushRefused, match="cannot be checked"):
        erase_before_push(bundle=SimpleNamespace(artifact=made), destination="owner/name")


def test_what_is_no_record_is_refused(folder, tmp_path):
    with pytest.raises(RequestError, match="'three' is none; give data without a label"):
        ep.plan(str(folder), [ForgetItem("three", "object")], "noisy-gd")
    with pytest.raises(RequestError, match="'these' names no records"):
        ep.plan(str(folder), [ForgetItem("these", "record")], "noisy-gd")
    with pytest.raises(RequestError, match="rank=99 is above the 16 features"):
        ep.plan(str(folder), [item(tmp_path / "a.jsonl", [1])], "noisy-gd", options={"rank": 99})
    with pytest.raises(RequestError, match="rho_dd=3 is above rho_dp=2"):
        ep.plan(str(folder), [item(tmp_path / "a.jsonl", [1])], "noisy-gd", options={**OPTIONS, "rho_dd": 3.0})


def test_the_contract(folder, tmp_path, monkeypatch):
    monkeypatch.setitem(MODELS, "digits", lambda seed: classifiers.loaded(folder, seed))
    concept: Concept = item(tmp_path / "gone.jsonl", [4, 9])
    assert contract_report("noisy-gd", "digits", concept=concept) == {}
