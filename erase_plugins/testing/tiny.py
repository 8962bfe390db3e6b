"""Tiny random pipelines of every built-in family: real classes, seconds to build, no download."""

from __future__ import annotations

from typing import Any


def _text_config(width: int, projection: int, layers: int = 2) -> Any:
    from transformers import CLIPTextConfig

    return CLIPTextConfig(
        vocab_size=1819, hidden_size=width, intermediate_size=2 * width, num_hidden_layers=layers,
        num_attention_heads=4, max_position_embeddings=32, projection_dim=projection, bos_token_id=0, eos_token_id=1,
        pad_token_id=1, hidden_act="quick_gelu",
    )  # fmt: skip


def _tokenizer() -> Any:
    from transformers import CLIPTokenizer

    from erase_plugins.families.source import pocket_folder

    return CLIPTokenizer.from_pretrained(pocket_folder() / "tokenizer")


def _vae(**options: Any) -> Any:
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        block_out_channels=(8, 16), in_channels=3, out_channels=3, latent_channels=4, norm_num_groups=4, sample_size=16,
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
        **options,
    )  # fmt: skip


def tiny_sd1(seed: int = 0, prediction: str = "epsilon", linear: bool = False) -> Any:
    """A random Stable Diffusion 1 pipeline: 8 x 8 latents, context width 32, 32 tokens.

    Args:
        seed: of the weights.
        prediction: "epsilon" or "v_prediction" (Stable Diffusion 2.x).
        linear: linear projections around attention, as in 2.x.
    """
    import torch
    from diffusers import DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPTextModel

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        unet = UNet2DConditionModel(
            sample_size=8, in_channels=4, out_channels=4, layers_per_block=1, block_out_channels=(16, 32),
            norm_num_groups=4, cross_attention_dim=32, attention_head_dim=2, use_linear_projection=linear,
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        )  # fmt: skip
        text_encoder = CLIPTextModel(_text_config(32, 32))
        vae = _vae()
    scheduler = DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False, set_alpha_to_one=False,
        steps_offset=1, prediction_type=prediction,
    )  # fmt: skip
    return _one_encoder(StableDiffusionPipeline, vae=vae, text_encoder=text_encoder, unet=unet, scheduler=scheduler)


def tiny_sdxl(seed: int = 0) -> Any:
    """A random SDXL pipeline: 8 x 8 latents, context width 64 (32 + 32), 32 tokens, Euler scheduler."""
    from diffusers import StableDiffusionXLPipeline

    return _xl(StableDiffusionXLPipeline, seed, 2, 6)


def tiny_refiner(seed: int = 0) -> Any:
    """A random SDXL refiner: the second text encoder only, five time ids, an image-to-image pipeline."""
    from diffusers import StableDiffusionXLImg2ImgPipeline

    return _xl(StableDiffusionXLImg2ImgPipeline, seed, 1, 5, requires_aesthetics_score=True)


def _xl(kind: Any, seed: int, encoders: int, time_ids: int, **options: Any) -> Any:
    import torch
    from diffusers import EulerDiscreteScheduler, UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTextModelWithProjection

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        unet = UNet2DConditionModel(
            sample_size=8, in_channels=4, out_channels=4, layers_per_block=2, block_out_channels=(16, 32),
            norm_num_groups=4, cross_attention_dim=32 * encoders, attention_head_dim=(2, 4), use_linear_projection=True,
            transformer_layers_per_block=(1, 2), addition_embed_type="text_time", addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=32 + time_ids * 8,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        )  # fmt: skip
        first = CLIPTextModel(_text_config(32, 32)) if encoders == 2 else None
        second = CLIPTextModelWithProjection(_text_config(32, 32, layers=3))
        vae = _vae()
    scheduler = EulerDiscreteScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1, timestep_spacing="leading"
    )
    pipe = kind(
        vae=vae, text_encoder=first, text_encoder_2=second, tokenizer=_tokenizer() if encoders == 2 else None,
        tokenizer_2=_tokenizer(), unet=unet, scheduler=scheduler, add_watermarker=False, **options,
    )  # fmt: skip
    return _ready(pipe)


def tiny_editing(seed: int = 0) -> Any:
    """A random LEDITS++ pipeline: 16 x 16 latents, three levels, as its masks come from a quarter of the side."""
    import torch
    from diffusers import DPMSolverMultistepScheduler, LEditsPPPipelineStableDiffusion, UNet2DConditionModel
    from transformers import CLIPTextModel

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        unet = UNet2DConditionModel(
            sample_size=16, in_channels=4, out_channels=4, layers_per_block=1, block_out_channels=(16, 16, 32),
            norm_num_groups=4, cross_attention_dim=32, attention_head_dim=2,
            down_block_types=("CrossAttnDownBlock2D",) * 3, up_block_types=("CrossAttnUpBlock2D",) * 3,
        )  # fmt: skip
        text_encoder = CLIPTextModel(_text_config(32, 32))
        vae = _vae()
    scheduler = DPMSolverMultistepScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1, solver_order=2,
        algorithm_type="sde-dpmsolver++",
    )  # fmt: skip
    return _one_encoder(
        LEditsPPPipelineStableDiffusion, vae=vae, text_encoder=text_encoder, unet=unet, scheduler=scheduler
    )


