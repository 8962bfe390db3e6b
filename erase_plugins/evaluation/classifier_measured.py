"""What the classifier suite measures on, and what its options add to the accuracies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from erase_plugins.errors import RequestError
from erase_plugins.families.forget_set import DATA, read_set
from erase_plugins.families.labelled import Labelled
from erase_plugins.families.labelled_data import pool_of, referred, stored
from erase_plugins.families.labels import SAMPLES, class_number
from erase_plugins.hints import Hint, Setting
from erase_plugins.late import FUNCTIONS
from erase_plugins.options import option
from erase_plugins.types import DataRef, EvalRow

if TYPE_CHECKING:
    from erase_plugins.evaluation.context import SuiteContext
    from erase_plugins.evaluation.run import Subject

#: (subject, state) of what is measured beyond accuracies
_STATES = (("base", "off"), ("edited", "on"))


@dataclass(frozen=True)
class ClassifierOptions:
    """What is measured, and on what. Everything beyond accuracies costs extra and is off."""

    pictures: str | None = option(None, "folder of pictures, one folder per label; none: those beside the model")
    training: str | None = option(None, "training pictures, a folder or .jsonl file; none: those beside the model")
    forget: str | None = option(None, "forget set (worst-case FILE), where samples are forgotten")
    unlearning: bool = option(False, "also UA, RA, TA, MIA and the loss attack, on training and held-out pictures")
    against: tuple[str, ...] = option((), "artifacts of retrain with commas between them: the gap to their mean")
    probe: bool = option(False, "also what a new head, and class means, read of forgotten classes in the features")
    weights: bool = option(False, "also changes of the weights: strength, few bits, half of the edit put back, pruned")
    relearn: int = option(0, "steps of a relearning attack; 0: none", low=0, high=100_000)
    shots: int = option(4, "pictures per forgotten class to relearn from", low=1, high=1000)
    references: int = option(
        0, "models trained anew for the membership attacks LiRA and RMIA; 0: none", low=0, high=256
    )
    online: bool = option(False, "half of them have seen each forgotten picture (LiRA online); an even number")
    epochs: int = option(15, "epochs of each of them", low=1, high=10_000)


@dataclass(frozen=True)
class Given:
    """What a measurement is about: pictures, the numbers of forgotten classes, training rows that are forgotten."""

    held: Labelled
    gone: list[int]
    pool: Labelled | None
    rows: Any

    @property
    def classes(self) -> tuple[int, ...]:
        """Numbers of forgotten classes."""
        return tuple(self.gone)

    @property
    def samples(self) -> Labelled:
        """Training pictures that are forgotten."""
        assert self.pool is not None
        return self.pool[self.rows]


def given_of(subject: Subject, options: ClassifierOptions) -> Given:
    """Pictures and what is forgotten.

    Raises:
        RequestError: no pictures, none of forgotten or of other classes, or samples without their forget set.
    """
    import torch

    model, folder = subject.target, options.pictures
    held = stored(model, "test") if folder is None else referred(model, DataRef(folder))
    if held is None:
        raise RequestError(
            f"there are no pictures beside {subject.model} to measure on; give a folder with one folder per label: ",
            Setting("pictures", "folder"),
        )
    if options.forget is not None:
        found = read_set(options.forget)
        pool, told = pool_of(model, None if options.training is None else DataRef(options.training))
        if found.wise == DATA:
            rows = torch.zeros(len(pool), dtype=torch.bool)
            rows[found.mask(len(pool), told["sha256"], told["name"])] = True
            return Given(held, [], pool, rows)
        subject.erased = list(found.names)
    samples = [item.name for made in subject.artifacts for item in made.manifest.concepts if item.kind == SAMPLES]
    if samples and set(subject.erased) <= set(samples):
        raise RequestError(
            f"samples were forgotten ({', '.join(samples)}); say which, as a forget set: ", Setting("forget", "FILE")
        )
    labels = model.classifier.labels
    gone = [class_number(name, labels, model.info.model) for name in subject.erased]
    mask = held.where(gone)
    if not gone or not bool(mask.any()) or bool(mask.all()):
        raise RequestError(
            f"{int(mask.sum())} of {len(mask)} pictures show {', '.join(subject.erased) or 'no class'}; give "
            "some of forgotten and of other classes (",
            Setting("pictures", "folder"),
            "), or name the classes with ",
            Hint("erased"),
        )
    if not (options.unlearning or options.probe or options.relearn or options.references or options.against):
        return Given(held, gone, None, None)
    pool, _ = pool_of(model, None if options.training is None else DataRef(options.training))
    return Given(held, gone, pool, pool.where(gone))


class Measured:
    """The measurements that options ask for, as rows; ``curves`` are those of relearning, ``variants`` of weights."""

    def __init__(self, subject: Subject, ctx: SuiteContext, options: ClassifierOptions, given: Given) -> None:
        from erase_plugins.evaluation.unlearning import Parts

        self.subject, self.ctx, self.options, self.given = subject, ctx, options, given
        self.details: dict[str, Any] = {}
        self.warnings: list[str] = []
        self.curves: dict[str, dict[int, float]] = {}
        self.variants: list[EvalRow] = []
        self.parts: Any = None
        if given.pool is not None:
            self.parts = Parts.of(given.pool, given.held, given.rows, given.classes)

    def rows(self) -> list[EvalRow]:
        """All that was asked for."""
        options, found = self.options, list[EvalRow]()
        if options.weights:
            found += self.weights()
        if self.parts is None:
            return found
        if options.unlearning or options.forget is not None or options.against:
            found += self.unlearning()
        if options.probe:
            found += self.each("probe", self.read)
        if options.references:
            found += self.membership()
        if options.relearn:
            found += self.relearned()
        return found

    def each(self, stage: str, measure: Any, states: Sequence[tuple[str, str]] = _STATES) -> list[EvalRow]:
        rows = []
        for number, (name, state) in enumerate(states):
            self.ctx.progress(stage, number, len(states))
            with self.subject.under(state):
                rows += [_plain(metric, name, value, n) for metric, (value, n) in measure(self.subject.target).items()]
        return rows

    def four(self, model: Any) -> dict[str, tuple[float, int]]:
        from erase_plugins.evaluation.unlearning import measure

        sizes = {"ra": len(self.parts.retain), "ta": len(self.parts.test)}
        found = measure(model, self.parts, self.ctx.seed)
        return {name: (value, sizes.get(name, len(self.parts.forget))) for name, value in found.items()}

    def unlearning(self) -> list[EvalRow]:
        from erase_plugins.evaluation.bootstrap import mean_interval
        from erase_plugins.evaluation.unlearning import gap
        from erase_plugins.runtime.apply import apply_to

        rows = self.each("UA, RA, TA, MIA", self.four)
        self.details["run_seconds"] = [item.manifest.seconds for item in self.subject.artifacts]
        retrained = []
        for path in self.options.against:
            made = FUNCTIONS["load"](path)
            with apply_to(self.subject.target, made, 1.0):
                retrained.append({name: value for name, (value, _) in self.four(self.subject.target).items()})
        if not retrained:
            return rows
        for name in retrained[0]:
            values = mean_interval([item[name] for item in retrained], self.ctx.seed, pictures=0)
            rows.append(row_of(name, "retrained", values, len(retrained)))
        aim = {name: sum(item[name] for item in retrained) / len(retrained) for name in retrained[0]}
        for name, _ in _STATES:
            own = {row.metric: row.value for row in rows if row.subject == name}
            rows.append(_plain("gap", name, gap(own, aim), len(retrained)))
        return rows

    def read(self, model: Any) -> dict[str, tuple[float, int]]:
        from erase_plugins.evaluation.unlearning import read_from_features

        assert self.given.pool is not None  # or there were no parts
        found = read_from_features(model, self.given.pool, self.parts)
        return {name: (value, len(self.parts.gone)) for name, value in found.items()}

    def membership(self) -> list[EvalRow]:
        from erase_plugins.evaluation import membership

        options, seed, rows = self.options, self.ctx.seed, list[EvalRow]()
        found = membership.shadows(
            self.subject.target, self.parts, options.references, options.epochs, online=options.online, seed=seed,
            progress=lambda done, total: self.ctx.progress("shadow models", done, total),
        )  # fmt: skip
        for number, (name, state) in enumerate(_STATES):
            self.ctx.progress("LiRA, RMIA", number, len(_STATES))
            with self.subject.under(state):
                for attack in (membership.lira, membership.rmia):
                    told = membership.summary(*attack(self.subject.target, found), seed)
                    rows += [row_of(f"{attack.__name__}_{what}", name, values, len(found.forget))
                             for what, values in told.items()]  # fmt: skip
        self.details["membership"] = {
            "shadows": options.references, "epochs": options.epochs, "form": "online" if options.online else "offline",
            "members": len(found.forget), "others": len(found.others), "fpr": membership.FPR,
        }  # fmt: skip
        self.warnings += _told(rows)
        return rows

    def weights(self) -> list[EvalRow]:
        from erase_plugins.evaluation.attacks.rates import TARGET
        from erase_plugins.evaluation.attacks.weight_changes import KEPT
        from erase_plugins.evaluation.classifier_weights import changed_weights

        held, mask = self.given.held, self.given.held.where(self.given.gone)
        gone = held[mask] if self.given.gone else self.given.samples
        found = changed_weights(self.subject, self.ctx, {TARGET: gone, KEPT: held[~mask]})
        self.variants, self.details["weights"] = found.variants, found.details
        self.warnings += found.warnings
        return found.rows

    def relearned(self) -> list[EvalRow]:
        from erase_plugins.evaluation.unlearning import relearn

        options = self.options
        for number, (name, state) in enumerate((*_STATES, ("destroyed", "destroyed"))):
            self.ctx.progress("relearning", number, 3)
            with self.subject.under(state):
                self.curves[name] = relearn(
                    self.subject.target, self.parts, options.relearn, shots=options.shots, seed=self.ctx.seed
                )
        self.details["relearn"] = {name: {str(step): value for step, value in curve.items()}
                                   for name, curve in self.curves.items()}  # fmt: skip
        rate = {name: curve[max(curve)] for name, curve in self.curves.items()}
        if rate["edited"] > 0.5 and rate["edited"] > rate["destroyed"] + 0.2:
            self.warnings.append(
                f"{options.shots} pictures per class bring it back: {rate['edited']:.0%} after {options.relearn} steps"
            )
        return [_plain("relearned", name, value, options.relearn) for name, value in rate.items()]


def _told(rows: Sequence[EvalRow]) -> list[str]:
    return [
        f"{row.metric.removesuffix('_auc').replace('lira', 'LiRA').replace('rmia', 'RMIA')} still tells what was "
        f"forgotten from pictures that the model never saw: AUC {row.value:.2f} [{row.low:.2f}..{row.high:.2f}]"
        for row in rows if row.subject == "edited" and row.metric.endswith("_auc") and row.low > 0.5
    ]  # fmt: skip


def _plain(metric: str, subject: str, value: float, n: int) -> EvalRow:
    """A row without an interval of its own."""
    return EvalRow(metric, subject, round(value, 6), round(value, 6), round(value, 6), n)


def row_of(metric: str, subject: str, interval: Sequence[float], n: int) -> EvalRow:
    value, low, high = (round(number, 6) for number in interval)
    return EvalRow(metric, subject, value, low, high, n)
