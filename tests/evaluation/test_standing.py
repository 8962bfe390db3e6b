"""What counts as the same model, and the control at strength 0 that need not be drawn again."""

from __future__ import annotations

import pytest
import torch

import erase_plugins as ep
from erase_plugins.evaluation.run import Subject
from erase_plugins.evaluation.standing import standing
from erase_plugins.testing.tiny import tiny_sd1

SMALL = {"images": 2, "steps": 2}


def hooked(pipe):
    pipe.unet.mid_block.register_forward_hook(lambda *_: None)


def one_bit(pipe):
    pipe.unet.conv_in.weight.data.view(torch.int32).view(-1)[5] ^= 1


def processor(pipe):
    module = next(part for part in pipe.unet.modules() if hasattr(part, "processor"))
    module.processor = type(module.processor)()


def shadowed(pipe):
    pipe.unet.forward = pipe.unet.forward


def exchanged(pipe):
    pipe.unet.conv_out = torch.nn.Identity()


def of_the_pipeline(pipe):
    pipe.encode_prompt = pipe.encode_prompt


def table(pipe):
    pipe.text_encoder.get_input_embeddings().weight.data[3] += 1


@pytest.mark.parametrize("change", [hooked, one_bit, processor, shadowed, exchanged, of_the_pipeline, table])
def test_whatever_acts_is_seen(change):
    pipe = tiny_sd1()
    before = standing(pipe)
    assert before is not None
    assert standing(pipe) == before
    change(pipe)
    assert standing(pipe) != before


def test_an_edit_at_strength_0_is_the_base_and_at_1_is_not():
    """Only changes of weights are; what hangs on the model while it runs is never taken for nothing."""
    pipe = tiny_sd1()
    artifact = ep.erase(pipe, "pizza", "uce", options={"vocabulary": 0})
    before = standing(pipe)
    for mode, same in (("weights", True), ("context", False)):
        with ep.apply(pipe, artifact, mode=mode) as handle:
            assert standing(pipe) != before
            handle.set_strength(0.0)
            assert (standing(pipe) == before) is same
        assert standing(pipe) == before


def test_what_does_not_show_is_never_the_same():
    pipe = tiny_sd1()
    pipe.unet.to("meta")
    assert standing(pipe) is None


@pytest.fixture(scope="module")
def artifact(pocket_target):
    return ep.erase(pocket_target, "pizza")


@pytest.fixture
def switched_off(monkeypatch):
    """Pictures that were drawn at strength 0."""
    found, real = [], Subject.generate

    def generate(self, inputs, seeds=(), *, edit="on", strength=None):
        pictures = real(self, inputs, seeds, edit=edit, strength=strength)
        if strength == 0.0:
            found.append(pictures)
        return pictures

    monkeypatch.setattr(Subject, "generate", generate)
    return found


def test_the_control_is_drawn_only_where_more_than_weights_acts(pocket_pipe, artifact, switched_off, monkeypatch):
    skipped = ep.evaluate(pocket_pipe, artifact, **SMALL)
    assert not switched_off
    monkeypatch.setattr("erase_plugins.evaluation.standing.standing", lambda pipe: None)
    drawn = ep.evaluate(pocket_pipe, artifact, **SMALL)
    assert len(switched_off) == 1
    assert skipped.rows == drawn.rows
    assert skipped.details == drawn.details
    assert skipped.warnings == drawn.warnings


def test_a_strength_0_that_leaves_something_is_told(pocket_pipe, artifact, switched_off, monkeypatch):
    from contextlib import contextmanager

    real = Subject.edited

    @contextmanager
    def leaky(self, strength=None):
        weight = self.pipe.unet.conv_out.weight
        with real(self, strength):
            before = weight.data
            weight.data = before + (1.0 if strength == 0.0 else 0.0)
            yield
            weight.data = before

    monkeypatch.setattr(Subject, "edited", leaky)
    report = ep.evaluate(pocket_pipe, artifact, **SMALL)
    assert len(switched_off) == 1
    assert any("strength 0 does not draw" in text for text in report.warnings)


@pytest.mark.parametrize("host", [None, object()])
def test_of_a_host_without_modules_nothing_is_known(host):
    """The model of a graph in ComfyUI is not in a pipeline; there the control is drawn."""
    assert standing(host) is None
