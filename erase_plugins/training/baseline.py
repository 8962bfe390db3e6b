"""The base class of the classic baselines of machine unlearning, and how a step sees its pictures.

Papers train all weights, norms included; so do these by default, and what is kept is the change (a delta). With
``parameters=lora`` the same loss trains LoRA on all linear layers instead: a smaller space, in which a method may do
better or worse than its paper says, so plan, manifest and card call the result by that name. Batch norm keeps its
statistics and dropout is off, in training too.

Rates and epochs are those of the papers, for all data. An epoch is one pass over what a method trains on, in batches of
256 as there, but in `PIECES` batches at least, so that few pictures still make enough steps. A plan, which reads no
data, counts `PIECES` batches for an epoch.

Forgotten are classes, or single pictures (kind ``samples``).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

from erase_plugins.engine.optimizers import OPTIMIZERS
from erase_plugins.errors import RequestError
from erase_plugins.families.capabilities import CLASSIFIER
from erase_plugins.families.labelled import Labelled
from erase_plugins.options import option
from erase_plugins.training.labelled import LabelledMethod, LabelledOptions, Sets
from erase_plugins.training.method import TrainingRun
from erase_plugins.types import EraseRequest

if TYPE_CHECKING:
    from torch import Tensor

    from erase_plugins.artifacts.edit import Edit
    from erase_plugins.engine.adapters import Trainable
    from erase_plugins.engine.loop import Schedule
    from erase_plugins.engine.whole import WholeWeights
    from erase_plugins.families.base import ModelSpec, ModuleRef


#: batches of an epoch at least, as long as they have `FEWEST` pictures
PIECES = 20
FEWEST, MOST = 8, 256


def batch_for(count: int) -> int:
    """Pictures of a batch for an epoch of ``count``."""
    return min(count, max(FEWEST, min(MOST, -(-count // PIECES))))


@dataclass(frozen=True)
class BaselineOptions(LabelledOptions):
    """How long and how fast to train, which weights, and on which pictures."""

    parameters: str = option(
        "full", "full: all weights, as the papers do it; lora: LoRA on all linear layers", choices=("full", "lora")
    )
    epochs: int = option(10, "how many epochs to train", low=1, high=100_000)
    epoch_steps: int | None = option(  # type: ignore[assignment]  # filled in by `Baseline.sized`
        None, "batches of an epoch; none: one pass over what is trained on", low=1, high=100_000
    )
    batch: int | None = option(  # type: ignore[assignment]
        None, "pictures of a batch; none: 256, or as few as make 20 batches of an epoch", low=1, high=65_536
    )
    retain_share: float = option(
        1.0, "share of the pictures beside the model that are retained, at least one of each class", low=0.0, high=1.0
    )
    lr: float = option(1e-2, "learning rate", low=0.0, high=10.0)
    lr_end: float | None = option(None, "where the rate falls to along a cosine; none: it stays", low=0.0, high=10.0)
    weight_decay: float = option(5e-4, "decay of what is trained", low=0.0, high=10.0)
    optimizer: str = option("sgd", "optimizer", choices=OPTIMIZERS)
    momentum: float = option(0.9, "momentum of sgd", low=0.0, high=0.9999)

    def schedule(self) -> Schedule:
        """Schedule of the training loop."""
        return replace(super().schedule(), momentum=self.momentum)


class Baseline(LabelledMethod):
    """A baseline that trains. It has `step_loss`, or `loss` where a step looks at something else than both sides."""

    kinds = frozenset({"class", "object", "person", "samples"})
    produces = frozenset({"lowrank", "dense"})
    Options: type = BaselineOptions
    contract_options: ClassVar[dict[str, Any]] = {
        "epochs": 3, "epoch_steps": 1, "batch": 32, "lr": 0.05, "checkpoint_every": 1,
    }  # fmt: skip

    def step_loss(self, run: TrainingRun, step: int, forget: Labelled, retain: Labelled) -> Tensor:
        raise NotImplementedError(f"{self.id} has a loss of its own")

    def steps(self, request: EraseRequest, options: Any) -> int:
        return int(options.epochs * (options.epoch_steps or PIECES))

    def prepare(self, run: TrainingRun) -> Any:
        sets = super().prepare(run)
        run.options = self.sized(run.options, sets)
        run.plan = replace(run.plan, steps=int(run.options.epochs * run.options.epoch_steps))
        run.ctx.numbers |= {"training_steps": run.plan.steps, "training_batch": run.options.batch}
        return sets

    def pass_over(self, sets: Sets) -> int:
        """How many pictures an epoch shows: those to retain, unless the method looks at something else."""
        return len(sets.retain)

    def sized(self, options: Any, sets: Sets) -> Any:
        """The options with batch and length of an epoch for the pictures at hand."""
        count = self.pass_over(sets)
        batch = options.batch or batch_for(count)
        return replace(options, batch=batch, epoch_steps=options.epoch_steps or max(1, -(-count // batch)))

    def rows(self, run: TrainingRun, name: str, pool: Labelled, step: int) -> Tensor:
        """Places of a batch in a pool: passes over it, each in its own order."""
        from erase_plugins.engine.loop import shuffled

        return shuffled(run.ctx, name, len(pool), min(run.options.batch, len(pool)), step)

    def drawn(self, run: TrainingRun, name: str, pool: Labelled, step: int) -> Labelled:
        """A batch of a pool; see `rows`."""
        return pool[self.rows(run, name, pool, step)]

    def modules(self, info: ModelSpec, options: Any) -> Sequence[ModuleRef]:
        return info.refs if options.parameters == "full" else info.modules(self.group)

    def notes(self, request: EraseRequest, options: Any) -> Sequence[str]:
        found = []
        if options.parameters != "full":
            found.append(
                f"{self.id} as LoRA of rank {options.rank}: its paper trains all weights; report it as {self.id}-lora"
            )
        if options.epoch_steps is None:
            found.append(
                f"an epoch is one pass over the pictures, which a plan does not read; it counts {PIECES} batches"
            )
        return found

    def trainable(self, run: TrainingRun) -> Trainable:
        if run.options.parameters == "lora":
            return super().trainable(run)
        return self.whole(run)

    def whole(self, run: TrainingRun) -> WholeWeights:
        """All weights in training."""
        from erase_plugins.engine.whole import WholeWeights

        return WholeWeights(run.target, CLASSIFIER)


class Retaining(Baseline):
    """A baseline that only trains on what is retained."""

    def step_loss(self, run: TrainingRun, step: int, forget: Labelled, retain: Labelled) -> Tensor:
        return error(run, retain)


@dataclass(frozen=True)
class SolvedOptions:
    """On which pictures a baseline without training looks."""

    retain_share: float = option(
        1.0, "share of the pictures beside the model that are retained, at least one of each class", low=0.0, high=1.0
    )
    lora_rank: ClassVar[None] = None
    precision: ClassVar[str] = "float32"
    batch: ClassVar[int] = 64
    optimizer: ClassVar[str] = "sgd"


class Solved(Baseline):
    """A baseline that computes its change in one go. It has `solve`."""

    produces = frozenset({"dense"})
    Options: type = SolvedOptions
    contract_options: ClassVar[dict[str, Any]] = {}

    @abstractmethod
    def solve(self, run: TrainingRun) -> Mapping[str, Tensor]:
        """New values of parameters by name; the weights of ``run.adapters`` are still the model's own."""

    def modules(self, info: ModelSpec, options: Any) -> Sequence[ModuleRef]:
        return info.refs

    def notes(self, request: EraseRequest, options: Any) -> Sequence[str]:
        return ()

    def steps(self, request: EraseRequest, options: Any) -> int:
        return 1

    def prepare(self, run: TrainingRun) -> Any:
        return LabelledMethod.prepare(self, run)

    def trainable(self, run: TrainingRun) -> Trainable:
        return self.whole(run)

    def train(self, run: TrainingRun) -> Edit:
        run.ctx.start(1)
        with self.prepared(run):
            for name, value in self.solve(run).items():
                run.adapters.values[name].data.copy_(value)
            run.ctx.step(1, 1)
            return self.finish(run)


