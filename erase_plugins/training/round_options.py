"""Options of methods that search for ways back while they erase. No torch at import."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from erase_plugins.options import option

if TYPE_CHECKING:
    from erase_plugins.types import EraseRequest


@dataclass(frozen=True)
class RoundOptions:
    """Rounds in which tokens that bring the concept back are learned against the student (`training.rounds`)."""

    presets = "../presets/rounds.toml"

    adversarial_rounds: int = option(
        0, "times at which tokens are learned that bring the concept back, and erased as well from then on", low=0,
        high=64,
    )  # fmt: skip
    inversion_steps: int = option(1000, "training steps of such a token", low=1, high=100_000)
    inversion_lr: float = option(5e-3, "learning rate of such a token (Adam), falling to 0", low=0.0, high=10.0)
    inversion_rows: int = option(1, "embeddings of such a token", low=1, high=16)
    inversion_batch: int = option(4, "pictures per training step of such a token", low=1, high=256)
    inversion_pictures: int = option(16, "pictures that it is learned from, drawn by the base", low=1, high=256)

    def search_forwards(self, request: EraseRequest, options: Any) -> float:
        """Samples through the denoiser that all rounds ask for; a training pass counts three times."""
        if not self.adversarial_rounds:
            return 0.0
        drawn, learned = (
            2.0 * options.steps * self.inversion_pictures,
            3.0 * self.inversion_steps * self.inversion_batch,
        )
        return len(request.concepts) * (drawn + self.adversarial_rounds * learned)
