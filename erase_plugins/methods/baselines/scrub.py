"""SCRUB: a student leaves its teacher on what is forgotten and stays with it on what is retained.

Kurmanji et al., NeurIPS 2023, arXiv 2302.09880. The teacher is the original model, T its temperature and
KL = T^2 KL(softmax(teacher / T) || softmax(student / T)), a batch mean. In each of the first ``max_epochs`` epochs a
pass over what is forgotten raises KL, then a pass over what is retained lowers ce CE + kl KL; later epochs have the
second pass only. The rate falls tenfold after epochs 3, 5 and 9. Scores of the teacher are computed once.

At the start student and teacher agree, so that the first pass has no gradient: what is raised needs a second epoch.

The authors' code has two settings. The defaults are its small one (sets of some hundred to some thousand pictures, as
here): Adam, three passes away, ten epochs. The large one is SGD, for sets of ten thousands, whose single pass away
already has many batches: ``optimizer=sgd epochs=3 max_epochs=2 temperature=4 ce=0.99 kl=0.001``; with few pictures its
rate moves next to nothing. Left out is the decay of 0.1 that the small one adds to Adam's gradients.

With ``rewind`` (SCRUB+R, against membership attacks) single pictures are not forgotten further than needed: of the
weights after each epoch those are kept whose error on the forgotten pictures is nearest to the error of the last epoch
on held-out pictures, which is what an unseen picture gets. It reads the labels of the held-out pictures beside the
model and is off, as in the paper, where a class is forgotten. Weights of all epochs are in memory until then.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from erase_plugins.engine.optimizers import OPTIMIZERS
from erase_plugins.families.labelled import accuracy
from erase_plugins.hookspecs import hookimpl
from erase_plugins.options import option
from erase_plugins.training import Labelled, TrainingRun
from erase_plugins.training.baseline import Baseline, BaselineOptions, scores
from erase_plugins.training.labelled import Sets

if TYPE_CHECKING:
    from torch import Tensor

    from erase_plugins.artifacts.edit import Edit
_FALLS = (3, 5, 9)


@dataclass(frozen=True)
class ScrubOptions(BaselineOptions):
    """Options of SCRUB."""

    epochs: int = option(10, "how many epochs to train", low=1, high=100_000)
    lr: float = option(5e-4, "learning rate", low=0.0, high=10.0)
    optimizer: str = option("adam", "optimizer", choices=OPTIMIZERS)
    temperature: float = option(2.0, "temperature of both models", low=1e-3, high=1e3)
    max_epochs: int = option(3, "epochs that begin with a pass away from the teacher", low=0, high=100_000)
    ce: float = option(1.0, "weight of the labels of what is retained", low=0.0, high=1e6)
    kl: float = option(0.5, "weight of the teacher on what is retained", low=0.0, high=1e6)
    rewind: bool = option(True, "single pictures: keep the epoch whose error on them is that on held-out pictures")

    def rate(self, epoch: int) -> float:
        """Learning rate of an epoch."""
        return super().rate(epoch) * 0.1 ** sum(epoch > fall for fall in _FALLS)


@dataclass
class Epochs:
    """The weights after every epoch, and their error on what is forgotten; saved with every checkpoint."""

    weights: list[dict[str, Tensor]]
    errors: list[float]

    def tensors(self) -> dict[str, Tensor]:
        """All of them by name."""
        import torch

        found = {f"{number}.{name}": part for number, parts in enumerate(self.weights) for name, part in parts.items()}
        return found | {"errors": torch.tensor(self.errors, dtype=torch.float64)}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Inverse of `tensors`."""
        self.errors = tensors["errors"].tolist()
        self.weights = [{} for _ in self.errors]
        for name, part in tensors.items():
            number, _, rest = name.partition(".")
            if rest:
                self.weights[int(number)][rest] = part


class Scrub(Baseline):
    """Away from the teacher on one side, with it on the other."""

    id = "scrub"
    title = "SCRUB"
    paper = "https://arxiv.org/abs/2302.09880"
    summary = "baseline: a student leaves its teacher on what is forgotten and stays with it on what is retained"
    Options = ScrubOptions

    def prepare(self, run: TrainingRun) -> Any:
        import torch

        sets, own = super().prepare(run), {}
        with torch.no_grad(), run.adapters.disabled():
            for name, pool in (("forget", sets.forget), ("retain", sets.retain)):
                own[name] = torch.cat([scores(run, pool[rows]) for rows in torch.arange(len(pool)).split(256)])
        if run.options.rewind and not sets.gone and sets.held is not None and len(sets.held):
            run.carried = Epochs([], [])
        return replace(sets, own=own)

    def sized(self, options: Any, sets: Sets) -> Any:
        """An epoch is both passes; where the first is left out, the second goes on as long."""
        found = super().sized(options, sets)
        more = 0 if options.epoch_steps else away_steps(found, len(sets.forget))
        return replace(found, epoch_steps=found.epoch_steps + more)

    def loss(self, run: TrainingRun, step: int) -> Tensor:
        options, sets = run.options, run.state
        epoch, place = divmod(step, options.epoch_steps)
        if run.carried is not None and place == 0 and step:
            self.remember(run, epoch)
        first = (
            min(away_steps(options, len(sets.forget)), options.epoch_steps // 2) if epoch < options.max_epochs else 0
        )
        away = place < first
        name, pool = ("forget", sets.forget) if away else ("retain", sets.retain)
        number = epoch * first + place if away else step
        rows = self.rows(run, name, pool, number)
        batch: Labelled = pool[rows]
        terms = scrub_terms(scores(run, batch), sets.own[name][rows], batch.labels, options.temperature)
        return -terms["kl"] if away else options.ce * terms["ce"] + options.kl * terms["kl"]

    def remember(self, run: TrainingRun, epoch: int) -> None:
        """Keeps the weights after an epoch, once."""
        kept = run.carried
        assert isinstance(kept, Epochs)
        if len(kept.errors) < epoch:
            kept.errors.append(1 - accuracy(run.target, run.state.forget))
            parts = run.adapters.named_parameters()
            kept.weights.append({name: part.detach().clone() for name, part in parts.items()})

    def finish(self, run: TrainingRun) -> Edit:
        if run.carried is not None:
            self.remember(run, run.options.epochs)
            kept = run.carried
            assert isinstance(kept, Epochs)
            aim = 1 - accuracy(run.target, run.state.held)
            best = nearest(kept.errors, aim)
            run.adapters.load(kept.weights[best])
            run.ctx.numbers |= {"kept_epoch": best + 1, "aim_error": aim, "kept_error": kept.errors[best]}
        return super().finish(run)


def away_steps(options: Any, forget: int) -> int:
    """Batches of a pass over ``forget`` pictures."""
    return max(1, -(-forget // options.batch))


def nearest(errors: Sequence[float], aim: float) -> int:
    """Number of the error nearest to ``aim``; of equal ones the last, which was trained longest."""
    return min(range(len(errors)), key=lambda place: (abs(errors[place] - aim), -place))


def scrub_terms(student: Tensor, teacher: Tensor, labels: Tensor, temperature: float) -> dict[str, Tensor]:
    """``ce`` and ``kl``, means over a batch, of scores (n, labels) and classes (n,)."""
    from torch.nn.functional import cross_entropy, kl_div

    told = (teacher / temperature).log_softmax(-1)
    said = (student / temperature).log_softmax(-1)
    divergence = kl_div(said, told, reduction="batchmean", log_target=True)
    return {"ce": cross_entropy(student, labels), "kl": temperature**2 * divergence}


@hookimpl
def erase_methods() -> list[Baseline]:
    return [Scrub()]
