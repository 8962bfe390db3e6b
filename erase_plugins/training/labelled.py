"""The base class of methods that make a classifier forget classes or pictures. No torch at import."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from erase_plugins.engine.optimizers import OPTIMIZERS, check_optimizer
from erase_plugins.errors import RequestError
from erase_plugins.families.capabilities import CLASSIFIER
from erase_plugins.families.labelled import Labelled, accuracy
from erase_plugins.families.labelled_data import both_sets, stored
from erase_plugins.families.labels import SAMPLES, forgotten, is_single, labels_of
from erase_plugins.hints import Hint
from erase_plugins.options import as_dict, option
from erase_plugins.training.method import TrainedMethod, TrainingRun
from erase_plugins.training.options import WeightOptions
from erase_plugins.types import EditPlan, EraseRequest

if TYPE_CHECKING:
    from torch import Tensor

    from erase_plugins.artifacts.edit import Edit
    from erase_plugins.engine.loop import Schedule
    from erase_plugins.families.base import ModelSpec, ModuleRef


@dataclass(frozen=True)
class LabelledOptions(WeightOptions):
    """How long and how fast to train, and on which pictures."""

    presets = "../presets/labelled.toml"

    epochs: int = option(100, "how many epochs to train", low=1, high=100_000)
    epoch_steps: int = option(4, "batches of an epoch", low=1, high=100_000)
    batch: int = option(48, "pictures to retain of a step, and as many to forget", low=1, high=65_536)
    retain_share: float = option(
        0.1, "share of the pictures beside the model that are retained, at least one of each class", low=0.0, high=1.0
    )
    lr: float = option(1e-2, "learning rate at the start; falls along a cosine", low=0.0, high=10.0)
    lr_end: float | None = option(1e-5, "learning rate of the end of that cosine; none: it stays", low=0.0, high=10.0)
    weight_decay: float = option(0.05, "decay of what is trained", low=0.0, high=10.0)
    optimizer: str = option("adamw", "optimizer", choices=OPTIMIZERS)
    checkpoint_every: int = option(50, "training steps between checkpoints", low=1)
    #: classifiers are small; autocast costs more than it saves
    precision: ClassVar[str] = "float32"

    def rate(self, epoch: int) -> float:
        """Learning rate of an epoch."""
        if self.lr_end is None:
            return self.lr
        return self.lr_end + 0.5 * (self.lr - self.lr_end) * (1 + math.cos(math.pi * epoch / self.epochs))

    def schedule(self) -> Schedule:
        """Schedule of the training loop."""
        from erase_plugins.engine.loop import Schedule

        return Schedule(
            self.epochs * self.epoch_steps, self.lr, self.optimizer, every=self.checkpoint_every,
            decay=self.weight_decay, rates=lambda step: self.rate(step // self.epoch_steps),
        )  # fmt: skip


@dataclass
class Sets:
    """The pictures of a run.

    Attributes:
        forget, retain: what is trained on.
        held: held-out pictures beside the model, None if there are none.
        gone: numbers of the classes that are forgotten; none where only single pictures are.
        own: what else a method prepared.
    """

    forget: Labelled
    retain: Labelled
    held: Labelled | None
    gone: tuple[int, ...] = ()
    own: Any = None


#: accuracy on what is to be forgotten below which its labels are doubted
_KNOWN = 0.5


class LabelledMethod(TrainedMethod):
    """A method that trains a classifier on pictures to forget and pictures to retain.

    It has `step_loss`; `group` names the modules it changes, which `modules` may override.
    """

    needs: frozenset[str] = frozenset({CLASSIFIER})
    packages: frozenset[str] = frozenset({"transformers"})
    kinds: frozenset[str] = frozenset({"class", "object", "person"})
    produces: frozenset[str] = frozenset({"lowrank", "dense"})
    reads_data = True
    group = "linear"
    Options: type = LabelledOptions
    work_files: ClassVar[tuple[str, ...]] = ()
    contract_options: ClassVar[dict[str, Any]] = {"epochs": 3, "epoch_steps": 1, "checkpoint_every": 1}

    @abstractmethod
    def step_loss(self, run: TrainingRun, step: int, forget: Labelled, retain: Labelled) -> Tensor:
        """The scalar that a step makes smaller, on a batch of each set."""

    def modules(self, info: ModelSpec, options: Any) -> Sequence[ModuleRef]:
        return info.modules(self.group)

    def settle(self, options: Any, request: EraseRequest, info: ModelSpec) -> Any:
        if anchored := [item.name for item in request.forget if item.anchor is not None]:
            raise RequestError(
                f"{self.id} forgets a class and takes ", Hint("to", before="no"), f" ({anchored[0]}); leave it out"
            )
        if SAMPLES not in self.kinds and any(map(is_single, request.forget)):
            raise RequestError(f"data to forget has no label of {info.model}; name the class that it shows")
        forgotten(request, labels_of(info), info.model)
        return options

    def steps(self, request: EraseRequest, options: Any) -> int:
        return int(options.epochs * options.epoch_steps)

    def plan(self, request: EraseRequest, info: ModelSpec) -> EditPlan:
        """The plan with its cost, from configuration alone."""
        from erase_plugins.training.plan import place, seconds_of, trainable, trained_bytes

        options = self.resolved(request, info)  # type: ignore[arg-type]  # a classifier has no latents
        check_optimizer(options.optimizer, request.device)
        refs, steps = self.modules(info, options), self.steps(request, options)
        values, size = trainable(refs, options.lora_rank), sum(math.prod(ref.shape) for ref in info.refs)
        each, batch = 2.0 * size * _positions(info), options.batch or 64
        return EditPlan(
            request=request, options=as_dict(options), modules=tuple(map(place, refs)), steps=steps,
            seconds=seconds_of(6.0 * steps * batch * each, request.device, info.refs),
            memory_bytes=trained_bytes(values, options.optimizer)
            + int(80 * batch * _positions(info) * math.sqrt(size)),
            file_bytes=4 * values, notes=tuple(self.notes(request, options)), produces=self.made(options),
        )  # fmt: skip

    def retain(self, run: TrainingRun) -> None:
        """Nothing of a teacher is held: what is retained are pictures."""

    def prepare(self, run: TrainingRun) -> Sets:
        share, left_out = self.share(run), self.left_out(run)
        forget, retain = both_sets(
            run.target, run.request, share, run.ctx.generator("retain"), left_out, self.least(run)
        )
        gone = forgotten(run.request, run.target.classifier.labels, run.target.info.model)
        sets = Sets(forget, retain, stored(run.target, "test"), gone)
        with run.adapters.disabled():
            self._note(run, "before", sets)
            known = accuracy(run.target, forget)
        if known < _KNOWN:
            run.ctx.warn(
                f"the model gets only {known:.0%} of the {len(forget)} pictures to forget right: their labels may be "
                "wrong, or it never knew them; look at them before you trust the result"
            )
        return sets

    def share(self, run: TrainingRun) -> float:
        """Share of the pictures beside the model that are retained."""
        return float(run.options.retain_share)

    def least(self, run: TrainingRun) -> int:
        """So many pictures of a class are retained at least, whatever the share, if there are as many."""
        return 1

    def left_out(self, run: TrainingRun) -> Sequence[int]:
        """Classes of which nothing is retained, besides those that are forgotten."""
        return ()

    def loss(self, run: TrainingRun, step: int) -> Tensor:
        from erase_plugins.engine.loop import shuffled

        sets, batches = run.state, []
        for name, pool in (("forget", sets.forget), ("retain", sets.retain)):
            batches.append(pool[shuffled(run.ctx, name, len(pool), min(run.options.batch, len(pool)), step)])
        return self.step_loss(run, step, *batches)

    def finish(self, run: TrainingRun) -> Edit:
        self._note(run, "after", run.state)
        return super().finish(run)

    def _note(self, run: TrainingRun, when: str, sets: Sets) -> None:
        """Accuracy of both sides for the manifest: on held-out pictures, of single pictures on themselves."""
        parts = {} if sets.gone else {"forget": sets.forget}
        if sets.held is not None:
            gone = sets.held.where(sets.gone)
            parts = {"forget": sets.held[gone], **parts, "retain": sets.held[~gone]}
        for name, part in parts.items():
            if len(part):
                run.ctx.numbers[f"{name}_accuracy_{when}"] = accuracy(run.target, part)


def _positions(info: ModelSpec) -> int:
    """How often a weight is used for a picture, about."""
    config = info.configs[info.components(CLASSIFIER)[0]]
    size, patch = config.get("image_size", 224), config.get("patch_size", 32)
    side, step = (item if isinstance(item, int) else item[0] for item in (size, patch))
    return int((side // max(1, step)) ** 2 + 1)
