"""Model descriptions for tests of methods that train text encoders."""

from __future__ import annotations

from dataclasses import replace

from transformers import CLIPTextConfig


def with_clip_l(target):
    """The target's description with the text encoder of Stable Diffusion 1.x in place of its own; no weights."""
    config = {**CLIPTextConfig(vocab_size=49408, hidden_size=768, intermediate_size=3072, num_hidden_layers=12,
                               num_attention_heads=12).to_dict(), "architectures": ["CLIPTextModel"]}  # fmt: skip
    keep = {key: value for key, value in config.items() if value is None or isinstance(value, str | int | float | list)}
    made = target.family.info("clip-l", {**target.info.configs, "text_encoder": keep})
    return replace(made, profiles=("sd1",))
