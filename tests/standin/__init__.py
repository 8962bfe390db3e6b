"""A trained stand-in for CLIP's text encoder: the real BPE, 77 rows padded with end-of-text, causal, hidden 256.

What neither pocket (32 rows, a word a token) nor random weights show: rows behind a word that carry it, words that mean
the same close to each other, words of a kind closer than others. Trained by ``python -m tools.standin`` on captions of
the shipped words; only rows of tokens that were trained on are kept, the others are random and as long.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

FILE = Path(__file__).with_name("encoder.safetensors")
HIDDEN, LAYERS, ROWS, ENTRIES = 256, 3, 77, 49408


def network(entries: int = ENTRIES) -> Any:
    """The text encoder with random weights and ``entries`` tokens."""
    from transformers import CLIPTextConfig, CLIPTextModel

    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=entries, hidden_size=HIDDEN, intermediate_size=2 * HIDDEN, num_hidden_layers=LAYERS,
            num_attention_heads=4, projection_dim=HIDDEN, max_position_embeddings=ROWS, hidden_act="quick_gelu",
            bos_token_id=entries - 2, eos_token_id=entries - 1, pad_token_id=entries - 1,
        )
    )  # fmt: skip


def standin_encoder() -> Any:
    """The trained text encoder, for CLIP's own tokenizer."""
    import torch
    from safetensors.torch import load_file

    tensors = {name: value.float() for name, value in load_file(FILE).items()}
    used, rows = tensors.pop("used").long(), tensors.pop("rows")
    draw = torch.Generator().manual_seed(0)
    table = torch.randn((ENTRIES, HIDDEN), generator=draw) * rows.std()
    table[used] = rows
    encoder = network()
    own = {name: value for name, value in encoder.state_dict().items() if "token_embedding" in name}
    (name,) = own
    encoder.load_state_dict({**tensors, name: table}, strict=False)
    return encoder.requires_grad_(False).eval()


def standin_sd1(seed: int = 0) -> Any:
    """A tiny random Stable Diffusion 1 pipeline that reads the stand-in's rows."""
    import torch
    from diffusers import UNet2DConditionModel

    from erase_plugins.testing.tiny import tiny_sd1
    from tests.engine.clip_words import clip_tokenizer

    pipe = tiny_sd1(seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        unet = UNet2DConditionModel.from_config({**pipe.unet.config, "cross_attention_dim": HIDDEN})
    parts = {
        "tokenizer": clip_tokenizer(),
        "text_encoder": standin_encoder(),
        "unet": unet.requires_grad_(False).eval(),
    }
    pipe.register_modules(**parts)
    return pipe
