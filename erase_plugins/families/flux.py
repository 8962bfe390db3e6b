"""FLUX.1 (dev, schnell, and what shares their transformer): CLIP gives the pooled row, T5 the token rows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from erase_plugins.families.flow import FlowFamily, packed
from erase_plugins.families.flow_names import FLUX
from erase_plugins.hookspecs import hookimpl

if TYPE_CHECKING:
    from torch import Tensor

    from erase_plugins.families.conditioning import Conditioning


class Flux(FlowFamily):
    """Latents are packed two by two; guidance is a network input where the model was distilled for it (dev)."""

    id = "flux"
    title = "FLUX.1"
    components = ("transformer", "text_encoder")
    encoders = ("text_encoder", "text_encoder_2")
    projected = ()
    pipeline = "FluxPipeline"
    transformer = "FluxTransformer2DModel"
    lengths = (512, 256)
    originals = FLUX
    clip_rows = False
    even_sigmas = True
    modelspec = "flux-1-dev/lora"
    base_version = "flux1"
    presets = ("flow",)
    ui_versions: Mapping[int, str] = {0: "Flux"}

    def latent_shape(self, configs: Mapping[str, Mapping[str, Any]]) -> tuple[int, int, int]:
        vae = configs.get("vae", {})
        size = int(vae.get("sample_size") or 1024) // 2 ** (len(vae.get("block_out_channels") or (0,) * 4) - 1)
        return int(configs["transformer"].get("in_channels", 64)) // 4, size, size

    def encode_texts(self, pipe: Any, prompts: list[str], length: int, device: Any) -> tuple[Tensor, Tensor]:
        from erase_plugins.families.hosts import encoding_of

        found = encoding_of(pipe)(prompts, None, device=device, max_sequence_length=length)
        return found[0], found[1]

    def velocity(self, network: Any, latents: Tensor, sigma: Tensor, cond: Conditioning, guidance: float) -> Tensor:
        count, channels, height, width = latents.shape
        dtype, device = latents.dtype, latents.device
        place = latents.new_zeros(height // 2, width // 2, 3)
        place[..., 1] += latents.new_tensor(range(height // 2))[:, None]
        place[..., 2] += latents.new_tensor(range(width // 2))[None]
        distilled = network.config.guidance_embeds
        found: Tensor = network(
            hidden_states=packed(latents), encoder_hidden_states=cond.embeds,
            pooled_projections=cond.pooled, timestep=sigma.to(dtype),  # multiplied by 1000 inside
            img_ids=place.reshape(-1, 3), txt_ids=latents.new_zeros(cond.embeds.shape[1], 3),
            guidance=latents.new_full((count,), guidance).to(device) if distilled else None, return_dict=False,
        )[0]  # fmt: skip
        found = found.reshape(count, height // 2, width // 2, channels, 2, 2).permute(0, 3, 1, 4, 2, 5)
        return found.reshape(latents.shape)


@hookimpl
def erase_families() -> list[Flux]:
    return [Flux()]
