"""Stable Diffusion 3 and 3.5 (medium, large): two CLIP encoders and T5, joint attention, velocity."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from erase_plugins.families.flow import TOY, FlowFamily, call_options
from erase_plugins.families.flow_names import SD3
from erase_plugins.hookspecs import hookimpl

if TYPE_CHECKING:
    from torch import Tensor

    from erase_plugins.families.conditioning import Conditioning
    from erase_plugins.families.model import ModelSpec


class StableDiffusion3(FlowFamily):
    """Token rows are those of both CLIP encoders side by side, padded with zeros, and below them those of T5."""

    id = "sd3"
    title = "Stable Diffusion 3 / 3.5"
    components = ("transformer", "text_encoder", "text_encoder_2")
    encoders = ("text_encoder", "text_encoder_2", "text_encoder_3")
    projected = ("text_encoder", "text_encoder_2")
    pipeline = "StableDiffusion3Pipeline"
    transformer = "SD3Transformer2DModel"
    lengths = (256, 77)
    originals = SD3
    clip_rows = True
    even_sigmas = False
    modelspec = "stable-diffusion-3/lora"
    base_version = "sd3"
    presets = (TOY, "flow")
    ui_versions: Mapping[int, str] = {0: "SD3"}

    def latent_shape(self, configs: Mapping[str, Mapping[str, Any]]) -> tuple[int, int, int]:
        config = configs["transformer"]
        size = int(config.get("sample_size") or 128)
        return int(config.get("in_channels", 16)), size, size

    def encode_texts(self, pipe: Any, prompts: list[str], length: int, device: Any) -> tuple[Tensor, Tensor]:
        from erase_plugins.families.hosts import encoding_of

        found = encoding_of(pipe)(
            prompts, None, None, device=device, do_classifier_free_guidance=False, max_sequence_length=length
        )
        return found[0], found[2]

    def spare_encoders(self, info: ModelSpec) -> tuple[str, ...]:
        """T5, for which pipelines put zeros."""
        return self.encoders[-1:]

    def encode_ids(self, pipe: Any, ids: Mapping[str, Tensor]) -> tuple[Tensor, Tensor | None]:
        """As the pipeline encodes prompts where T5 is missing, with gradients."""
        import torch

        found = [getattr(pipe, name)(ids[name], output_hidden_states=True) for name in self.projected]
        rows = torch.cat([item.hidden_states[-2] for item in found], dim=-1)
        rows = torch.nn.functional.pad(rows, (0, pipe.transformer.config.joint_attention_dim - rows.shape[-1]))
        length = call_options(pipe).get("max_sequence_length", self.lengths[0])
        zeros = rows.new_zeros(len(rows), length, rows.shape[-1])
        return torch.cat([rows, zeros], dim=1), torch.cat([item[0] for item in found], dim=-1)

    def velocity(self, network: Any, latents: Tensor, sigma: Tensor, cond: Conditioning, guidance: float) -> Tensor:
        found: Tensor = network(
            hidden_states=latents, encoder_hidden_states=cond.embeds, pooled_projections=cond.pooled,
            timestep=1000 * sigma, return_dict=False,
        )[0]  # fmt: skip
        return found


@hookimpl
def erase_families() -> list[StableDiffusion3]:
    return [StableDiffusion3()]
