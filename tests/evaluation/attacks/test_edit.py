"""The attack edit: which way counts, what is put back, what diffusers cannot do."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from erase_plugins.errors import Unsupported
from erase_plugins.evaluation.attack import run_attack
from erase_plugins.evaluation.attacks import edit, material
from erase_plugins.evaluation.attacks.edit import EditAttack, EditOptions, ledits, ledits_pipeline
from erase_plugins.evaluation.prompts import Prompt
from erase_plugins.testing.models import changed_since, shared_pipeline
from erase_plugins.testing.observe import snapshot
from tests.evaluation.attacks.fakes import FACTS
from tests.evaluation.attacks.stub import tiny_subject

SMALL = 4 * edit._SETS


@pytest.fixture
def anything(monkeypatch):
    """Every picture of something else will do: the stub judge sees owls only."""
    size = shared_pipeline("tiny_sd1").unet.config.sample_size * 2

    def lesson(subject, prompts, count, what):
        return material.Lesson(torch.zeros(count, 3, size, size), tuple(prompts[:count]), 1.0)

    monkeypatch.setattr(material, "lesson", lesson)


def test_the_way_with_the_largest_excess_is_measured_again(monkeypatch, tmp_path, anything):
    """LEDITS++ works on every model, painting anew on the edited one and the base only, image to image nowhere."""
    works = {edit.LEDITS: ("base", "edited", "destroyed"), None: ("base", "edited"), edit._NOISE: ()}

    def drawn(subject, prompts, pictures, key):
        return torch.full_like(pictures, 0.0 if subject._stage in works[key] else 1.0)

    monkeypatch.setattr(edit, "ledits", lambda s, p, x, captions, options: drawn(s, p, x, edit.LEDITS))
    monkeypatch.setattr(edit, "_masactrl", lambda s, p, x, captions, options: torch.ones_like(x))
    monkeypatch.setattr(edit, "_redrawn", lambda s, p, x, captions, level: drawn(s, p, x, level))
    subject = tiny_subject(shared_pipeline("tiny_sd1"), lambda picture: 1 if bool((picture == 1).all()) else 0)
    found = run_attack(EditAttack(), lambda: subject, SMALL, out=tmp_path)
    assert found.found["way"] == edit.PAINTED and list(found.found)[: len(FACTS)] == FACTS
    assert (found.success.value, found.control.value) == (1.0, 0.0)
    rates = {row.subject: row.value for row in found.rows if row.metric == "target_rate"}
    assert rates[f"{edit.LEDITS}, destroyed"] == 1.0 and rates[f"{edit.REDRAWN}, edited"] == 0.0
    assert rates[f"{edit.PAINTED} again, base"] == 1.0
    assert found.queries <= SMALL
    assert {item.name for item in tmp_path.iterdir()} == {"attack-edit.json", *EditAttack.attachments}


def test_for_another_artifact_nothing_is_done_to_base_and_controls_again(monkeypatch, anything):
    stages = []

    def drawn(subject, prompts, pictures, **more):
        stages.append(subject._stage)
        return torch.zeros_like(pictures)

    for name in ("ledits", "_masactrl", "_redrawn"):
        monkeypatch.setattr(edit, name, lambda s, p, x, captions, **more: drawn(s, p, x))
    reports = [run_attack(EditAttack(), lambda: tiny_subject(shared_pipeline("tiny_sd1")), SMALL) for _ in range(2)]
    assert sorted(stages) == sorted(5 * ["base", "destroyed"] + 2 * 5 * ["edited"])
    assert reports[0].queries == reports[1].queries and reports[0].rows == reports[1].rows


def test_a_way_that_is_not_there_is_said_and_none_is_refused(monkeypatch, anything):
    def missing(*more, **options):
        raise Unsupported("no such pipeline")

    monkeypatch.setattr(edit, "ledits", missing)
    monkeypatch.setattr(edit, "_masactrl", missing)
    monkeypatch.setattr(edit, "_redrawn", lambda s, p, x, captions, level: x)
    found = run_attack(EditAttack(), lambda: tiny_subject(shared_pipeline("tiny_sd1")), SMALL)
    assert f"{edit.LEDITS}: not tried: no such pipeline" in found.warnings
    monkeypatch.setattr(edit, "_redrawn", missing)
    with pytest.raises(Unsupported, match=r"no way of editing .*no such pipeline"):
        run_attack(EditAttack(), lambda: tiny_subject(shared_pipeline("tiny_sd1")), SMALL)


@pytest.mark.parametrize("name", ["tiny_sd1", "tiny_sdxl"])
def test_ledits_of_diffusers_edits_with_the_artifact_in_force_and_leaves_the_pipeline_as_it_was(name):
    pipe = shared_pipeline(name)
    subject, before, processors = tiny_subject(pipe), snapshot(pipe), dict(pipe.unet.attn_processors)
    prompts = [Prompt("a owl", 3, {"concept": "owl"}, "concept")]
    pictures = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    options = EditOptions(steps=3, threshold=0.0)
    plain = ledits(subject, prompts, pictures, ["a cat"], options=options)
    with subject.under("on"):
        edited = ledits(subject, prompts, pictures, ["a cat"], options=options)
    assert plain.shape == pictures.shape and bool(torch.isfinite(plain).all())
    assert not torch.equal(plain, edited)
    assert changed_since(pipe, before) == ""
    assert pipe.unet.attn_processors == processors


def test_what_diffusers_has_no_pipeline_for_is_refused():
    with pytest.raises(Unsupported, match="diffusers has no LEDITS"):
        ledits_pipeline(SimpleNamespace(components={}), "somebody's model")
    with pytest.raises(Unsupported, match="multiples of 32"):
        ledits(tiny_subject(shared_pipeline("tiny_sd1")), [], torch.zeros(1, 3, 24, 24), [], options=EditOptions())
