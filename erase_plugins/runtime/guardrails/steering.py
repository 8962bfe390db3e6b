"""Guards that steer the guidance of a picture in the making: a negative prompt, and safe latent diffusion (SLD).

SLD: Schramowski et al., CVPR 2023, arXiv 2211.05105; equations and presets as in diffusers' pipeline of that name.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from erase_plugins.errors import RunRefused, Unsupported
from erase_plugins.runtime.guardrails.looking import listed
from erase_plugins.runtime.guardrails.watch import Guiding


def check_guided(given: Mapping[str, Any], what: str) -> None:
    """Refuses a picture without guidance, on which nothing could be steered.

    Raises:
        Unsupported: guidance 1, as of distilled models.
    """
    if not given.get("do_classifier_free_guidance", True):
        raise Unsupported(
            f"the guard '{what}' steers the guidance and does nothing at guidance 1; raise guidance_scale"
        )


class NegativePrompt(Guiding):
    """The concept stands in the negative prompt, behind what is there already."""

    def __init__(self, text: str, strength: float) -> None:
        self.text, self.strength = text, strength

    def before(self, given: dict[str, Any]) -> dict[str, Any]:
        """The arguments with the concept in every negative prompt.

        Raises:
            Unsupported: guidance 1.
            RunRefused: the negative prompt is given as embeddings.
        """
        check_guided(given, "negative-prompt")
        if given.get("negative_prompt_embeds") is not None:
            raise RunRefused("the guard 'negative-prompt' cannot extend negative_prompt_embeds; give the text")
        return given | {
            name: self._with(given[name], given)
            for name in ("negative_prompt", "negative_prompt_2")
            if name == "negative_prompt" or given.get(name) is not None
        }

    def negative_text(self, text: str) -> str:
        """The concept behind what is there."""
        return str(self._with(text, {}))

    def _with(self, value: Any, given: Mapping[str, Any]) -> Any:
        if value is None:  # pipelines ask for as many negative prompts as there are prompts, in the same form
            prompt, rows = given.get("prompt"), given.get("prompt_embeds")
            if isinstance(prompt, list | tuple):
                return [self.text] * len(prompt)
            return self.text if prompt is not None or rows is None else [self.text] * len(rows)
        if isinstance(value, str):
            return f"{value}, {self.text}" if value else self.text
        return [self._with(text or "", given) for text in listed(value)]


@dataclass(frozen=True)
class SafetySettings:
    """Warm-up in steps, scale s_S, threshold lambda, momentum scale s_m and decay beta_m."""

    warmup: int
    scale: float
    threshold: float
    momentum: float
    decay: float


def weights(x: Tensor, s: Tensor, settings: SafetySettings) -> Tensor:
    """How much every element is steered, 0..1: not where the prompt exceeds the safety text by the threshold."""
    d = x - s
    mu = (settings.scale * d.abs()).clamp(max=1.0)
    return torch.where(d >= settings.threshold, torch.zeros_like(mu), mu)


def safety(u: Tensor, x: Tensor, s: Tensor, nu: Tensor, settings: SafetySettings) -> tuple[Tensor, Tensor]:
    """Safety term gamma and the next momentum nu, from predictions for the empty, the asked and the safety text."""
    gamma = weights(x, s, settings) * (s - u) + settings.momentum * nu
    return gamma, settings.decay * nu + (1.0 - settings.decay) * gamma


class SafeLatentDiffusion(Guiding):
    """A third row per picture in the denoiser, for the safety text, and the term that its prediction gives.

    The pipeline computes u + g (x - u); with x - gamma in the place of x that is u + g (x - u - gamma).
    """

    def __init__(self, text: str, settings: SafetySettings, target: Any, denoiser: nn.Module, strength: float) -> None:
        self.text, self.settings, self.target, self.strength = text, settings, target, strength
        self.rows, self.step = 0, 0
        self.nu: Tensor | None = None
        self.handles = [
            denoiser.register_forward_pre_hook(self._widen, with_kwargs=True, prepend=True),
            denoiser.register_forward_hook(self._steer),
        ]

    def before(self, given: dict[str, Any]) -> dict[str, Any]:
        """The arguments as they are.

        Raises:
            Unsupported: guidance 1.
        """
        check_guided(given, "sld")
        return given

    def after(self, given: dict[str, Any], result: Any) -> Any:
        """The result as it is; a new picture begins."""
        self.rows, self.step, self.nu = int(result[0].shape[0]), 0, None
        return result

    def end(self) -> None:
        """The picture is finished: passes from now on are not its steps. Says so if none came to be steered."""
        if self.rows and self.strength and 0 < self.step <= self.settings.warmup:
            warnings.warn(
                f"the guard 'sld' waits for {self.settings.warmup} steps and this picture had {self.step}, so it did "
                "nothing; make it again with a smaller warmup",
                stacklevel=2,
            )
        self.rows, self.nu = 0, None

    def led(self, null: Tensor, asked: Tensor, ask: Callable[[str], Tensor], step: Tensor) -> Tensor:
        """The prediction less the safety term behind the warm-up.

        There is no momentum without the steps before, and no gradient goes through the term: its weights are constant
        where they are at their bounds, and noisy elsewhere.
        """
        gamma, _ = safety(null, asked.detach(), ask(self.text), torch.zeros_like(null), self.settings)
        return asked - self.strength * gamma * (step >= self.settings.warmup)

    def _widen(self, _module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        latents = args[0] if args else kwargs["sample"]
        if self.strength == 0.0 or not self.rows:
            return None
        if latents.shape[0] != 2 * self.rows:
            raise Unsupported(
                f"the guard 'sld' expects two rows per picture in the denoiser ({2 * self.rows}), this pipeline gives "
                f"{latents.shape[0]}; use another guard with it"
            )
        cond = self.target.encode([self.text])
        own = {"encoder_hidden_states": cond.embeds, "text_embeds": cond.pooled}
        return tuple(self._wider(item, "", {}) for item in args), {
            name: self._wider(item, name, own) for name, item in kwargs.items()
        }

    def _wider(self, value: Any, name: str, own: Mapping[str, Tensor | None]) -> Any:
        """Tensors with a row per picture and side get a third side, the safety text's or a copy of the prompt's."""
        if isinstance(value, Mapping):
            return {key: self._wider(item, key, own) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return type(value)(self._wider(item, name, own) for item in value)
        if not isinstance(value, Tensor) or not value.ndim or value.shape[0] != 2 * self.rows:
            return value
        third = own.get(name)
        if third is None:
            return torch.cat([value, value[self.rows :]])
        return torch.cat([value, third.to(value).expand(self.rows, *third.shape[1:])])

    def _steer(self, _module: nn.Module, _args: Any, output: Any) -> Any:
        if self.strength == 0.0 or not self.rows:
            return None
        made = output[0]
        u, x, s = (part.float() for part in made.split(self.rows))
        gamma, self.nu = safety(u, x, s, torch.zeros_like(u) if self.nu is None else self.nu, self.settings)
        if self.step >= self.settings.warmup:
            x = x - self.strength * gamma
        self.step += 1
        steered = torch.cat([u, x]).to(made.dtype)
        if isinstance(output, tuple):
            return (steered, *output[1:])
        output.sample = steered
        return output

    def detach(self) -> None:
        """Takes the hooks off."""
        for handle in self.handles:
            handle.remove()
