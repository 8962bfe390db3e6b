"""The rows of the table."""

from __future__ import annotations

import torch

from tests.runtime.support import drawing, parts
from tests.runtime.support.measure import Situation

_BOTH = ("sd1", "sdxl")
_OFFLOAD = {"device": "cpu"}

SITUATIONS: dict[str, Situation] = {
    "text-to-image": Situation("text-to-image", families=_BOTH),
    "img2img": Situation("img2img", families=_BOTH, before=parts.pipeline("StableDiffusion{}Img2ImgPipeline"), draw=drawing.image),
    "inpainting": Situation(
        "inpainting", before=parts.pipeline("StableDiffusion{}InpaintPipeline"), draw=drawing.inpaint
    ),
    "refiner": Situation("SDXL refiner", families=("refiner",), draw=drawing.image),
    "controlnet": Situation(
        "ControlNet (the ControlNet itself is not edited)",
        before=parts.pipeline("StableDiffusion{}ControlNetPipeline", controlnet=parts.controlnet), draw=drawing.control,
    ),
    "pag": Situation(
        "perturbed-attention guidance",
        before=parts.pipeline("StableDiffusion{}PAGPipeline", pag_applied_layers="mid"), draw=drawing.perturbed,
    ),
    "animatediff": Situation("AnimateDiff", before=parts.animate, draw=drawing.video),
    "animatediff-after": Situation(
        "AnimateDiff made after (a copy; the handle stays with the first pipeline)", copies=True, after=parts.animate, draw=drawing.video
    ),
    "sibling": Situation(
        "`from_pipe` sibling, made after", after=parts.sibling("AutoPipelineForImage2Image"), draw=drawing.image
    ),
    "lora-before": Situation("user LoRA loaded before", families=_BOTH, before=parts.lora),
    "lora-after": Situation("user LoRA loaded after", after=parts.lora),
    "lora-before-unload": Situation("user LoRA loaded before, unloaded after", before=parts.lora, after=parts.unload_lora),
    "lora-after-unload": Situation("user LoRA loaded and unloaded after", after=parts.chain(parts.lora, parts.unload_lora)),
    "fused-before": Situation("fused LoRA before", before=parts.fused_for_good),
    "fused-before-any": Situation(
        "fused LoRA before, `any_base=True`", before=parts.fused_for_good, options={"any_base": True}
    ),
    "fuse-after": Situation(
        "user LoRA loaded before, `fuse_lora` after", before=parts.lora, after=parts.fuse_lora, tolerance=1e-4
    ),
    "fuse-unfuse-after": Situation(
        "user LoRA: `fuse_lora` and `unfuse_lora` after", before=parts.lora,
        after=parts.chain(parts.fuse_lora, parts.unfuse_lora), tolerance=1e-4,
    ),
    "fuse-unload-after": Situation("user LoRA: load, fuse and unload after", families=_BOTH, after=parts.fused_for_good, tolerance=1e-4),
    "ip-before": Situation("IP-Adapter loaded before", families=_BOTH, before=parts.ip_adapter, draw=drawing.with_image_prompt),
    "ip-after": Situation("IP-Adapter loaded after", after=parts.ip_adapter, draw=drawing.with_image_prompt),
    "ip-unload": Situation("IP-Adapter loaded before, unloaded after", before=parts.ip_adapter, after=parts.unload_ip_adapter),
    "ti-before": Situation("textual inversion loaded before", families=_BOTH, before=parts.textual_inversion, draw=drawing.own_token),
    "ti-after": Situation("textual inversion loaded after", after=parts.textual_inversion, draw=drawing.own_token),
    "ti-map": Situation(
        "textual inversion loaded before, context map", kind="map", before=parts.textual_inversion,
        draw=drawing.own_token,
    ),
    "model-offload-before": Situation(
        "model CPU offload before", before=parts.method("enable_model_cpu_offload", **_OFFLOAD)
    ),
    "model-offload-after": Situation(
        "model CPU offload after", families=_BOTH, after=parts.method("enable_model_cpu_offload", **_OFFLOAD)
    ),
    "sequential-before": Situation(
        "sequential CPU offload before", before=parts.sequential_offload
    ),
    "sequential-after": Situation(
        "sequential CPU offload after", after=parts.sequential_offload
    ),
    "cpu-offload-before": Situation("accelerate `cpu_offload` before", before=parts.accelerate_offload),
    "cpu-offload-after": Situation("accelerate `cpu_offload` after", after=parts.accelerate_offload),
    "compile-before": Situation("`torch.compile` before", before=parts.compiled),
    "compile-after": Situation("`torch.compile` after", after=parts.compiled),
    "compile-in-place": Situation("`unet.compile()` before", before=parts.compiled_in_place),
    "qkv-before": Situation("`fuse_qkv_projections` before", hand_first=True, before=parts.method("fuse_qkv_projections")),
    "qkv-after": Situation("`fuse_qkv_projections` after", families=_BOTH, after=parts.method("fuse_qkv_projections")),
    "fp16": Situation("float16 weights", before=parts.cast(torch.float16)),
    "bf16": Situation("bfloat16 weights", families=_BOTH, before=parts.cast(torch.bfloat16)),
    "cast-after": Situation("cast to bfloat16 after", after=parts.cast(torch.bfloat16)),
    "layerwise": Situation(
        "fp8 layerwise casting before",
        before=parts.unet_method("enable_layerwise_casting", torch.float8_e4m3fn, torch.float32),
    ),
    "quanto-before": Situation("quanto before", before=parts.quanto(), needs="optimum.quanto"),
    "quanto-after": Situation("quanto after", families=_BOTH, after=parts.quanto(), needs="optimum.quanto"),
    "torchao-before": Situation("torchao before", before=parts.torchao(), needs="torchao"),
    "torchao-after": Situation("torchao after", after=parts.torchao(), needs="torchao"),
    "bnb4-before": Situation("bitsandbytes 4 bit before", before=parts.bitsandbytes(4), needs="bitsandbytes"),
    "bnb8-before": Situation("bitsandbytes 8 bit before", before=parts.bitsandbytes(8), needs="bitsandbytes"),
    "bnb4-after": Situation("bitsandbytes 4 bit after", after=parts.bitsandbytes(4), needs="bitsandbytes"),
    "bnb4-text": Situation(
        "text encoder in 4 bit, the denoiser is edited", kind="unet", before=parts.bitsandbytes(4, "text_encoder"),
        needs="bitsandbytes",
    ),
    "text-encoder": Situation(
        "another text encoder, the denoiser is edited", kind="unet", before=parts.other("text_encoder")
    ),
    "text-encoder-map": Situation("another text encoder, context map", families=_BOTH, kind="map", before=parts.other("text_encoder")),
    "unet": Situation("another denoiser (a fine-tune)", before=parts.other("unet")),
    "unet-any": Situation(
        "another denoiser (a fine-tune), `any_base=True`", before=parts.other("unet"), options={"any_base": True}
    ),
    "unet-after": Situation("denoiser replaced after (the new one has no edit)", kind="unet", after=parts.other("unet")),
    "vae": Situation("another VAE", before=parts.other("vae")),
    "scheduler": Situation("another scheduler", before=parts.scheduler),
    "slicing": Situation("attention slicing", before=parts.method("enable_attention_slicing")),
    "freeu": Situation("FreeU", before=parts.freeu),
    "two": Situation("two artifacts", second="weights", tolerance=1e-5),
    "map": Situation("context map, written into the weights", families=_BOTH, kind="map"),
    "context": Situation('`mode="context"`', families=_BOTH, kind="map", options={"mode": "context"}, tolerance=1e-5),
    "context-lora": Situation(
        '`mode="context"`, user LoRA before and unloaded after', kind="map", options={"mode": "context"},
        before=parts.lora, after=parts.unload_lora, tolerance=1e-5,
    ),
    "context-animatediff": Situation(
        '`mode="context"`, AnimateDiff made after', kind="map", options={"mode": "context"}, after=parts.animate,
        draw=drawing.video, tolerance=1e-5,
    ),
    "context-quanto": Situation(
        '`mode="context"` on quanto weights', kind="map", options={"mode": "context"}, before=parts.quanto(),
        needs="optimum.quanto", tolerance=1e-5,
    ),
    "context-sequential": Situation(
        '`mode="context"` under sequential CPU offload', kind="map", options={"mode": "context"},
        before=parts.sequential_offload, tolerance=1e-5,
    ),
    "gated": Situation("gated artifact", families=_BOTH, kind="gated", draw=drawing.plain_guidance, tolerance=1e-4),
    "gated-lora": Situation(
        "gated artifact, user LoRA before and unloaded after", kind="gated", before=parts.lora, after=parts.unload_lora,
        draw=drawing.plain_guidance, tolerance=1e-4,
    ),
    "gated-qkv": Situation(
        "gated artifact, `fuse_qkv_projections` after", kind="gated", after=parts.method("fuse_qkv_projections"),
        draw=drawing.plain_guidance, tolerance=1e-4,
    ),
    "gated-pag": Situation(
        "gated artifact, perturbed-attention guidance", kind="gated",
        before=parts.pipeline("StableDiffusion{}PAGPipeline", pag_applied_layers="mid"), draw=drawing.perturbed,
    ),
    "gated-ip": Situation("gated artifact, IP-Adapter before", kind="gated", before=parts.ip_adapter,
        draw=drawing.plain_image_prompt, tolerance=1e-4),
    "gated-sibling": Situation(
        "gated artifact, `from_pipe` sibling with perturbed-attention guidance", kind="gated",
        after=parts.pipeline("StableDiffusion{}PAGPipeline", pag_applied_layers="mid"), draw=drawing.perturbed,
    ),
    "added": Situation("added modules (Receler)", kind="added", tolerance=1e-5),
    "added-lora": Situation(
        "added modules (Receler), user LoRA before and unloaded after", kind="added", before=parts.lora,
        after=parts.unload_lora, tolerance=1e-5,
    ),
    "twice": Situation("the same artifact a second time", before=parts.applied),
    "twice-sibling": Situation(
        "the same artifact a second time, on a `from_pipe` sibling",
        before=parts.chain(parts.applied, parts.sibling("AutoPipelineForImage2Image")), draw=drawing.image,
    ),
    "twice-lora": Situation("the same artifact, loaded as a LoRA before", kind="unet", before=parts.as_lora),
    "lcm": Situation("LCM-LoRA and its scheduler before", before=parts.chain(parts.lora, parts.lcm)),
    "adapter-weight": Situation(
        "user LoRA before, its weight changed after", before=parts.lora,
        after=parts.method("set_adapters", ["user"], adapter_weights=[0.3]),
    ),
    "channels-last": Situation(
        "channels-last memory after", after=parts.unet_method("to", memory_format=torch.channels_last)
    ),
    "group-before": Situation("group offloading before", before=parts.group_offload),
    "group-after": Situation("group offloading after", after=parts.group_offload),
    "layerwise-after": Situation(
        "fp8 layerwise casting after",
        after=parts.unet_method("enable_layerwise_casting", torch.float8_e4m3fn, torch.float32),
    ),
    "trained": Situation("weights trained on after", after=parts.trained),
}  # fmt: skip
