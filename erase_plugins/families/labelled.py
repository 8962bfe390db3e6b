"""Pictures with labels, and how many of them a classifier gets right. No torch at import."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from erase_plugins.families.model import Model


@dataclass(frozen=True)
class Labelled:
    """Pictures (n, channels, height, width) as the network takes them, and their classes (n,)."""

    pictures: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, rows: Tensor | slice) -> Labelled:
        return Labelled(self.pictures[rows], self.labels[rows])

    def where(self, numbers: Iterable[int]) -> Tensor:
        """Mask (n,) of the pictures of some classes."""
        import torch

        return torch.isin(self.labels, torch.tensor(sorted(numbers), dtype=torch.long))

    @staticmethod
    def joined(parts: Sequence[Labelled]) -> Labelled:
        """All parts behind each other."""
        import torch

        return Labelled(torch.cat([part.pictures for part in parts]), torch.cat([part.labels for part in parts]))


def hits(model: Model, part: Labelled, batch: int = 256) -> Tensor:
    """1 for each picture (n,) whose most likely label is the right one, else 0."""
    return (scores(model, part, batch).argmax(-1) == part.labels).long()


def scores(model: Model, part: Labelled, batch: int = 256) -> Tensor:
    """Logits (n, labels) of all pictures, float32, without gradients."""
    import torch

    with torch.no_grad():
        rows = torch.arange(len(part)).split(batch)
        return torch.cat([model.classifier.logits(part.pictures[some]).float().cpu() for some in rows])


def losses(model: Model, part: Labelled) -> Tensor:
    """Cross-entropy (n,) of every picture."""
    from torch.nn.functional import cross_entropy

    return cross_entropy(scores(model, part), part.labels, reduction="none")


def accuracy(model: Model, part: Labelled) -> float:
    """Share of pictures whose most likely label is the right one."""
    return float(hits(model, part).double().mean())


def harmonic(before: float, after: float, retain: float) -> float:
    """H = 2 Acc_r Drop / (Acc_r + Drop) with Drop the loss of accuracy on what is forgotten; 0 if both are 0."""
    drop = before - after
    return 2 * retain * drop / (retain + drop) if retain + drop else 0.0
