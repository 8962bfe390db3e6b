"""All numbers of the training recipe in one place. No torch."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from erase_plugins.errors import RequestError

#: stages of the command, in order; "refine" is the second half of "denoiser"
STAGES = ("vae", "decoder", "denoiser", "judge", "flow", "measure")


@dataclass(frozen=True)
class Recipe:
    """Sizes, steps and rates; the defaults made the embedded model.

    Attributes:
        seed: of initial weights, pictures, captions and noise.
        size: pixels per side.
        scale, shift: sprite size as a share of the frame, and the largest offset of its centre.
        copies: jittered latents cached per concept, style and background.
        empty: share of empty captions, for guidance.
        synonym_concept, synonym_style, synonym_background: share of captions that use another word.
        flow_scale, flow_shift, flow_copies: as without "flow", for the transformer, whose pictures move less.
        flow_captions: captions encoded ahead for every concept, style and background.
        flow_lr, flow_rest_lr: of the matrices of its blocks (Muon), and of all else (AdamW).
        checkpoint_every: steps between checkpoints.
    """

    seed: int = 0
    size: int = 64
    scale: tuple[float, float] = (0.80, 0.90)
    shift: float = 0.06
    copies: int = 4
    empty: float = 0.08
    synonym_concept: float = 0.25
    synonym_style: float = 0.20
    synonym_background: float = 0.15

    vae_channels: tuple[int, ...] = (32, 64, 128)
    vae_groups: int = 16
    vae_steps: int = 2000
    vae_batch: int = 16
    vae_lr: float = 1.5e-3
    vae_mse: float = 0.5
    vae_edge: float = 0.5
    vae_kl: float = 2e-4
    decoder_steps: int = 2500
    decoder_lr: float = 6e-4

    unet_channels: tuple[int, ...] = (64, 128, 256)
    unet_groups: int = 32
    heads: int = 4
    context: int = 256
    text_layers: int = 4
    tokens: int = 32
    denoiser_steps: int = 4460
    denoiser_batch: int = 64
    denoiser_lr: float = 6e-4
    refine_steps: int = 1780
    refine_lr: float = 3.5e-4
    text_lr_share: float = 0.5
    min_snr: float = 5.0
    ema: float = 0.9995

    judge_steps: int = 3000
    judge_batch: int = 64
    judge_lr: float = 2e-3
    judge_nothing: float = 0.06
    smoothing: float = 0.05

    flow_width: int = 256
    flow_heads: int = 4
    flow_layers: int = 4
    flow_tokens: int = 16
    flow_scale: tuple[float, float] = (0.83, 0.87)
    flow_shift: float = 0.02
    flow_copies: int = 2
    flow_captions: int = 6
    flow_steps: int = 2400
    flow_batch: int = 48
    flow_lr: float = 4e-3
    flow_rest_lr: float = 2e-3
    flow_ema: float = 0.997

    warmup: float = 0.02
    weight_decay: float = 0.01
    clip: float = 1.0
    checkpoint_every: int = 200

    def __post_init__(self) -> None:
        if not 0 < self.scale[0] <= self.scale[1] <= 1:
            raise RequestError(f"scale {self.scale} must be two shares of the frame, small to large, in 0..1")
        if self.size % 2 ** (len(self.vae_channels) - 1 + len(self.unet_channels) - 1):
            raise RequestError(f"size {self.size} is not divisible by the levels of autoencoder and denoiser")

    def scaled(self, factor: float) -> Recipe:
        """The same recipe with every stage's steps multiplied (at least one step each).

        Raises:
            RequestError: the factor is not positive.
        """
        if not factor > 0:
            raise RequestError(f"steps scale must be positive, got {factor}")
        steps = {name: max(1, round(getattr(self, name) * factor)) for name in self._step_fields()}
        return replace(self, **steps)

    def steps(self) -> dict[str, int]:
        """Steps of each training loop by name."""
        return {name.removesuffix("_steps"): getattr(self, name) for name in self._step_fields()}

    def differences(self, saved: dict[str, Any]) -> list[str]:
        """Fields in which a saved recipe differs (not the checkpoint interval, which changes no result)."""
        mine = {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}
        names = [key for key in mine if key != "checkpoint_every" and saved.get(key) != mine[key]]
        return [f"{key} (was {saved.get(key)}, is {mine[key]})" for key in names]

    @classmethod
    def _step_fields(cls) -> list[str]:
        return [field.name for field in fields(cls) if field.name.endswith("_steps")]
