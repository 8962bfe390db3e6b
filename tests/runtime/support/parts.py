"""What users put on a pipeline, tiny and random: LoRAs, adapters, other pipelines, memory savers, quantisation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

Change = Callable[[Any], Any]


def fresh(family: str) -> Any:
    """A tiny random pipeline of a family."""
    from erase_plugins.testing.tiny import tiny_refiner, tiny_sd1, tiny_sdxl

    return {"sd1": tiny_sd1, "sdxl": tiny_sdxl, "refiner": tiny_refiner}[family]()


def chain(*steps: Change) -> Change:
    """One step after the other."""

    def run(pipe: Any) -> Any:
        for step in steps:
            pipe = step(pipe)
        return pipe

    return run


def seeded(pipe: Any, build: Callable[[], Any], seed: int = 3) -> Any:
    """What ``build`` returns, with random numbers of its own."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return build()


# --- LoRA


def lora(pipe: Any, name: str = "user") -> Any:
    """A LoRA of the user's on the denoiser's attention, loaded through the public loader."""
    shapes = {
        path: module
        for path, module in pipe.unet.named_modules()
        if path.endswith(("to_k", "to_q")) or path.endswith(("to_k.base_layer", "to_q.base_layer"))
    }
    generator = torch.Generator().manual_seed(7)
    state = {}
    for path, module in sorted(shapes.items()):
        path = path.removesuffix(".base_layer")
        state[f"unet.{path}.lora_A.weight"] = torch.randn(2, module.in_features, generator=generator)
        state[f"unet.{path}.lora_B.weight"] = 0.1 * torch.randn(module.out_features, 2, generator=generator)
    pipe.load_lora_weights(state, adapter_name=name)
    return pipe


def fuse_lora(pipe: Any) -> Any:
    pipe.fuse_lora()
    return pipe


def unfuse_lora(pipe: Any) -> Any:
    pipe.unfuse_lora()
    return pipe


def unload_lora(pipe: Any) -> Any:
    pipe.unload_lora_weights()
    return pipe


def fused_for_good(pipe: Any) -> Any:
    """A LoRA in the weights, its adapter gone."""
    return unload_lora(fuse_lora(lora(pipe)))


# --- adapters


def ip_adapter(pipe: Any) -> Any:
    """An IP-Adapter with its own key and value projections and an image projection."""
    generator = torch.Generator().manual_seed(8)
    width = pipe.unet.config.cross_attention_dim
    state: dict[str, Any] = {"ip_adapter": {}}
    paths = [path for path in pipe.unet.attn_processors if "motion_modules" not in path and ".attn2." in path]
    for number, path in enumerate(paths):
        hidden = pipe.unet.get_submodule(path.removesuffix(".processor") + ".to_q").out_features
        for half in ("k", "v"):
            state["ip_adapter"][f"{2 * number + 1}.to_{half}_ip.weight"] = 0.3 * torch.randn(
                hidden, width, generator=generator
            )
    state["image_proj"] = {
        "proj.weight": 0.3 * torch.randn(4 * width, 16, generator=generator),
        "proj.bias": torch.zeros(4 * width),
        "norm.weight": torch.ones(width),
        "norm.bias": torch.zeros(width),
    }
    pipe.unet._load_ip_adapter_weights([state])
    return pipe


def unload_ip_adapter(pipe: Any) -> Any:
    pipe.unload_ip_adapter()
    return pipe


def textual_inversion(pipe: Any) -> Any:
    """A learned token, "<mine>"."""
    vector = torch.randn(1, 32, generator=torch.Generator().manual_seed(9))
    pipe.load_textual_inversion({"<mine>": vector}, token="<mine>")
    if getattr(pipe, "tokenizer_2", None) is not None:
        pipe.load_textual_inversion(
            {"<mine>": vector}, token="<mine>", text_encoder=pipe.text_encoder_2, tokenizer=pipe.tokenizer_2
        )
    return pipe


# --- other pipelines around the same parts


def pipeline(name: str, **extra: Any) -> Change:
    """The same components in another pipeline class, as its constructor takes them."""

    def change(pipe: Any) -> Any:
        import diffusers

        xl = getattr(pipe, "text_encoder_2", None) is not None
        made = getattr(diffusers, name.replace("{}", "XL" if xl else ""))(
            **{key: value for key, value in pipe.components.items() if key != "image_encoder"},
            **_extra(pipe, extra),
            **_plain(xl),
        )
        made.set_progress_bar_config(disable=True)
        return made

    return change


def _plain(xl: bool) -> dict[str, Any]:
    return {"add_watermarker": False} if xl else {"requires_safety_checker": False}


def _extra(pipe: Any, extra: dict[str, Any]) -> dict[str, Any]:
    return {key: value(pipe) if callable(value) else value for key, value in extra.items()}


def sibling(name: str, **extra: Any) -> Change:
    """`from_pipe` of another pipeline class."""

    def change(pipe: Any) -> Any:
        import diffusers

        made = getattr(diffusers, name).from_pipe(pipe, **_extra(pipe, extra))
        made.set_progress_bar_config(disable=True)
        return made

    return change


def controlnet(pipe: Any) -> Any:
    """A ControlNet with random weights."""
    from diffusers import ControlNetModel

    def build() -> Any:
        net = ControlNetModel.from_unet(
            pipe.unet, load_weights_from_unet=False, conditioning_embedding_out_channels=(16, 32)
        )
        for parameter in net.parameters():
            parameter.data = 0.1 * torch.randn_like(parameter)
        return net.eval()

    return seeded(pipe, build)


