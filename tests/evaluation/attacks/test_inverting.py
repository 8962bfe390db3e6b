"""From a picture to noise and back: the steps undo each other, with the model's own prompts, parts and guards."""

from __future__ import annotations

import pytest
import torch

import erase_plugins as ep
from erase_plugins.errors import Unsupported
from erase_plugins.evaluation.attacks.inverting import inverted, no_prompt, own_noise, regenerated
from erase_plugins.evaluation.attacks.masactrl import decoded
from erase_plugins.evaluation.guarded import BLANK
from erase_plugins.evaluation.prompts import Prompt
from erase_plugins.testing.models import changed_since, shared_pipeline
from erase_plugins.testing.observe import snapshot
from tests.evaluation.attacks.stub import tiny_subject

FLOWS = ("tiny_sd3", "tiny_flux")
ASKED = [Prompt(f"a owl {n}", n, {"concept": "owl"}, "concept") for n in range(2)]


def pictures_of(subject):
    return torch.rand(2, 3, *subject.target.picture_size(), generator=torch.Generator().manual_seed(3))


def latents_of(subject):
    return subject.target.latents(2 * pictures_of(subject) - 1, torch.Generator().manual_seed(subject.seed))


@pytest.mark.parametrize("name", ["tiny_sd1", "tiny_sdxl", *FLOWS])
@torch.no_grad()
def test_a_stock_pipeline_draws_the_picture_again_from_its_noise(name, monkeypatch):
    """With a prediction that does not depend on the latents: through the whole pipeline, guidance and all."""
    pipe = shared_pipeline(name)
    subject, before = tiny_subject(pipe), snapshot(pipe)
    network = subject.target.network("denoiser")
    told, times = {}, []

    def constant(*given, **named):
        times.append(float(torch.as_tensor(named.get("timestep", given[1] if given[1:] else None)).flatten()[0]))
        latents = named.get("hidden_states", given[0] if given else None)
        shape = latents.shape[1:]
        if shape not in told:
            told[shape] = 0.3 * torch.randn(shape, generator=torch.Generator().manual_seed(1))
        return (told[shape].expand(latents.shape),)

    monkeypatch.setattr(network, "forward", constant)
    clean = latents_of(subject)
    assert float((own_noise(subject, clean, 6) - clean).norm() / clean.norm()) > 0.5
    times.clear()
    found = regenerated(subject, ASKED, pictures_of(subject), 6)
    assert times[:6] == pytest.approx(times[:5:-1]), "back at the noise levels of the way forth"
    assert times[:6] == sorted(set(times[:6]))
    torch.testing.assert_close(found, decoded(subject, clean), rtol=1e-3, atol=2e-3)
    assert subject.queries == 2
    monkeypatch.undo()
    assert changed_since(pipe, before) == ""


@pytest.mark.parametrize("name", FLOWS)
@torch.no_grad()
def test_more_steps_come_closer_to_the_path_of_a_flow(name):
    subject = tiny_subject(shared_pipeline(name))
    clean = latents_of(subject)
    cond, errors = no_prompt(subject.target, 2), []
    for steps in (5, 20, 80):
        latents, schedule = inverted(subject, clean, cond, steps), subject.target.scheduler(steps)
        for step in schedule.timesteps:
            latents = schedule.step(subject.target.predict(latents, step, cond), step, latents).prev_sample
        errors.append(float((latents - clean).norm() / clean.norm()))
    assert errors[1] < errors[0] / 2 and errors[2] < errors[1] / 2 and errors[2] < 0.1


def test_the_way_back_has_no_prompt_and_the_way_forth_has_the_name_and_the_guidance(monkeypatch):
    subject, asked = tiny_subject(shared_pipeline("tiny_sd1")), []
    read = subject.pipe.encode_prompt
    monkeypatch.setattr(subject.pipe, "encode_prompt", lambda prompt, *more, **named: (
        asked.append((prompt, named.get("do_classifier_free_guidance", more[2] if len(more) > 2 else None)))
        or read(prompt, *more, **named)))  # fmt: skip
    assert no_prompt(subject.target, 3).prompts == ("", "", "")
    regenerated(subject, ASKED, pictures_of(subject), 3)
    assert asked == [(["a owl 0", "a owl 1"], True)]


def test_what_is_in_force_decides_the_noise():
    subject = tiny_subject(shared_pipeline("tiny_sd1"))
    clean = latents_of(subject)
    bare = own_noise(subject, clean, 3)
    for state in ("on", "destroyed"):
        with subject.under(state):
            assert not torch.allclose(own_noise(subject, clean, 3), bare, atol=1e-4)
    assert torch.equal(own_noise(subject, clean, 3), bare)


def test_a_refused_prompt_draws_nothing_and_the_others_keep_their_own_noise():
    bare = tiny_subject(shared_pipeline("tiny_sd1"))
    guard = ep.erase(bare.target, "owl", "keyword-guard")
    subject, noted = tiny_subject(bare.pipe, artifacts=[guard]), []
    subject.note_refused = lambda text, seed: noted.append((text, seed))
    asked, pictures = [ASKED[0], Prompt("a cat", 9, {"concept": "owl"}, "concept")], pictures_of(bare)
    with subject.under("on"):
        found = regenerated(subject, asked, pictures, 3)
    assert noted == [("a owl 0", 0)] and bool((found[0] == BLANK).all())
    torch.testing.assert_close(found[1:], regenerated(bare, asked, pictures, 3)[1:], rtol=1e-4, atol=1e-4)


def test_a_flow_with_another_sampler_is_refused(monkeypatch):
    from diffusers import DPMSolverMultistepScheduler

    subject = tiny_subject(shared_pipeline("tiny_sd3"))
    monkeypatch.setattr(subject.pipe, "scheduler", DPMSolverMultistepScheduler())
    with pytest.raises(Unsupported, match="sampler of tiny, DPMSolverMultistepScheduler, does not go a flow's"):
        regenerated(subject, ASKED, pictures_of(subject), 3)
    assert subject.queries == 0
