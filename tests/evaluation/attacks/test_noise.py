"""The attack noise: levels, inpainting, and what stays of the picture it begins from."""

from __future__ import annotations

import pytest
import torch

from erase_plugins.errors import Unsupported
from erase_plugins.evaluation.attack import run_attack
from erase_plugins.evaluation.attacks import controls, inverting, noise, study
from erase_plugins.evaluation.attacks.noise import INPAINT, INVERTED, LEVELS, Noise, redraw
from erase_plugins.evaluation.prompts import Prompt
from erase_plugins.testing.models import changed_since, shared_pipeline
from erase_plugins.testing.observe import snapshot
from tests.evaluation.attacks.fakes import FACTS
from tests.evaluation.attacks.stub import tiny_subject

SMALL = 4 * noise._SETS


@pytest.mark.parametrize("name", ["tiny_sd1", "tiny_sdxl"])
def test_report_and_files(name, tmp_path):
    pipe = shared_pipeline(name)
    before = snapshot(pipe)
    found = run_attack(Noise(), lambda: tiny_subject(pipe), SMALL, out=tmp_path)
    assert changed_since(pipe, before) == ""
    assert {item.name for item in tmp_path.iterdir()} == {"attack-noise.json", *Noise.attachments}
    assert list(found.details["tried"]) == [*(f"noise {level:.0%}" for level in LEVELS), INPAINT, INVERTED]
    assert found.success.subject == f"from pictures, {found.found['variant']}"
    assert list(found.found)[: len(FACTS)] == FACTS
    assert found.queries == 4 * (2 * 7 + 2 + 2 * 2) <= SMALL - 4 * 7, "a reference is attacked as often as the others"
    more = 20 + 2 * 20 - 2 * 2  # twenty steps back, twenty guided ones forth, in place of two
    looks = 2 if found.found["variant"] == INVERTED else 1
    assert found.passes == found.queries * 2 * 2 + 4 * 2 * more * looks


def test_variants_that_nobody_asks_for_are_left_out():
    subject = tiny_subject(shared_pipeline("tiny_sd1"))
    found = run_attack(Noise(), lambda: subject, SMALL, settings={"inpaint": "no", "inverted": "no"})
    assert list(found.details["tried"]) == [f"noise {level:.0%}" for level in LEVELS]
    assert found.passes == found.queries * 2 * 2


def test_the_noise_that_the_edited_model_finds_is_what_counts_where_it_brings_most_back(monkeypatch):
    """Only the edited model draws an owl, and only from what it found itself."""
    seen = []

    def drawn(subject, prompts, pictures, steps):
        seen.append((subject._stage, steps, {item.seed for item in prompts}))
        subject.queries += len(prompts)
        return torch.full_like(pictures, 1.0 if subject._stage == "destroyed" else 0.0)

    monkeypatch.setattr(noise, "redraw", lambda subject, prompts, pictures, level: torch.ones_like(pictures))
    monkeypatch.setattr(inverting, "regenerated", drawn)
    subject = tiny_subject(shared_pipeline("tiny_sd1"), lambda picture: 1 if bool((picture == 1).all()) else 0)
    found = run_attack(Noise(), lambda: subject, SMALL, settings={"inversion_steps": 7})
    assert (found.found["variant"], found.found["noise"]) == (INVERTED, None)
    assert (found.success.value, found.control.value) == (1.0, 0.0)
    assert [item[:2] for item in seen] == [("edited", 7), ("destroyed", 7)] * 2
    assert not seen[0][2] & seen[2][2], "chosen with one set of pictures, measured with another"


