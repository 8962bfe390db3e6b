"""The target of a ComfyUI model sees what the target of the same diffusers pipeline sees."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from comfy_nodes.target import ComfyTarget
from erase_plugins.errors import RequestError, Unsupported
from erase_plugins.workflow.models import target_of


class FakeClip:
    """Words are tokens 3, 4, ...; the row of a token holds its number."""

    def __init__(self, width: int, length: int = 8) -> None:
        words = {"cat</w>": 3, "pizza</w>": 4, "ox</w>": 5, "x1y</w>": 6, "be": 7}
        inner = SimpleNamespace(get_vocab=lambda: words)
        clip_l = SimpleNamespace(tokenizer=inner, start_token=0, end_token=1, pad_token=1, max_length=length)
        self.tokenizer, self.width, self.length = SimpleNamespace(clip_l=clip_l), width, length
        self.patcher = SimpleNamespace(get_key_patches=lambda _prefix: {}, patches_uuid="first")
        self.cond_stage_model, self.layer_idx = torch.nn.Identity(), None
        self.calls: list[int] = []

    def tokenize(self, text, disable_weights=False):
        assert disable_weights
        tokens = [3 + len(word) for word in text.split()]
        room = self.length - 2
        parts = [tokens[start : start + room] for start in range(0, len(tokens), room)] or [[]]
        return {
            "l": [
                [(0, 1.0), *((item, 1.0) for item in part), *[(1, 1.0)] * (self.length - 1 - len(part))]
                for part in parts
            ]
        }

    def encode_from_tokens(self, tokens):
        self.calls.append(len(tokens["l"]))
        rows = [token for part in tokens["l"] for token, _ in part]
        return torch.tensor(rows, dtype=torch.float32)[None, :, None].expand(1, -1, self.width)


def test_modules_weights_and_fingerprint_are_those_of_diffusers(fake_model):
    model, pipe = fake_model
    ours, theirs = ComfyTarget(model), target_of(pipe, "tiny")
    wanted = {ref for ref in theirs.info.refs if ref.component == "unet"}
    assert set(ours.info.refs) == wanted
    for ref in theirs.modules("cross_kv"):
        assert torch.equal(ours.weight(ref), theirs.weight(ref).float())
    assert ours.fingerprint()["unet"] == theirs.fingerprint()["unet"]
    assert (ours.info.width, ours.family.id) == (theirs.info.width, "sd1")


def test_weights_are_not_written_to_through_the_target(fake_model):
    model, _ = fake_model
    target = ComfyTarget(model)
    ref = target.modules("cross_kv")[0]
    before = {key: value.clone() for key, value in model.weights.items()}
    target.weight(ref).zero_()
    assert all(torch.equal(value, before[key]) for key, value in model.weights.items())


def test_prompts_are_encoded_together_and_once(fake_model):
    model, _ = fake_model
    clip = FakeClip(int(model.model.model_config.unet_config["context_dim"]))
    target = ComfyTarget(model, clip)
    clip.calls.clear()
    cond = target.encode(["cat", "a pizza", "", "cat"])
    assert clip.calls == [2]  # "" was encoded for the width check
    assert cond.last == (1, 2, 0, 1)
    assert cond.embeds[1, :, 0].tolist() == [0, 4, 8, 1, 1, 1, 1, 1]
    assert target.vocabulary() == ("cat", "pizza")
    assert target.info.tokens == 8


def test_of_two_encoders_the_first_one_says_where_a_phrase_ends(fake_model):
    """The second one of Stable Diffusion XL comes first and pads with token 7, which is no special one."""
    model, _ = fake_model
    clip = FakeClip(int(model.model.model_config.unet_config["context_dim"]))
    plain = clip.tokenize

    def tokenize(text, disable_weights=False):
        own = plain(text, disable_weights)
        other = [
            [(7 if place > 2 else token, weight) for place, (token, weight) in enumerate(part)] for part in own["l"]
        ]
        return {"g": other, **own}

    clip.tokenize = tokenize
    assert ComfyTarget(model, clip).encode(["a pizza", "cat"]).last == (2, 1)


def test_a_phrase_that_is_too_long_is_refused(fake_model):
    model, _ = fake_model
    target = ComfyTarget(model, FakeClip(int(model.model.model_config.unet_config["context_dim"])))
    with pytest.raises(RequestError, match="is longer than 6 tokens"):
        target.encode(["a b c d e f g"])


def test_the_clip_of_another_model_is_refused(fake_model):
    model, _ = fake_model
    with pytest.raises(RequestError, match="belongs to another model: it gives rows of 7"):
        ComfyTarget(model, FakeClip(7))


def test_without_clip_phrases_are_refused_with_the_remedy(fake_model):
    target = ComfyTarget(fake_model[0])
    with pytest.raises(Unsupported, match="connect the CLIP"):
        target.encode(["cat"])
    with pytest.raises(Unsupported, match="text_encoder is needed; connect the CLIP"):
        _ = target.live_encoder


def test_a_text_encoder_without_clip_is_refused(fake_model):
    clip = SimpleNamespace(tokenizer=SimpleNamespace(t5xxl=1), patcher=SimpleNamespace(get_key_patches=lambda _p: {}))
    with pytest.raises(Unsupported, match="is no CLIP"):
        ComfyTarget(fake_model[0], clip)
