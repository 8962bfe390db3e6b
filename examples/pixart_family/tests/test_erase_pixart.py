"""PixArt with tiny random weights: the edit is exact, acts in the stock pipeline, and comes off to the last bit."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from diffusers import AutoencoderKL, DPMSolverMultistepScheduler, PixArtAlphaPipeline, PixArtTransformer2DModel
from erase_pixart import DOOR
from peft import PeftModel
from transformers import T5Config, T5EncoderModel, T5TokenizerFast

import erase_plugins as ep
from erase_plugins.errors import Unsupported

OPTIONS = {"vocabulary": 0, "tokens": "window"}
WORDS = ["a", "dog", "cat", "house", "red", "on", "picture", "of"]


@pytest.fixture(scope="module")
def pipe():
    torch.manual_seed(0)
    pieces = [
        ("<pad>", 0.0),
        ("</s>", 0.0),
        ("<unk>", 0.0),
        ("\u2581", -9.0),
        *((f"\u2581{word}", -5.0) for word in WORDS),
    ]
    encoder = T5EncoderModel(
        T5Config(vocab_size=32, d_model=24, d_kv=6, d_ff=32, num_layers=2, num_heads=4, n_positions=16)
    )
    transformer = PixArtTransformer2DModel(
        num_attention_heads=2, attention_head_dim=8, in_channels=4, out_channels=8, num_layers=2, sample_size=8,
        patch_size=2, cross_attention_dim=16, caption_channels=24, norm_type="ada_norm_single",
        use_additional_conditions=False,
    )  # fmt: skip
    vae = AutoencoderKL(
        block_out_channels=(8, 16), norm_num_groups=4, sample_size=16, latent_channels=4,
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
    )  # fmt: skip
    found = PixArtAlphaPipeline(
        tokenizer=T5TokenizerFast(vocab=pieces, extra_ids=0, model_max_length=16), text_encoder=encoder, vae=vae,
        transformer=transformer, scheduler=DPMSolverMultistepScheduler(),
    )  # fmt: skip
    for part in (encoder, transformer, vae):
        part.requires_grad_(False).eval()
    found.set_progress_bar_config(disable=True)
    return found


def draw(pipe, prompt):
    made = pipe(
        prompt, num_inference_steps=2, generator=torch.Generator().manual_seed(0), output_type="latent",
        use_resolution_binning=False, clean_caption=False, max_sequence_length=16, height=16, width=16,
    )  # fmt: skip
    return made.images


def rows(pipe, prompt):
    return pipe.encode_prompt(prompt, False, device="cpu", max_sequence_length=16)[0][0].double()


def test_the_door_maps_a_concept_to_what_it_becomes(pipe, tmp_path):
    weights = {name: part.clone() for name, part in pipe.transformer.state_dict().items()}
    before = {text: draw(pipe, text) for text in ("a dog", "a house")}
    assert ep.plan(pipe, ep.Concept("dog", anchor="cat"), "uce", options=OPTIONS).modules == (f"transformer.{DOOR}",)
    ep.erase(
        pipe, ep.Concept("dog", anchor="cat"), "uce", keep=["a house"], options={**OPTIONS, "lam": 1e-6, "keep_scale": 1.0},
        out=tmp_path / "no-dog",
    )  # fmt: skip
    edit = ep.load_artifact(tmp_path / "no-dog").edit.deltas["transformer"]
    ((_, delta),) = edit.items()
    mapped = lambda row: row + (row @ delta.A.double().T) @ delta.B.double().T  # noqa: E731
    dog, cat, house = (rows(pipe, text) for text in ("dog", "cat", "a house"))
    assert float((mapped(dog) - cat).norm() / (dog - cat).norm()) < 0.05
    assert float((mapped(house) - house).norm() / house.norm()) < 0.01
    with ep.apply(pipe, tmp_path / "no-dog") as applied:
        assert not torch.equal(draw(pipe, "a dog"), before["a dog"])
        applied.set_strength(0.0)
        assert torch.equal(draw(pipe, "a dog"), before["a dog"])
    assert all(torch.equal(pipe.transformer.state_dict()[name], part) for name, part in weights.items())
    assert torch.equal(draw(pipe, "a house"), before["a house"])


def test_the_lora_file_does_the_same_in_stock_peft(pipe, tmp_path):
    artifact = ep.erase(pipe, "dog", "uce", keep=["a house"], options=OPTIONS, out=tmp_path / "no-dog")
    with ep.apply(pipe, artifact):
        wanted = draw(pipe, "a dog")
    plain, with_lora = pipe.transformer, deepcopy(pipe.transformer)
    PeftModel.from_pretrained(with_lora, str(tmp_path / "no-dog"))
    try:
        pipe.transformer = with_lora
        assert float((draw(pipe, "a dog") - wanted).abs().max() / wanted.abs().max()) < 1e-4
    finally:
        pipe.transformer = plain


def test_what_the_family_does_not_offer_is_said_at_plan_time(pipe):
    with pytest.raises(Unsupported, match="set projections=both"):
        ep.plan(pipe, "dog", "null-space", options={"projections": "values"})
