"""Families sd3 and flux: module counts of the published sizes, names in original files, prediction, schedules."""

from __future__ import annotations

import json
import os
import subprocess
from math import exp
from typing import Any

import pytest
import torch

from erase_plugins.engine.inversion import noise_shares, question
from erase_plugins.errors import RequestError, Unsupported
from erase_plugins.manager import get_manager
from erase_plugins.testing.models import fresh_pipeline, shared_pipeline
from erase_plugins.testing.tiny import tiny_flux
from erase_plugins.workflow.models import target_of
from tests.comfy.unpack import comfy_environment

_SD3 = {
    "_class_name": "SD3Transformer2DModel", "sample_size": 128, "patch_size": 2, "in_channels": 16, "num_layers": 24,
    "attention_head_dim": 64, "num_attention_heads": 24, "joint_attention_dim": 4096, "caption_projection_dim": 1536,
    "pooled_projection_dim": 2048, "out_channels": 16, "pos_embed_max_size": 192,
}  # fmt: skip
#: published sizes -> configuration of the transformer
CONFIGS: dict[str, dict[str, Any]] = {
    "flux": {"_class_name": "FluxTransformer2DModel", "in_channels": 64, "num_layers": 19, "num_single_layers": 38,
             "attention_head_dim": 128, "num_attention_heads": 24, "joint_attention_dim": 4096,
             "pooled_projection_dim": 768, "guidance_embeds": True, "axes_dims_rope": [16, 56, 56]},
    "sd3m": _SD3,
    "sd35m": {**_SD3, "dual_attention_layers": list(range(13)), "qk_norm": "rms_norm", "pos_embed_max_size": 384},
    "sd35l": {**_SD3, "num_layers": 38, "num_attention_heads": 38, "caption_projection_dim": 2432,
              "qk_norm": "rms_norm"},
}  # fmt: skip
_T5 = {"architectures": ["T5EncoderModel"], "d_model": 4096, "d_kv": 64, "d_ff": 10240, "num_heads": 64,
       "num_layers": 24, "vocab_size": 32128}  # fmt: skip
_CLIP = {"architectures": ["CLIPTextModel"], "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12,
         "num_attention_heads": 12, "max_position_embeddings": 77, "vocab_size": 49408}  # fmt: skip


def published(name: str) -> Any:
    """A published size as its family knows it, without weights."""
    family = get_manager().family("flux" if name == "flux" else "sd3")
    return family.info(name, {"transformer": CONFIGS[name], "text_encoder": _CLIP, family.encoders[-1]: _T5})


@pytest.mark.parametrize(
    ("name", "counts", "millions"),
    [
        ("flux", {"text_in": 2, "cross_kv": 38, "cross_attn": 76, "dual_attn": 152, "single_attn": 114, "attn": 266,
                  "denoiser": 418}, {"text_in": 15, "cross_kv": 359, "dual_attn": 1435, "attn": 2510}),
        ("sd3m", {"text_in": 2, "cross_kv": 48, "cross_attn": 95, "dual_attn": 191, "single_attn": 0, "denoiser": 285},
         {"text_in": 9.4, "cross_kv": 113, "dual_attn": 451}),
        ("sd35m", {"text_in": 2, "cross_kv": 48, "cross_attn": 95, "dual_attn": 243, "denoiser": 337},
         {"dual_attn": 573}),
        ("sd35l", {"text_in": 2, "cross_kv": 76, "cross_attn": 151, "dual_attn": 303, "denoiser": 453},
         {"cross_kv": 450, "dual_attn": 1792}),
    ],
)  # fmt: skip
def test_groups_of_the_published_sizes(name, counts, millions):
    info = published(name)
    found = {group: [ref for ref in info.refs if info.family.groups[group](ref)] for group in counts}
    assert {group: len(refs) for group, refs in found.items()} == counts
    for group, size in millions.items():
        weights = sum(ref.shape[0] * ref.shape[1] for ref in found[group]) / 1e6
        assert weights == pytest.approx(size, rel=0.03), group
    assert not [ref.path for ref in found["cross_attn"] if "attn2" in ref.path]  # image-only in SD3.5 medium
    assert not [ref.path for ref in found["denoiser"] if ".norm" in ref.path or "norm_out" in ref.path]


