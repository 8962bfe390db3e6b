"""Guards that steer cross-attention: normalised attention guidance (NAG), and a negative prompt in the prompt (NegPip).

Both act on the rows that are asked for, not on those of the empty prompt, and need no guidance: models at guidance 1
can have them.

NAG (Chen et al., 2025, arXiv 2505.21179): with Z+ what a layer attends to in the prompt and Z- what it would attend to
in the concept, before the layer's last map: G = s Z+ - (s - 1) Z-; every token's G is scaled down to at most tau times
the L1 norm of its Z+; the layer goes on with alpha G + (1 - alpha) Z+.
NegPip: the concept's tokens stand behind the prompt's; their keys draw attention, their values count -w times.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from erase_plugins.errors import PipelineChanged, Unsupported
from erase_plugins.families.capabilities import DENOISER
from erase_plugins.runtime.guardrails.watch import Guiding

#: what hides a column from attention, as diffusers writes it
HIDDEN = -10_000.0
#: arguments of a layer, in their order
_NAMES = ("hidden_states", "encoder_hidden_states", "attention_mask")


@dataclass(frozen=True)
class NormalisedSettings:
    """Scale s, largest growth tau and share alpha of NAG."""

    scale: float
    tau: float
    alpha: float


def guided(positive: Tensor, negative: Tensor, settings: NormalisedSettings) -> Tensor:
    """What a layer goes on with, (..., tokens, dim), from what it attends to in the prompt and in the concept."""
    wide, other = positive.float(), negative.float()
    led = settings.scale * wide - (settings.scale - 1.0) * other
    length = wide.norm(p=1, dim=-1, keepdim=True)
    growth = led.norm(p=1, dim=-1, keepdim=True) / length.clamp_min(1e-12)
    led = led * (settings.tau / growth.clamp_min(1e-12)).clamp(max=1.0)
    return (settings.alpha * led + (1.0 - settings.alpha) * wide).to(positive.dtype)


class CrossAttention(Guiding):
    """Hooks on every cross-attention layer of a denoiser, and which rows of a pass are asked for.

    Attributes:
        kind: id of the guard.
    """

    kind = ""

    def __init__(self, text: str, target: Any, strength: float) -> None:
        self.text, self.target, self.strength = text, target, strength
        self.rows, self.asked = 0, slice(0)
        self.handles: list[Any] = []
        network = target.network(DENOISER)
        paths = sorted({ref.path.rpartition(".")[0] for ref in target.modules("cross_k")})
        for path in paths:
            layer = network.get_submodule(path)
            self.handles.append(layer.register_forward_pre_hook(self._enter, with_kwargs=True))
            self.hang(layer)

    def hang(self, layer: Any) -> None:
        """Further hooks on one layer."""
        raise NotImplementedError

    def changed(self, layer: nn.Module, states: Tensor, context: Tensor, given: dict[str, Any]) -> dict[str, Any]:
        """Arguments of a layer as they are to be.

        Args:
            layer: of cross-attention.
            states: (rows, tokens, dim) that it is to change.
            context: (rows, text tokens, width) that it reads.
            given: all arguments by name.
        """
        raise NotImplementedError

    def after(self, given: dict[str, Any], result: Any) -> Any:
        """The result as it is; a new picture begins."""
        count = int(result[0].shape[0])
        first = count if given.get("do_classifier_free_guidance") else 0
        self.rows, self.asked = first + count, slice(first, first + count)
        self.start(self.target.encode([self.text]).embeds)
        return result

    def start(self, rows: Tensor) -> None:
        """Takes the encoded concept, (1, tokens, width), for the picture that begins."""
        raise NotImplementedError

    def end(self) -> None:
        """The picture is finished: passes from now on are not its steps."""
        self.rows = 0

    @contextmanager
    def passing(self, rows: int) -> Iterator[None]:
        """In force for a pass outside of a picture."""
        self.rows, self.asked = rows, slice(0, rows)
        self.start(self.target.encode([self.text]).embeds)
        try:
            yield
        finally:
            self.end()

    def _enter(self, layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if self.strength == 0.0 or not self.rows:
            return None
        given = {**dict(zip(_NAMES, args, strict=False)), **kwargs}
        states, context = given["hidden_states"], given.get("encoder_hidden_states")
        if not isinstance(context, Tensor) or len(states) != self.rows:
            raise Unsupported(
                f"the guard '{self.kind}' expects {self.rows} rows of text in cross-attention, and this pipeline gives "
                "others (image adapters, further guidance); use another guard with it"
            )
        return (), self.changed(layer, states, context, given)

    def detach(self) -> None:
        """Takes the hooks off."""
        for handle in self.handles:
            handle.remove()


class NormalisedGuidance(CrossAttention):
    """NAG: every layer attends to the concept too, and is led away from what it finds there."""

    kind = "nag"

    def __init__(self, text: str, settings: NormalisedSettings, target: Any, strength: float) -> None:
        self.settings = settings
        self.negative: Tensor | None = None
        #: what the layer that runs was given, and what it found in the concept while it is asked for that
        self.given: dict[str, Any] | None = None
        self.found: Tensor | None = None
        super().__init__(text, target, strength)

    def hang(self, layer: Any) -> None:
        """Acts in front of the layer's last map."""
        self.handles.append(layer.to_out[0].register_forward_pre_hook(lambda _out, args: self._lead(layer, args)))

    def start(self, rows: Tensor) -> None:
        """Keeps the concept's rows."""
        self.negative = rows

    def changed(self, layer: nn.Module, states: Tensor, context: Tensor, given: dict[str, Any]) -> dict[str, Any]:
        """The arguments as they are, kept for the second look."""
        self.given = given
        return given

    def _lead(self, layer: nn.Module, args: tuple[Any, ...]) -> Any:
        if self.strength == 0.0 or not self.rows or self.negative is None:
            return None
        if self.given is None:  # the second look
            self.found = args[0]
            return None
        states, self.given = self.given["hidden_states"][self.asked], None
        context = self.negative.to(states).expand(len(states), *self.negative.shape[1:])
        layer.forward(states, encoder_hidden_states=context)  # past the layer's own hooks: it is one look of one layer
        attended, negative, self.found = args[0].clone(), self.found, None
        assert negative is not None
        settings = replace(self.settings, alpha=self.settings.alpha * self.strength)
        attended[self.asked] = guided(args[0][self.asked], negative, settings)  # what a gradient needs stays as it was
        return (attended, *args[1:])