def motion(pipe: Any) -> Any:
    """Motion modules for AnimateDiff."""
    from diffusers import MotionAdapter

    return seeded(
        pipe,
        lambda: MotionAdapter(
            block_out_channels=(16, 32),
            motion_layers_per_block=1,
            motion_norm_num_groups=4,
            motion_num_attention_heads=2,
            use_motion_mid_block=False,
        ).eval(),
    )


def animate(pipe: Any) -> Any:
    """AnimateDiff around the parts."""
    from diffusers import AnimateDiffPipeline

    parts = {name: pipe.components[name] for name in ("vae", "text_encoder", "tokenizer", "unet", "scheduler")}
    made = AnimateDiffPipeline(**parts, motion_adapter=motion(pipe))
    made.set_progress_bar_config(disable=True)
    return made


# --- memory and speed


def method(name: str, *args: Any, **options: Any) -> Change:
    """A call of the pipeline's own method."""

    def change(pipe: Any) -> Any:
        getattr(pipe, name)(*args, **options)
        return pipe

    return change


def unet_method(name: str, *args: Any, **options: Any) -> Change:
    """A call of the denoiser's own method."""

    def change(pipe: Any) -> Any:
        getattr(pipe.unet, name)(*args, **options)
        return pipe

    return change


def cast(dtype: torch.dtype) -> Change:
    return lambda pipe: pipe.to(dtype)


def accelerate_offload(pipe: Any) -> Any:
    from accelerate import cpu_offload

    cpu_offload(pipe.unet, torch.device("cpu"))
    return pipe


def sequential_offload(pipe: Any) -> Any:
    """`enable_sequential_cpu_offload`, which asks for an accelerator, done for a CPU as it does it."""
    from accelerate import cpu_offload

    for part in pipe.components.values():
        if isinstance(part, torch.nn.Module):
            cpu_offload(part, torch.device("cpu"), offload_buffers=len(part._parameters) > 0)
    return pipe


def compiled(pipe: Any) -> Any:
    """As `torch.compile` does it, without a backend that takes minutes."""
    pipe.unet = torch.compile(pipe.unet, backend="eager")
    return pipe


def compiled_in_place(pipe: Any) -> Any:
    pipe.unet.compile(backend="eager")
    return pipe


def quanto(component: str = "unet", frozen: bool = True) -> Change:
    def change(pipe: Any) -> Any:
        from optimum.quanto import freeze, qint8, quantize

        quantize(getattr(pipe, component), weights=qint8)
        if frozen:
            freeze(getattr(pipe, component))
        return pipe

    return change


def torchao(component: str = "unet") -> Change:
    def change(pipe: Any) -> Any:
        from torchao.quantization import Int8WeightOnlyConfig, quantize_

        quantize_(getattr(pipe, component), Int8WeightOnlyConfig())
        return pipe

    return change


def bitsandbytes(bits: int, component: str = "unet") -> Change:
    """Every linear layer replaced, as the loaders of diffusers and transformers do it."""

    def change(pipe: Any) -> Any:
        import bitsandbytes as bnb
        from torch import nn

        owner = getattr(pipe, component)
        for path, layer in list(owner.named_modules()):
            if type(layer) is nn.Linear:
                kind, options = (
                    (bnb.nn.Linear4bit, {}) if bits == 4 else (bnb.nn.Linear8bitLt, {"has_fp16_weights": False})
                )
                new = kind(layer.in_features, layer.out_features, layer.bias is not None, **options)
                new.load_state_dict(layer.state_dict())
                parent, _, name = path.rpartition(".")
                setattr(owner.get_submodule(parent), name, new.to("cpu").requires_grad_(False))
        return pipe

    return change


# --- other parts


def other(component: str, seed: int = 11) -> Change:
    """Another component of the same shape."""

    def change(pipe: Any) -> Any:
        from erase_plugins.testing.tiny import tiny_sd1, tiny_sdxl

        xl = getattr(pipe, "text_encoder_2", None) is not None
        setattr(pipe, component, getattr((tiny_sdxl if xl else tiny_sd1)(seed=seed), component))
        return pipe

    return change


def scheduler(pipe: Any) -> Any:
    from diffusers import DPMSolverMultistepScheduler

    pipe.scheduler = DPMSolverMultistepScheduler.from_config(pipe.scheduler.config)
    return pipe


def freeu(pipe: Any) -> Any:
    pipe.enable_freeu(s1=0.9, s2=0.2, b1=1.2, b2=1.4)
    return pipe


def lcm(pipe: Any) -> Any:
    from diffusers import LCMScheduler

    pipe.scheduler = LCMScheduler.from_config(pipe.scheduler.config)
    return pipe


def group_offload(pipe: Any) -> Any:
    pipe.unet.enable_group_offload(torch.device("cpu"), torch.device("cpu"), offload_type="leaf_level")
    return pipe


def trained(pipe: Any) -> Any:
    """A step of training in place, as an optimiser takes it."""
    with torch.no_grad():
        for parameter in pipe.unet.parameters():
            parameter.mul_(1.01)
    return pipe


# --- our own edit, twice


def applied(pipe: Any) -> Any:
    import erase_plugins as ep
    from tests.runtime.support.measure import artifact

    ep.apply(pipe, artifact("weights", "sd1"))
    return pipe


def as_lora(pipe: Any) -> Any:
    """The artifact's own change, through the LoRA loader of diffusers."""
    from tests.runtime.support.measure import artifact

    state = {}
    for name, change in artifact("unet", "sd1").edit.deltas["unet"].items():
        stem = f"unet.{name.removesuffix('.weight')}"
        state[f"{stem}.lora_A.weight"], state[f"{stem}.lora_B.weight"] = change.A.clone(), change.B.clone()
    pipe.load_lora_weights(state, adapter_name="eraser")
    return pipe