@pytest.mark.parametrize(("name", "linears"), [("flux", 504), ("sd3m", 340), ("sd35m", 392), ("sd35l", 536)])
def test_every_module_has_its_own_rows_of_an_original_weight(name, linears):
    info = published(name)
    places = info.family.original_places(info)
    assert sum(ref.kind == "linear" for ref in info.refs if ref.component == "transformer") == linears
    assert len(places) >= linears
    assert len({(place.path, place.start) for place in places.values()}) == len(places)  # so the way back is clear
    width = 2432 if name == "sd35l" else 3072 if name == "flux" else 1536
    value = places["transformer_blocks.1.attn.add_v_proj"]
    wanted = "double_blocks.1.txt_attn.qkv" if name == "flux" else "joint_blocks.1.context_block.attn.qkv"
    assert (value.path, value.start, value.rows) == (wanted, 2 * width, width)
    pooled = places["time_text_embed.text_embedder.linear_1"].path
    assert pooled == ("vector_in.in_layer" if name == "flux" else "y_embedder.mlp.0")
    assert places["context_embedder"].path == ("txt_in" if name == "flux" else "context_embedder")
    assert places["norm_out.linear"].swapped
    if name == "flux":
        mlp = places["single_transformer_blocks.5.proj_mlp"]
        assert (mlp.path, mlp.start, mlp.rows) == ("single_blocks.5.linear1", 3 * 3072, 4 * 3072)


@pytest.mark.parametrize("name", list(CONFIGS))
def test_comfyui_has_the_same_places(name):
    found = comfy_environment()
    if isinstance(found, str):
        pytest.skip(found)
    python, folder = found
    config = CONFIGS[name]
    made = {"depth": config["num_layers"], "depth_single_blocks": config.get("num_single_layers", 0),
            "hidden_size": 3072}  # fmt: skip
    code = (
        "import json, sys; sys.argv = sys.argv[:1]; import comfy.utils as u; "
        f"found = u.{'flux' if name == 'flux' else 'mmdit'}_to_diffusers({made!r}); "
        "print('FOUND' + json.dumps({k: [v, None, False] if isinstance(v, str) else [v[0], v[1], len(v) > 2] "
        "for k, v in found.items()}))"
    )
    env = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    out = subprocess.run(
        [str(python), "-c", code], cwd=folder, env=env, text=True,
        capture_output=True, timeout=120, check=True,
    ).stdout  # fmt: skip
    theirs = json.loads(out.split("FOUND")[1])
    info = published(name)
    for path, place in info.family.original_places(info).items():
        key, part, swapped = theirs[f"{path}.weight"]
        assert key == f"{place.path}.weight", path
        assert swapped == place.swapped, path
        assert (part[1:] if part else [0, None]) == [place.start, place.rows], path


def test_detection_tells_both_families_apart():
    assert target_of(shared_pipeline("tiny_sd3")).family.id == "sd3"
    assert target_of(shared_pipeline("tiny_flux")).family.id == "flux"