class NegativeInPrompt(CrossAttention):
    """NegPip: the concept's tokens behind the prompt's, with values of the other sign."""

    kind = "negpip"

    def __init__(self, text: str, weight: float, target: Any, strength: float) -> None:
        self.weight = weight
        self.concept: Tensor | None = None
        #: columns of the layer that runs whose values are not turned yet
        self.open = 0
        super().__init__(text, target, strength)

    def hang(self, layer: Any) -> None:
        """Acts on the layer's values, and looks in front of its last map whether it did."""
        self.handles.append(layer.to_v.register_forward_hook(self._turn))
        self.handles.append(layer.to_out[0].register_forward_pre_hook(self._check))

    def start(self, rows: Tensor) -> None:
        """Keeps the rows of the concept's own tokens and of the end token behind them."""
        self.concept = rows[:, 1 : int(self.target.tokens([self.text]).last[0]) + 2]

    def changed(self, layer: nn.Module, states: Tensor, context: Tensor, given: dict[str, Any]) -> dict[str, Any]:
        """The concept's rows behind the prompt's; rows that are not asked for do not see them."""
        assert self.concept is not None
        more = self.concept.to(context).expand(len(context), *self.concept.shape[1:])
        self.open = more.shape[1]
        mask = given.get("attention_mask")
        if mask is None:
            mask = context.new_zeros(len(context), 1, context.shape[1])
        hidden = mask.new_full((*mask.shape[:-1], self.open), HIDDEN)
        hidden[self.asked] = 0.0
        if self.asked.start or given.get("attention_mask") is not None:
            given = {**given, "attention_mask": torch.cat([mask, hidden], dim=-1)}
        return {**given, "encoder_hidden_states": torch.cat([context, more], dim=1)}

    def _turn(self, _module: nn.Module, _args: Any, values: Tensor) -> Tensor | None:
        if not self.open:
            return None
        own, more = values[:, : -self.open], values[:, -self.open :]
        self.open = 0
        return torch.cat([own, -self.weight * self.strength * more], dim=1)

    def _check(self, _module: nn.Module, _args: Any) -> None:
        if self.open:
            self.open = 0
            raise PipelineChanged("the guard 'negpip' cannot reach the values of fused projections; unfuse them first")