def _t5() -> tuple[Any, Any]:
    """T5 of width 64 and a tokenizer of the embedded model's words."""
    from transformers import T5Config, T5EncoderModel, T5TokenizerFast

    words = sorted(word.removesuffix("</w>") for word in _tokenizer().get_vocab() if word.endswith("</w>"))
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("\u2581", -9.0)]
    pieces += [(f"\u2581{word}", -5.0) for word in dict.fromkeys(words) if word]
    pieces += [(letter, -8.0) for letter in "abcdefghijklmnopqrstuvwxyz,.'-"]
    tokenizer = T5TokenizerFast(vocab=pieces, extra_ids=0, model_max_length=32)
    config = T5Config(
        vocab_size=len(pieces), d_model=64, d_kv=16, d_ff=64, num_layers=2, num_heads=2, n_positions=32,
        feed_forward_proj="gated-gelu", pad_token_id=0, eos_token_id=1,
    )  # fmt: skip
    return T5EncoderModel(config), tokenizer


def tiny_sd3(seed: int = 0) -> Any:
    """A random Stable Diffusion 3 pipeline: 8 x 8 latents, token rows of 64 (CLIP 16 + 16, T5), pooled rows of 32."""
    import torch
    from diffusers import FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel, StableDiffusion3Pipeline
    from transformers import CLIPTextModelWithProjection

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        transformer = SD3Transformer2DModel(
            sample_size=8, patch_size=2, in_channels=4, out_channels=4, num_layers=2, attention_head_dim=16,
            num_attention_heads=2, joint_attention_dim=64, caption_projection_dim=32, pooled_projection_dim=32,
            pos_embed_max_size=16, dual_attention_layers=(0,), qk_norm="rms_norm",
        )  # fmt: skip
        first, second = (CLIPTextModelWithProjection(_text_config(16, 16, layers)) for layers in (2, 3))
        third, tokenizer = _t5()
        vae = _vae(shift_factor=0.05)
    return _ready(
        StableDiffusion3Pipeline(
            transformer=transformer,
            scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
            vae=vae,
            text_encoder=first,
            tokenizer=_tokenizer(),
            text_encoder_2=second,
            tokenizer_2=_tokenizer(),
            text_encoder_3=third,
            tokenizer_3=tokenizer,
        )
    )


def tiny_flux(seed: int = 0, distilled: bool = True) -> Any:
    """A random FLUX.1 pipeline: 8 x 8 latents in 2 x 2 packs, token rows of 64, pooled rows of 32.

    Args:
        seed: of the weights.
        distilled: guidance is a network input and the shift depends on the picture (dev); else as schnell.
    """
    import torch
    from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel
    from transformers import CLIPTextModel

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        transformer = FluxTransformer2DModel(
            in_channels=16, num_layers=2, num_single_layers=2, attention_head_dim=16, num_attention_heads=2,
            joint_attention_dim=64, pooled_projection_dim=32, guidance_embeds=distilled, axes_dims_rope=(4, 4, 8),
        )  # fmt: skip
        first = CLIPTextModel(_text_config(32, 32))
        second, tokenizer = _t5()
        vae = _vae(shift_factor=0.1)
    shift: dict[str, Any] = {"shift": 3.0, "use_dynamic_shifting": True} if distilled else {"shift": 1.0}
    return _ready(
        FluxPipeline(
            transformer=transformer,
            scheduler=FlowMatchEulerDiscreteScheduler(**shift),
            vae=vae,
            text_encoder=first,
            tokenizer=_tokenizer(),
            text_encoder_2=second,
            tokenizer_2=tokenizer,
        )
    )


def _one_encoder(kind: Any, **parts: Any) -> Any:
    """A pipeline of Stable Diffusion 1's parts, without a safety checker."""
    pipe = kind(
        tokenizer=_tokenizer(), safety_checker=None, feature_extractor=None, requires_safety_checker=False, **parts
    )
    return _ready(pipe)


def _ready(pipe: Any) -> Any:
    pipe.set_progress_bar_config(disable=True)
    for component in pipe.components.values():
        if hasattr(component, "requires_grad_"):
            component.requires_grad_(False).eval()
    return pipe


def tiny_lm(seed: int = 0) -> Any:
    """A random language model of the Llama kind with two layers, which reads the tokens of pocket-lm."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from erase_plugins.families.source import pocket_folder

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = LlamaForCausalLM(LlamaConfig(
            vocab_size=1156, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=2, max_position_embeddings=64, initializer_range=0.1, pad_token_id=0, bos_token_id=1,
            eos_token_id=2,
        )).eval()  # fmt: skip
    model.name_or_path = str(pocket_folder("pocket-lm"))  # where its tokenizer is found
    return model
