"""An attack on classifiers in a package of somebody else, on the edit of another such package."""

from __future__ import annotations

import json
from contextlib import ExitStack

import pytest
import torch

import erase_plugins as ep
from erase_plugins.errors import RequestError, Unsupported
from erase_plugins.evaluation.attack import run_attack
from erase_plugins.evaluation.run import Subject
from erase_plugins.manager import get_manager
from erase_plugins.testing import measuring
from erase_plugins.testing.models import MODELS
from erase_plugins.workflow.measure import open_subject
from tests.outside import erase_noise_attack, erase_vit


@pytest.fixture(autouse=True)
def packages(monkeypatch):
    monkeypatch.setitem(MODELS, "tiny-vit", erase_vit.build)
    with ExitStack() as stack:
        for package in (erase_vit, erase_noise_attack):
            stack.enter_context(get_manager().temporary(package, package.__name__))
        yield


@pytest.fixture(scope="module")
def made():
    with get_manager().temporary(erase_vit, "erase-vit"):
        return ep.erase(erase_vit.build(), ["owl"], "unlabel")


def runner():
    return get_manager().evaluator("find-noise", "attack")


def test_it_brings_the_label_back_and_leaves_the_model_alone(made, tmp_path):
    host = erase_vit.build()
    before = {name: part.clone() for name, part in host.state_dict().items()}
    subject = open_subject(host, [made], runner())
    report = run_attack(runner(), lambda: subject, 120, settings={"size": 2.0}, out=tmp_path / "out")
    assert report.success.value > report.control.value + 0.3
    assert report.queries == subject.queries <= 120
    assert json.loads((tmp_path / "out" / "found.json").read_text())["size"] == 2.0
    assert all(torch.equal(part, before[name]) for name, part in host.state_dict().items())


def test_a_classifier_is_asked_with_the_edit_on_off_and_destroyed(made):
    host = erase_vit.build()
    subject = open_subject(host, [made], runner())
    assert isinstance(subject, Subject)
    assert (subject.modality, subject.erased, subject.judge) == ("logits", ["owl"], None)
    batch = torch.randn(6, 3, 8, 8, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        base = host(pixel_values=batch).logits
    on, off, destroyed = (subject.generate(batch, edit=edit) for edit in ("on", "off", "destroyed"))
    assert torch.equal(off, base)
    assert on.shape == destroyed.shape == (6, 4)
    assert not torch.equal(on, base)
    assert not torch.allclose(destroyed, base, atol=0.1)
    assert torch.equal(subject.generate(batch, edit="on", strength=0.0), base)
    assert subject.queries == 4 * 6


def test_what_does_not_fit_is_named(made):
    words = r"find-noise needs classifier; pocket \(family sd1\) offers codec, cross_attention, denoiser, embedding_map, text; suites"
    with pytest.raises(Unsupported, match=words):
        open_subject("pocket", [], runner(), erased=["owl"])
    words = r"weights needs denoiser, text; model \(family vit\) offers classifier; suites that fit: .*classifier"
    with pytest.raises(Unsupported, match=words):
        open_subject(erase_vit.build(), [made], get_manager().evaluator("weights", "attack"))
    with pytest.raises(RequestError, match="cow is no label of model"):
        run_attack(runner(), lambda: open_subject(erase_vit.build(), [made], runner(), erased=["cow"]))


class TestItsContract(measuring.AttackContract):
    names = ("find-noise",)
    model = "tiny-vit"
    edit = ("unlabel", "owl")
