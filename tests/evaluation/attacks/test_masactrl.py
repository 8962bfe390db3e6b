"""MasaCtrl: whose keys and values are read, that the inversion can be drawn back, and that nothing stays behind."""

from __future__ import annotations

import pytest
import torch

from erase_plugins.engine.trajectories import join
from erase_plugins.errors import Unsupported
from erase_plugins.evaluation.attacks.masactrl import inverted, masactrl, reading_the_source, self_attention
from erase_plugins.testing.models import changed_since, shared_pipeline
from erase_plugins.testing.observe import snapshot
from tests.evaluation.attacks.stub import tiny_subject


@pytest.mark.parametrize("name", ["tiny_sd1", "tiny_sdxl"])
@torch.no_grad()
def test_the_second_half_of_a_batch_reads_keys_and_values_of_the_first(name):
    """Against softmax(Q_edit K_source^T / sqrt(d)) V_source by hand, in every self-attention of a denoiser."""
    subject = tiny_subject(shared_pipeline(name))
    for layer in self_attention(subject):
        source, edit = torch.randn(2, 3, 9, layer.to_q.in_features).unbind()
        with reading_the_source([layer]):
            found = layer(torch.cat([source, edit]))
        assert torch.equal(found[:3], layer(torch.cat([source, edit]))[:3])

        def heads(rows, count=layer.heads):
            return rows.unflatten(-1, (count, -1)).transpose(1, 2)

        queries, keys, values = heads(layer.to_q(edit)), heads(layer.to_k(source)), heads(layer.to_v(source))
        weights = (queries @ keys.mT / queries.shape[-1] ** 0.5).softmax(-1)
        by_hand = layer.to_out[0]((weights @ values).transpose(1, 2).flatten(2))
        torch.testing.assert_close(found[3:], by_hand, rtol=1e-5, atol=1e-6)


def test_layers_come_in_the_order_of_a_pass():
    subject = tiny_subject(shared_pipeline("tiny_sd1"))
    network = subject.pipe.unet
    names = {id(module): name for name, module in network.named_modules()}
    order = [names[id(layer)].split(".")[0] for layer in self_attention(subject)]
    assert order == sorted(order, key=["down_blocks", "mid_block", "up_blocks"].index) and "mid_block" in order


@pytest.mark.parametrize("name", ["tiny_sd1", "tiny_sdxl"])
@torch.no_grad()
def test_steps_of_the_inversion_are_those_of_ddim_backwards(name, monkeypatch):
    """With a prediction that does not depend on the latents, each undoes the other, whatever their number."""
    subject = tiny_subject(shared_pipeline(name))
    draw = torch.Generator().manual_seed(1)
    clean, told = (torch.randn(1, *subject.target.info.latent_shape, generator=draw) for _ in range(2))
    monkeypatch.setattr(subject.target, "predict", lambda latents, step, cond: told)
    for steps in (5, 20):
        latents = inverted(subject, clean, subject.target.encode(["a cat"]), steps)
        assert float((latents - clean).norm() / clean.norm()) > 0.5
        schedule = subject.target.scheduler(steps)
        for step in schedule.timesteps:
            latents = schedule.step(told, step, latents).prev_sample
        torch.testing.assert_close(latents, clean, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_the_same_caption_without_guidance_gives_the_source_and_sharing_changes_the_edit(monkeypatch):
    pipe = shared_pipeline("tiny_sd1")
    subject, before = tiny_subject(pipe), snapshot(pipe)
    side = subject.target.picture_size()
    pictures = torch.rand(2, 3, *side, generator=torch.Generator().manual_seed(0))
    same = masactrl(subject, ["a cat", "a dog"], pictures, ["a cat", "a dog"], steps=6, scale=3.0)
    edited = masactrl(subject, ["an owl", "an owl"], pictures, ["a cat", "a dog"], steps=6, scale=3.0)
    monkeypatch.setattr("erase_plugins.evaluation.attacks.masactrl.FIRST_STEP", 100)
    alone = masactrl(subject, ["an owl", "an owl"], pictures, ["a cat", "a dog"], steps=6, scale=3.0)
    again = masactrl(subject, ["a cat", "a dog"], pictures, ["a cat", "a dog"], steps=6, scale=3.0)
    assert torch.allclose(same, again, atol=1e-5)  # its own keys and values are the source's
    assert not torch.allclose(edited, alone, atol=1e-4) and not torch.allclose(edited, same, atol=1e-4)
    assert changed_since(pipe, before) == ""
    assert not any(module._forward_pre_hooks for module in pipe.unet.modules())


def test_a_denoiser_that_reads_text_and_picture_together_is_refused():
    subject = tiny_subject(shared_pipeline("tiny_sd3"))
    with pytest.raises(Unsupported, match="no self-attention on pictures alone"):
        self_attention(subject)


def test_conditions_are_told_apart():
    """The first half is the caption's."""
    target = tiny_subject(shared_pipeline("tiny_sd1")).target
    both = join([target.encode(["a cat"]), target.encode(["a dog"])])
    assert torch.equal(both.embeds[:1], target.encode(["a cat"]).embeds)
