"""Stands in for packs of others in custom_nodes: nodes with the ids and sockets of ComfyUI-NAG and cd-tuner_negpip.

What they draw is guidance by a negative prompt, which is enough to see that a template finds and connects them.
"""

from __future__ import annotations

from typing import Any


class KSamplerWithNAG:
    """The sampler of ComfyUI-NAG (ef8a641), by its sockets."""

    FUNCTION, CATEGORY, RETURN_TYPES = "sample", "sampling", ("LATENT",)

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        number = {"min": 0.0, "max": 100.0, "step": 0.01}
        return {
            "required": {
                "model": ("MODEL",),
                "seed": ("INT", {"default": 0, "min": 0, "max": 2**64 - 1, "control_after_generate": True}),
                "steps": ("INT", {"default": 20, "min": 1, "max": 10000}),
                "cfg": ("FLOAT", {"default": 8.0, **number}),
                "nag_scale": ("FLOAT", {"default": 5.0, **number}),
                "nag_tau": ("FLOAT", {"default": 2.5, "min": 1.0, "max": 10.0, "step": 0.1}),
                "nag_alpha": ("FLOAT", {"default": 0.25, "min": 0.0, "max": 1.0, "step": 0.01}),
                "nag_sigma_end": ("FLOAT", {"default": 0.0, "min": 0.0, "max": 20.0, "step": 0.01}),
                "sampler_name": (["euler", "dpmpp_2m"],),
                "scheduler": (["normal", "karras"],),
                "positive": ("CONDITIONING",),
                "negative": ("CONDITIONING",),
                "nag_negative": ("CONDITIONING",),
                "latent_image": ("LATENT",),
                "denoise": ("FLOAT", {"default": 1.0, "min": 0.0, "max": 1.0, "step": 0.01}),
            }
        }

    def sample(
        self, model: Any, seed: int, steps: int, cfg: float, nag_scale: float, nag_tau: float, nag_alpha: float,
        nag_sigma_end: float, sampler_name: str, scheduler: str, positive: Any, negative: Any, nag_negative: Any,
        latent_image: Any, denoise: float = 1.0,
    ) -> Any:  # fmt: skip
        from nodes import common_ksampler

        strength = cfg + nag_alpha * nag_scale
        return common_ksampler(
            model, seed, steps, strength, sampler_name, scheduler, positive, nag_negative, latent_image, denoise
        )


class Negpip:
    """The node of cd-tuner_negpip (938b838), by its sockets; nothing is changed."""

    FUNCTION, CATEGORY, RETURN_TYPES = "apply", "loaders", ("MODEL", "CLIP")

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"model": ("MODEL",), "clip": ("CLIP",)}}

    def apply(self, model: Any, clip: Any) -> Any:
        return model, clip


NODE_CLASS_MAPPINGS = {"KSamplerWithNAG": KSamplerWithNAG, "Negpip": Negpip}
