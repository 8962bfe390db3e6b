"""Options of methods that train a language model. No torch at import."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Self

from erase_plugins.engine.optimizers import OPTIMIZERS
from erase_plugins.options import option
from erase_plugins.training.options import WeightOptions

if TYPE_CHECKING:
    from erase_plugins.engine.loop import Schedule


@dataclass(frozen=True)
class TextOptions(WeightOptions):
    """How long and how fast adapters of a language model are trained, and on how much text."""

    lora_alpha: float = option(16.0, "the change is lora_alpha / rank times B A", low=1e-6, high=1e6)
    modules: str = option("linear", "linear maps to change", choices=("linear", "attention", "mlp"))
    steps: int = option(30, "gradient steps", low=1, high=1_000_000)
    batch: int = option(16, "texts of a step", low=1, high=65_536)
    max_tokens: int = option(512, "tokens of a text, prompt included; the rest is cut", low=2, high=1_000_000)
    lr: float = option(2e-3, "learning rate", low=0.0, high=10.0)
    weight_decay: float = option(0.01, "decay of what is trained", low=0.0, high=10.0)
    optimizer: str = option("adamw", "optimizer", choices=OPTIMIZERS)
    recompute: bool = option(
        False,
        "gradient checkpointing: blocks are computed again on the way back, which takes less memory and more time",
    )
    #: adapters and losses are float32 whatever the model is; autocast would round their updates away
    precision: ClassVar[str] = "float32"

    @property
    def scale(self) -> float:
        """Factor of B A."""
        return self.lora_alpha / self.rank


@dataclass(frozen=True)
class LanguageOptions(TextOptions):
    """How much weight forgetting and retaining have."""

    presets = "../presets/language.toml"

    batch: int = option(16, "texts to forget of a step, and as many to retain", low=1, high=65_536)
    forget_weight: float = option(1.0, "weight of forgetting", low=0.0, high=1e6)
    retain_weight: float = option(3.0, "weight of retaining; 0 needs no data to retain", low=0.0, high=1e6)
    retain_rise: float = option(
        1.0, "how many times as much retaining weighs at the end; it rises as the rate falls", low=1.0, high=1e3
    )
    retain_term: str = option(
        "nll", "what holds the retained texts: their likelihood, or the divergence from the unchanged model",
        choices=("nll", "kl"),
    )  # fmt: skip
    temperature: float = option(
        1.0, "kl: what both distributions are softened by; above 1 what is unlikely is held too", low=1e-2, high=1e3
    )
    until_unknown: bool = option(
        True,
        "a text stops to push once it is as unlikely as the same about somebody unknown (field unknown of its row)",
    )
    hold: float = option(
        0.5, "weight with which a text that became less likely than that is pulled back; 0 lets it go", low=0.0,
        high=1e6,
    )  # fmt: skip
    cooldown: float = option(0.3, "last share of the steps in which the rate falls to 0", low=0.0, high=1.0)
    checkpoint_every: int = option(50, "training steps between checkpoints", low=1)

    def at(self, step: int) -> Self:
        """The options of a step: retaining weighs more as the rate falls, at most ``retain_rise`` times as much."""
        fallen = self.schedule().rate(step) / self.lr if self.lr else 1.0
        rise = min(1 / fallen, self.retain_rise)
        return replace(self, retain_weight=self.retain_weight * rise)

    def schedule(self) -> Schedule:
        """Schedule of the training loop."""
        from erase_plugins.engine.loop import Schedule

        return Schedule(
            self.steps, self.lr, self.optimizer, self.cooldown, self.checkpoint_every, decay=self.weight_decay
        )


@dataclass(frozen=True)
class PreferenceOptions(LanguageOptions):
    """Options of a loss made of `preference`."""

    presets = "../presets/preference.toml"

    # what is retained is mostly what a model says anyway, which likelihood alone would make ever surer
    retain_term: str = option(
        "kl", "what holds the retained texts: their likelihood, or the divergence from the unchanged model",
        choices=("nll", "kl"),
    )  # fmt: skip
    beta: float = option(0.1, "how soon a forgotten text stops to push", low=1e-6, high=1e3)
