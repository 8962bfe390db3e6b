"""The base class of methods that lead hidden states of texts to forget astray. No torch at import.

Behind one early block, states of texts to forget are pulled to a fixed false state and those of texts to retain to what
they were; the last MLP maps of that block and the two before it are trained. The pass ends behind the block.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from erase_plugins.errors import RequestError
from erase_plugins.options import option
from erase_plugins.training.asked import Asked
from erase_plugins.training.language import LanguageMethod, Sets
from erase_plugins.training.language_options import LanguageOptions
from erase_plugins.training.method import TrainingRun

if TYPE_CHECKING:
    from torch import Tensor

    from erase_plugins.families.base import ModelSpec, ModuleRef
    from erase_plugins.families.texts import Texts
    from erase_plugins.types import EraseRequest


@dataclass(frozen=True)
class SteeredOptions(LanguageOptions):
    """Where states are led, and how hard."""

    steps: int = option(40, "gradient steps", low=1, high=1_000_000)
    lr: float = option(5e-3, "learning rate", low=0.0, high=10.0)
    retain_weight: float = option(1.0, "weight of retaining; 0 needs no data to retain", low=0.0, high=1e6)
    retain_term: str = option(
        "hidden", "what holds the retained texts: their hidden states, or their likelihood", choices=("hidden", "nll")
    )
    layer: int = option(-1, "block behind which states are led astray, from 0; -1: at a quarter of the depth",
                        low=-1, high=10_000)  # fmt: skip
    strength: float = option(1.0, "length of the false state, in median lengths of the true ones", low=0.0, high=1e4)
    until_unknown: bool = option(False, "not here: a hidden state has no likelihood at which it could stop")
    tokens: str = option("text", "states that count: of the whole text, or of what the model is to say",
                         choices=("text", "answer"))  # fmt: skip


@dataclass
class Steered(Sets):
    """Texts, and where their states are led.

    Attributes:
        control: (width,) the false state.
        known: (width, k) directions that the loss does not look at, None for none.
    """

    control: Tensor | None = None
    known: Tensor | None = None


def mean_square(difference: Tensor, counted: Tensor) -> Tensor:
    """Mean over texts of the mean over their counted tokens (n, tokens) and over widths of the squares."""
    each = difference.square().mean(-1) * counted
    return (each.sum(1) / counted.sum(1)).mean()


class SteeredMethod(LanguageMethod):
    """Leads hidden states astray; a method may say which directions it leaves alone (`known`)."""

    Options: type = SteeredOptions
    scored = False

    def settle(self, options: Any, request: EraseRequest, info: ModelSpec) -> Any:
        if options.until_unknown:
            raise RequestError(f"{self.id} cannot stop at what is unknown; leave until_unknown out, or use npo")
        return super().settle(options, request, info)

    def modules(self, info: ModelSpec, options: Any) -> Sequence[ModuleRef]:
        refs = info.modules("mlp_out")
        last = len(refs) // 4 if options.layer < 0 else options.layer
        if last >= len(refs):
            raise RequestError(f"{info.model} has blocks 0 to {len(refs) - 1}, no {last}; give another layer")
        return refs[max(0, last - 2) : last + 1]

    def prepare(self, run: TrainingRun) -> Steered:
        import torch

        sets = super().prepare(run)
        states = self._states(run, sets.forget)
        length = states.norm(dim=1).median()
        drawn = torch.rand(states.shape[1], generator=run.ctx.generator("control")).to(states.device)
        known = self.known(run, states)
        if known is not None:
            drawn = drawn - known @ (known.T @ drawn)
        control = run.options.strength * length * drawn / drawn.norm()
        return Steered(sets.forget, sets.retain, sets.answers, control=control, known=known)

    def known(self, run: TrainingRun, states: Tensor) -> Tensor | None:
        """Directions (width, k) that the loss does not look at, of the states (m, width) of all tokens to forget."""
        return None

    def loss(self, run: TrainingRun, step: int) -> Tensor:
        import torch

        sets, options = run.state, run.options.at(step)
        texts = sets.forget[self._rows(run, "forget", sets.forget, step)]
        away = self.hidden(run, texts) - sets.control
        if sets.known is not None:
            away = away - away @ sets.known @ sets.known.T
        forget = mean_square(away, self.counted(texts, options))
        if sets.retain is None:
            return self.total(run, forget, None, options)
        kept = sets.retain[self._rows(run, "retain", sets.retain, step)]
        if options.retain_term == "nll":
            return self.total(run, forget, self._ask(run, kept), options)
        with run.adapters.disabled(), torch.no_grad():
            before = self.hidden(run, kept)
        held = mean_square(self.hidden(run, kept) - before, self.counted(kept, options))
        total: Tensor = options.forget_weight * forget + options.retain_weight * held
        return total

    def hidden(self, run: TrainingRun, texts: Texts) -> Tensor:
        """States (n, tokens, width) behind the block, in float32."""
        from erase_plugins.engine.fact_editing import block_of, block_output

        states = block_output(run.target, block_of(run.target, run.refs[-1]), texts.ids, texts.mask)
        states = states.to(texts.ids.device)  # a block may be on another device than the tokens
        return states if states.element_size() > 4 else states.float()

    def counted(self, texts: Texts, options: Any) -> Tensor:
        """(n, tokens) 1 where a state counts; the first token never does."""
        found = (texts.labels >= 0 if options.tokens == "answer" else texts.mask > 0).float()
        found[:, 0] = 0
        return found

    def _states(self, run: TrainingRun, texts: Texts) -> Tensor:
        """States (m, width) of all counted tokens."""
        import torch

        with torch.no_grad():
            parts = [texts[rows] for rows in torch.arange(len(texts)).split(run.options.batch)]
            return torch.cat([self.hidden(run, part)[self.counted(part, run.options) > 0] for part in parts])

    def forget_loss(self, run: TrainingRun, forget: Asked, answers: Asked | None) -> Tensor:
        """Not used: the loss is one of hidden states, see `loss`."""
        raise NotImplementedError