@pytest.mark.parametrize("model", ["tiny_sd3", "tiny_flux"])
def test_prediction_is_that_of_a_direct_call(model):
    pipe = shared_pipeline(model)
    target = target_of(pipe)
    latents = torch.randn((2, *target.info.latent_shape), generator=torch.Generator().manual_seed(0))
    cond = target.encode(["pizza", "a red house"])
    with torch.no_grad():
        ours = target.predict(latents, 600.0, cond)
        given = {"encoder_hidden_states": cond.embeds, "pooled_projections": cond.pooled, "return_dict": False}
        if model == "tiny_sd3":
            direct = pipe.transformer(latents, timestep=torch.tensor([600.0] * 2), **given)[0]
            wrong = pipe.transformer(latents, timestep=torch.tensor([0.6] * 2), **given)[0]
        else:
            count, channels, height, width = latents.shape
            given |= {
                "hidden_states": pipe._pack_latents(latents, count, channels, height, width),
                "img_ids": pipe._prepare_latent_image_ids(1, height // 2, width // 2, "cpu", torch.float32),
                "txt_ids": torch.zeros(cond.embeds.shape[1], 3), "guidance": torch.ones(2),
            }  # fmt: skip
            found = [pipe.transformer(timestep=torch.tensor([at] * 2), **given)[0] for at in (0.6, 600.0)]
            direct, wrong = (pipe._unpack_latents(part, 2 * height, 2 * width, 2) for part in found)
    torch.testing.assert_close(ours, direct, rtol=0, atol=1e-6)
    assert float((ours - wrong).abs().max()) > 1e-3


def test_guidance_is_an_input_of_dev_and_none_of_schnell():
    latents = torch.ones(1, 4, 8, 8)
    for distilled in (True, False):
        target = target_of(tiny_flux(distilled=distilled))
        cond = target.encode(["pizza"])
        found = []
        for guidance in (1.0, 3.5):
            target.guidance = guidance
            with torch.no_grad():
                found.append(target.predict(latents, 500, cond))
        assert torch.equal(*found) is not distilled


@pytest.mark.parametrize(("size", "mu"), [(16, 0.5), (32, 0.63), (64, 1.15)])
def test_noise_levels_of_dev(size, mu):
    from erase_plugins.families.flow_schedule import make_flow_sampler

    config = {"shift": 3.0, "use_dynamic_shifting": True, "base_shift": 0.5, "max_shift": 1.15,
              "base_image_seq_len": 256, "max_image_seq_len": 4096}  # fmt: skip
    sigmas = make_flow_sampler(config, "euler", 28, "cpu", True, size * size).sigmas
    plain = [1 - place / 28 for place in range(28)]
    assert sigmas[:-1].tolist() == pytest.approx([exp(mu) / (exp(mu) + 1 / s - 1) for s in plain], abs=1e-6)
    assert float(sigmas[-1]) == 0


def test_noise_levels_of_sd3_and_schnell():
    sd3 = target_of(shared_pipeline("tiny_sd3")).scheduler(28).sigmas
    assert [round(float(sd3[place]), 3) for place in (0, 7, 14, 21)] == [1, 0.896, 0.737, 0.465]
    schnell = target_of(tiny_flux(distilled=False)).scheduler(4).sigmas
    assert schnell.tolist() == [1, 0.75, 0.5, 0.25, 0]
    with pytest.raises(RequestError, match="unknown scheduler 'heun'"):
        target_of(shared_pipeline("tiny_sd3")).scheduler(4, "heun")


@pytest.mark.parametrize("model", ["tiny_sd3", "tiny_flux"])
def test_rows_list_the_pooled_row_and_all_of_t5(model):
    target = target_of(shared_pipeline(model))
    found = target.rows(["pizza", ""])
    plain = target.encode(["pizza", ""])
    assert torch.equal(found.embeds[:, 0, 64:], plain.pooled)
    assert not bool(found.embeds[:, 0, :64].any())
    assert not bool(found.embeds[:, 1:, 64:].any())
    first = plain.embeds.shape[1]
    assert torch.equal(found.embeds[:, 1 : first + 1, :64], plain.embeds)
    assert found.embeds.shape[1] == 1 + first + 16  # T5 once more, padded less
    assert not found.is_empty(0)
    assert found.is_empty(1)
    assert not plain.is_empty(0)


def test_clip_encoders_without_t5_are_read_with_gradients():
    pipe = fresh_pipeline("tiny_sd3")
    with pytest.raises(Unsupported, match="T5 brings the content"):
        target_of(pipe).encode_live(target_of(pipe).tokens(["pizza"]))
    pipe.register_modules(text_encoder_3=None, tokenizer_3=None)
    target = target_of(pipe)
    tokens, plain = target.tokens(["a pizza", ""]), target.encode(["a pizza", ""])
    rows = {name: target.token_table(name)[ids].clone().requires_grad_() for name, ids in tokens.ids.items()}
    live = target.encode_live(tokens, rows)
    assert torch.allclose(live.embeds, plain.embeds, atol=1e-5) and torch.allclose(live.pooled, plain.pooled, atol=1e-5)
    for part in (live.embeds, live.pooled):
        grads = torch.autograd.grad(part.square().sum(), list(rows.values()), retain_graph=True)
        assert all(bool(grad.any()) for grad in grads)


def test_noised_latents_of_a_flow_are_a_straight_line_from_the_picture_to_the_noise():
    target, alphas = target_of(shared_pipeline("tiny_sd3")), torch.empty(1000)
    picture, noise = torch.full((1, 1, 1, 1), 3.0), torch.full((1, 1, 1, 1), -1.0)
    light, dark = noise_shares(target, alphas, torch.tensor([250]))
    noisy, wanted = question(target, picture, noise, light, dark)
    assert (noisy.item(), wanted.item()) == (0.75 * 3 - 0.25, -4.0)


def test_what_cannot_be_done_is_said():
    target = target_of(fresh_pipeline("tiny_flux"))
    with pytest.raises(Unsupported, match="no names for layout kohya; its diffusers file loads in ComfyUI as it is"):
        target.family.stem("kohya", "transformer", "context_embedder")
    target.pipe.transformer.fuse_qkv_projections()
    with pytest.raises(Unsupported, match="are fused"):
        target_of(target.pipe).check_readable()
    with pytest.raises(RequestError, match="overflows in float16"):
        target_of(shared_pipeline("tiny_sd3")).family.load(_Wanted())


class _Wanted:
    model, revision, dtype, device = "m", None, "float16", "cpu"