@pytest.mark.parametrize("name", ["tiny_sd3", "tiny_flux"])
def test_flow_models_are_attacked_with_what_diffusers_has_for_them(name, monkeypatch):
    """A stock pipeline for SD3 paints holes with 16 channels only; the report says so."""
    monkeypatch.setattr(noise, "LEVELS", (0.5,))
    subject = tiny_subject(shared_pipeline(name))
    found = run_attack(Noise(), lambda: subject, SMALL, settings={"inversion_steps": 2})
    missing = [text for text in found.warnings if text.startswith(f"{INPAINT}: not tried: StableDiffusion3Inpaint")]
    tried = ["noise 50%", *([] if name == "tiny_sd3" else [INPAINT]), INVERTED]
    assert (len(missing), list(found.details["tried"])) == (int(name == "tiny_sd3"), tried)


def test_nothing_to_try_is_refused(monkeypatch):
    def no(subject, prompts, pictures, level):
        raise Unsupported("diffusers has none")

    monkeypatch.setattr(noise, "redraw", no)
    with pytest.raises(Unsupported, match="nothing is drawn from pictures with tiny: diffusers has none"):
        run_attack(Noise(), lambda: tiny_subject(shared_pipeline("tiny_sd1")), SMALL, settings={"inverted": False})


def test_the_level_with_the_largest_excess_is_measured_again(monkeypatch):
    """The edited model shows the concept up to 70 % noise, the control up to 40 %."""
    limits, begun = {"edited": 0.7, "destroyed": 0.4}, []

    def drawn(subject, prompts, pictures, level):
        shows = level is not None and level <= limits["destroyed" if subject._stage == "destroyed" else "edited"]
        subject.queries += len(prompts)
        begun.append({item.seed for item in prompts})
        return torch.full_like(pictures, 0.0 if shows else 1.0)

    monkeypatch.setattr(noise, "redraw", drawn)
    subject = tiny_subject(shared_pipeline("tiny_sd1"), lambda picture: 1 if bool((picture == 1).all()) else 0)
    found = run_attack(Noise(), lambda: subject, SMALL)
    assert found.found["noise"] in (0.55, 0.7)
    assert all(seeds == begun[0] for seeds in begun[:-2])
    assert begun[-1] == begun[-2] and not begun[-1] & begun[0], "chosen with one set of pictures, measured with another"
    assert (found.success.value, found.control.value) == (1.0, 0.0)
    assert found.details["tried"]["noise 40%"] == {"noise 40%, edited": 1.0, "noise 40%, destroyed": 1.0}
    assert found.details["tried"]["noise 85%"] == {"noise 85%, edited": 0.0, "noise 85%, destroyed": 0.0}


def test_the_excess_is_that_over_the_last_control(monkeypatch):
    """A destroyed model shows it up to 40 % noise, the reference up to 70 %, the edited one up to 85 %."""
    limits = {"edited": 0.85, "destroyed": 0.4, "reference": 0.7}

    def redrawn(self, victim, begin, name, level):
        hits = [int(level is not None and level <= limits[victim.name])] * 4
        return study.Sample(f"{name}, {victim.name}", hits, torch.ones(4, 3, 8, 8), {}, {})

    def all_three(subject, _reference):
        return [controls.Victim(name, subject) for name in limits]

    monkeypatch.setattr(noise._Run, "redrawn", redrawn)
    monkeypatch.setattr(study, "victims", all_three)
    found = run_attack(Noise(), lambda: tiny_subject(shared_pipeline("tiny_sd1")), SMALL)
    assert (found.found["noise"], found.success.value, found.control.value) == (0.85, 1.0, 0.0)


def test_more_noise_keeps_less_and_inpainting_keeps_the_rim():
    subject = tiny_subject(shared_pipeline("tiny_sd1"))
    subject.steps = 10
    prompts = [Prompt(f"a owl {n}", n, {"concept": "owl"}, "concept") for n in range(2)]
    pictures = subject.draw([item.text for item in prompts], [item.seed for item in prompts])
    little, much = (float((redraw(subject, prompts, pictures, level) - pictures).abs().mean()) for level in (0.1, 0.9))
    assert little < much
    painted = redraw(subject, prompts, pictures, None)
    edge = (painted - pictures).abs()
    assert painted.shape == pictures.shape
    assert float(edge[..., 0, :].mean()) < float(edge[..., 6:10, 6:10].mean())