def scores(run: TrainingRun, part: Labelled) -> Tensor:
    """Scores (n, labels) of a batch in training."""
    found: Tensor = run.target.classifier.logits(part.pictures)
    return found.float() if found.element_size() < 4 else found


def error(run: TrainingRun, part: Labelled) -> Tensor:
    """Mean cross-entropy of a batch."""
    from torch.nn.functional import cross_entropy

    return cross_entropy(scores(run, part), part.labels)


def flat_gradient(run: TrainingRun, pool: Labelled) -> Tensor:
    """Sum over pictures of the gradient of their cross-entropy, as one vector (p,) in the order of the parameters."""
    import torch

    total = None
    for rows in torch.arange(len(pool)).split(64):
        found = _gradient(run, pool[rows]) * len(rows)
        total = found if total is None else total + found
    assert total is not None
    return total


def picture_gradients(run: TrainingRun, pool: Labelled) -> Iterator[Tensor]:
    """The gradient (p,) of each picture's cross-entropy, one after the other."""
    import torch

    for row in torch.arange(len(pool)).split(1):
        yield _gradient(run, pool[row])


def _gradient(run: TrainingRun, part: Labelled) -> Tensor:
    import torch

    values = list(run.adapters.values.values())
    found = torch.autograd.grad(error(run, part), values, allow_unused=True)
    return torch.cat([
        (torch.zeros_like(value) if grad is None else grad).flatten()
        for value, grad in zip(values, found, strict=True)
    ])  # fmt: skip


def full_only(method: Any, options: Any) -> None:
    """Refuses LoRA where it cannot express the method.

    Raises:
        RequestError: ``parameters`` is not full.
    """
    if options.parameters != "full":
        raise RequestError(f"{method.id} cannot be written as LoRA; leave parameters=lora out")
