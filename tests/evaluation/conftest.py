"""A tiny CLIP with random weights, which takes the place of the real one; nothing is fetched."""

from __future__ import annotations

import pytest
import torch


@pytest.fixture(scope="session")
def clip_folder(tmp_path_factory):
    """A tiny CLIP with the embedded model's tokenizer and an image processor."""
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPTokenizer

    from erase_plugins.pocket.world import FOLDER

    tokenizer = CLIPTokenizer.from_pretrained(FOLDER / "model" / "tokenizer")
    part = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = {**part, "vocab_size": len(tokenizer), "max_position_embeddings": 77, "eos_token_id": tokenizer.eos_token_id}
    torch.manual_seed(0)
    model = CLIPModel(
        CLIPConfig(text_config=text, vision_config={**part, "image_size": 32, "patch_size": 16}, projection_dim=8)
    )
    place = tmp_path_factory.mktemp("encoders") / "tiny-clip"
    model.save_pretrained(place)
    tokenizer.save_pretrained(place)
    CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}).save_pretrained(place)
    return place
