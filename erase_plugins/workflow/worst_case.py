"""Worst-case forget sets: what a method finds hardest to forget (Fan et al., ECCV 2024, arXiv 2403.07362).

The search is in `erase_plugins.engine.selection`. At the lower level stands any registered method that fits the model:
it forgets the selection, and what it left decides about the next one. Beside the set stand two trivial ones, a random
one and that with the lowest losses before any unlearning, which on easy data is as hard. Published forms: data-wise
(rows of the training data), class-wise, prompt-wise (concepts of a text-to-image model, scored by a judge).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from erase_plugins.data import DataRef
from erase_plugins.engine.selection import budget_of, search, smallest
from erase_plugins.errors import RequestError, Unsupported
from erase_plugins.families.forget_set import CLASS, DATA, PROMPT, ForgetSet
from erase_plugins.families.labelled import Labelled, accuracy, losses
from erase_plugins.families.labelled_data import pool_of, stored
from erase_plugins.families.labels import SAMPLES
from erase_plugins.manager import get_manager
from erase_plugins.needs import lacks
from erase_plugins.types import ForgetItem
from erase_plugins.workflow.models import as_target

if TYPE_CHECKING:
    from collections.abc import Callable

    from erase_plugins.artifacts.artifact import Artifact
    from erase_plugins.families.model import Model

    #: called with (stage, done, total)
    Progress = Callable[[str, int, int], None]

RANDOM, LOWEST = "random", "lowest-loss"


def worst_case(
    model: Any,
    method: str,
    *,
    data: str | DataRef | None = None,
    budget: str | float = "10%",
    wise: str = DATA,
    concepts: Sequence[str] = (),
    kind: str = "object",
    rounds: int = 3,
    step: float | None = None,
    gamma: float = 0.0,
    per_class_quota: int | None = None,
    easiest: bool = False,
    options: Mapping[str, Any] | None = None,
    images: int = 8,
    judge: str | None = None,
    seed: int = 0,
    out: str | Path | None = None,
    force: bool = False,
    progress: Progress | None = None,
    **load: Any,
) -> ForgetSet:
    """Searches the set that a method forgets worst.

    Args:
        model: name, path, Hub id or loaded model; it is left as it was.
        method: id of a registered method that fits it.
        data: pictures with labels to select from, None for those beside the model (data- and class-wise).
        budget: "10%", a share, or a number of rows, classes or concepts.
        wise: "data", "class" or "prompt".
        concepts, kind: the pool of a prompt-wise search, and what they are.
        rounds: at most; the search ends when a round changes less than 1 % of the set.
        step: of the upper level; None is the step free of scale, with which two or three rounds are enough.
        gamma: weight of ||w||^2.
        per_class_quota: at most so many rows of a class (data-wise).
        easiest: search the set that is easiest to forget.
        options: of the method.
        images, judge: pictures per concept, and who looks at them (prompt-wise).
        seed: of the start and of the method.
        out: JSON file to write.
        force: replace one that this program wrote.
        progress: called with (stage, done, total).
        load: revision, dtype, device of a model given by name.

    Returns:
        The set, with both trivial selections and what the method left of all three: ``ua``, ``ra`` and ``ta`` (shares
        of wrong labels on what is forgotten, of right ones on the rest and on held-out pictures), or ``rate``.

    Raises:
        EraseError: a method or budget that does not fit, no data, a quota that cannot be met.
    """
    from erase_plugins.artifacts.locks import claim_files

    if out is not None and Path(out).suffix.lower() != ".json":
        raise RequestError(f"{Path(out).name} must end in .json; for example {Path(out).stem or 'worst-case'}.json")
    lower, total = _opened(
        model, method, load, budget, wise, per_class_quota, data=data, concepts=concepts, kind=kind, options=options,
        images=images, judge=judge, seed=seed,
    )  # fmt: skip
    target = lower.ask.target
    place = None if out is None else Path(out)
    if place is not None:  # refuse before the work
        with claim_files(place.parent, (place.name,), force):
            pass
    tell = progress or (lambda stage, done, whole: None)
    noise = np.random.default_rng(seed).random(lower.count)
    plain = {
        name: smallest(values, total, lower.groups, per_class_quota)
        for name, values in ((RANDOM, noise), (LOWEST, lower.losses(None)))
    }

    def losses_of(picked: np.ndarray, number: int) -> np.ndarray:
        tell("round", number, rounds)
        return lower.losses(picked)

    found = search(
        lower.count, total, losses_of, plain[RANDOM], rounds=rounds, step=step, gamma=gamma, easiest=easiest,
        groups=lower.groups, quota=per_class_quota, forgotten=lambda picked: lower.wrong(lower.measure(picked)),
    )  # fmt: skip
    measured: dict[str, dict[str, float]] = {}
    for number, (name, picked) in enumerate({"worst": found.picked, **plain}.items()):
        tell("measuring", number, 3)
        measured[name] = lower.measure(picked)
    tell("measuring", 3, 3)
    made = ForgetSet(
        wise, data=lower.told, scores=tuple(round(float(found.losses[place]), 6) for place in found.picked),
        **lower.names(found.picked), measured=measured["worst"],
        forget_set={
            "method": method, "options": {name: str(value) for name, value in (options or {}).items()},
            "model": target.info.model, "seed": seed, "budget": total, "of": lower.count, "rounds": len(found.kept),
            "kept": [round(share, 4) for share in found.kept], "left": [round(score, 4) for score in found.scores],
            "best": found.best, "step": "free of scale" if step is None else step,
            "gamma": gamma, "per_class_quota": per_class_quota, "direction": "easiest" if easiest else "worst",
            **lower.extra(found.picked),
        },
        baselines={
            name: {**{key: list(value) for key, value in lower.names(picked).items()}, "measured": measured[name],
                   "overlap": round(len(np.intersect1d(picked, found.picked)) / total, 4)}
            for name, picked in plain.items()
        },
    )  # fmt: skip
    if place is not None:
        made.save(place, force)
    return made


def planned(
    model: Any, method: str, *, budget: str | float = "10%", wise: str = DATA, per_class_quota: int | None = None,
    revision: str | None = None, dtype: str = "float32", device: str = "cpu", **given: Any,
) -> tuple[int, int, str]:  # fmt: skip
    """Number of items, how many `worst_case` with the same arguments would select, and what they are.

    Raises:
        EraseError: what `worst_case` refuses before it begins.
    """
    load = {"revision": revision, "dtype": dtype, "device": device}
    lower, total = _opened(model, method, load, budget, wise, per_class_quota, **given)
    return lower.count, total, lower.what


def _opened(
    model: Any, method: str, load: Mapping[str, Any], budget: str | float, wise: str, quota: int | None, *,
    data: str | DataRef | None = None, concepts: Sequence[str] = (), kind: str = "object", images: int = 8,
    judge: str | None = None, options: Mapping[str, Any] | None = None, seed: int = 0, **_rest: Any,
) -> tuple[_Lower, int]:  # fmt: skip
    """The lower level and the number of items to select."""
    runner = get_manager().method(method)
    target = as_target(model, **load)
    if missing := lacks(runner, target.info):
        raise Unsupported(f"{method} needs {', '.join(missing)}, which {target.info.model} lacks")
    lower = _lower(wise, target, method, dict(options or {}), seed, data, tuple(concepts), kind, images, judge)
    total = budget_of(budget, lower.count, lower.what)
    if quota is not None and lower.groups is None:
        raise RequestError("a quota per class belongs to a data-wise search; leave per_class_quota out")
    smallest(np.zeros(lower.count), total, lower.groups, quota)
    return lower, total


def _lower(
    wise: str, target: Model, method: str, options: dict[str, Any], seed: int, data: str | DataRef | None,
    concepts: tuple[str, ...], kind: str, images: int, judge: str | None,
) -> _Lower:  # fmt: skip
    ask = _Ask(target, method, options, seed)
    if wise == PROMPT:
        if data is not None:
            raise RequestError("a prompt-wise search selects among concepts and reads no data; leave data out")
        return _Concepts(ask, concepts, kind, images, judge)
    if wise not in (DATA, CLASS):
        raise RequestError(f"'{wise}' is no way to select; choose {DATA}, {CLASS} or {PROMPT}")
    if not getattr(get_manager().method(method), "reads_data", False):
        raise Unsupported(f"{method} reads no data, so it cannot forget pictures; see 'erase-plugins list methods'")
    if wise == DATA and SAMPLES not in get_manager().method(method).kinds:
        able = ", ".join(entry.item.id for entry in get_manager().methods() if SAMPLES in entry.item.kinds)
        raise Unsupported(f"{method} forgets classes, not single pictures; say --wise class, or take one of {able}")
    if concepts:
        raise RequestError("concepts are the pool of a prompt-wise search; leave them out, or say wise='prompt'")
    ref = DataRef(data) if isinstance(data, str) else data
    return (_Rows if wise == DATA else _Classes)(ask, *pool_of(target, ref))


@dataclass(frozen=True)
class _Ask:
    """The method at the lower level, and how it is asked."""

    target: Any
    method: str
    options: dict[str, Any]
    seed: int

    def __call__(self, items: Sequence[ForgetItem], keep: Sequence[DataRef] = ()) -> Artifact:
        from erase_plugins.api import erase

        return erase(self.target, items, self.method, keep=keep, options=self.options, seed=self.seed)


class _Lower(ABC):
    """The lower level: items that can be selected, and what is left of each after a selection was forgotten."""

    what = "rows"
    ask: _Ask
    count: int
    groups: np.ndarray | None = None
    told: Mapping[str, Any]

    @abstractmethod
    def scores(self) -> np.ndarray:
        """Loss (count,) of every item in the model as it is now."""

    @abstractmethod
    def forgotten(self, picked: np.ndarray) -> Any:
        """The model without the selection, for the length of a with-block."""

    @abstractmethod
    def seen(self, picked: np.ndarray) -> dict[str, float]:
        """What the model as it is now knows of a selection."""

    @cached_property
    def _looked(self) -> dict[bytes, tuple[np.ndarray, dict[str, float]]]:
        return {}

    def _look(self, picked: np.ndarray) -> tuple[np.ndarray, dict[str, float]]:
        """Losses of all items and what is left of a selection; each selection is forgotten once."""
        key = picked.tobytes()
        if key not in self._looked:
            with self.forgotten(picked):
                self._looked[key] = self.scores(), self.seen(picked)
        return self._looked[key]

    def wrong(self, measured: Mapping[str, float]) -> float:
        """Share of a selection that was forgotten, from what `seen` says."""
        return measured["ua"]

    def losses(self, picked: np.ndarray | None) -> np.ndarray:
        """Loss (count,) of every item after forgetting; None: of the model as it is."""
        return self.scores() if picked is None else self._look(picked)[0]

    def measure(self, picked: np.ndarray) -> dict[str, float]:
        """What the method leaves of a selection."""
        return self._look(picked)[1]

    @abstractmethod
    def names(self, picked: np.ndarray) -> dict[str, Any]:
        """The selection in the fields of a `ForgetSet`."""

    def extra(self, picked: np.ndarray) -> dict[str, Any]:
        """What else the file says about the selection."""
        return {}


class _Rows(_Lower):
    """Rows of labelled data."""

    def __init__(self, ask: _Ask, pool: Labelled, told: Mapping[str, Any]) -> None:
        self.ask, self.pool, self.told = ask, pool, told
        self.count, self.groups = len(pool), pool.labels.numpy()
        self.held = stored(ask.target, "test")
        self.labels = ask.target.classifier.labels

    def scores(self) -> np.ndarray:
        return np.asarray(losses(self.ask.target, self.pool).numpy())

    def mask(self, picked: np.ndarray) -> Any:
        import torch

        found = torch.zeros(len(self.pool), dtype=torch.bool)
        found[torch.from_numpy(picked)] = True
        return found

    def forgotten(self, picked: np.ndarray) -> Any:
        from erase_plugins.runtime.apply import apply_to

        mask = self.mask(picked)
        gone, rest = self.pool[mask], self.pool[~mask]
        made = self.ask(self.items(picked, gone), [DataRef.held(rest.pictures, rest.labels)])
        return apply_to(self.ask.target, made, 1.0)

    def items(self, picked: np.ndarray, gone: Labelled) -> list[ForgetItem]:
        return [ForgetItem(kind=SAMPLES, data=DataRef.held(gone.pictures, gone.labels))]

    def seen(self, picked: np.ndarray) -> dict[str, float]:
        mask, target = self.mask(picked), self.ask.target
        found = {"ua": 1 - accuracy(target, self.pool[mask]), "ra": accuracy(target, self.pool[~mask])}
        if self.held is not None and len(self.held):
            found["ta"] = accuracy(target, self.held)
        return {name: round(value, 6) for name, value in found.items()}

    def names(self, picked: np.ndarray) -> dict[str, Any]:
        return {"rows": tuple(picked.tolist())}

    def extra(self, picked: np.ndarray) -> dict[str, Any]:
        counts = self.pool.labels[picked].bincount(minlength=len(self.labels)).tolist()
        return {"classes": {self.labels[number]: count for number, count in enumerate(counts) if count}}


class _Classes(_Rows):
    """Classes of labelled data."""

    what = "classes"

    def __init__(self, ask: _Ask, pool: Labelled, told: Mapping[str, Any]) -> None:
        super().__init__(ask, pool, told)
        self.numbers = pool.labels.unique()
        self.count, self.groups = len(self.numbers), None

    def scores(self) -> np.ndarray:
        each = losses(self.ask.target, self.pool)
        return np.array([float(each[self.pool.labels == number].mean()) for number in self.numbers])

    def mask(self, picked: np.ndarray) -> Any:
        return self.pool.where(self.numbers[picked].tolist())

    def items(self, picked: np.ndarray, gone: Labelled) -> list[ForgetItem]:
        parts = [(int(number), gone[gone.labels == number]) for number in self.numbers[picked]]
        return [
            ForgetItem(label=self.labels[number], kind=CLASS, data=DataRef.held(part.pictures, part.labels))
            for number, part in parts
        ]

    def names(self, picked: np.ndarray) -> dict[str, Any]:
        return {"names": tuple(self.labels[int(number)] for number in self.numbers[picked])}

    def extra(self, picked: np.ndarray) -> dict[str, Any]:
        return {}


class _Concepts(_Lower):
    """Concepts of a text-to-image model; the loss is minus the share of pictures that still show it."""

    what = "concepts"
    now: np.ndarray

    def __init__(self, ask: _Ask, concepts: tuple[str, ...], kind: str, images: int, judge: str | None) -> None:
        from erase_plugins.workflow.measure import pick_judge

        self.ask, self.kind, self.images, self.told = ask, kind, images, {}
        self.pool = tuple(dict.fromkeys(text.strip() for text in concepts if text.strip()))
        self.count = len(self.pool)
        if self.count < 2:
            raise RequestError("a prompt-wise search needs a pool of at least two concepts; add --concept TEXT")
        self.judge = pick_judge(ask.target, judge, self.pool)
        known = {label for labels in self.judge.axes.values() for label in labels}
        if unknown := [text for text in self.pool if text not in known]:
            raise RequestError(f"judge {self.judge.id} knows no {', '.join(unknown[:5])}; take them out of the pool")

    def scores(self) -> np.ndarray:
        from erase_plugins.evaluation.lora_effect import shown

        target, seed = self.ask.target, self.ask.seed
        self.now = -np.array([shown(target, self.judge, text, self.images, seed) for text in self.pool])
        return self.now

    def forgotten(self, picked: np.ndarray) -> Any:
        from erase_plugins.runtime.apply import apply_to

        return apply_to(self.ask.target, self.ask([ForgetItem(self.pool[place], self.kind) for place in picked]), 1.0)

    def wrong(self, measured: Mapping[str, float]) -> float:
        return 1 - measured["rate"]

    def seen(self, picked: np.ndarray) -> dict[str, float]:
        return {"rate": round(float(-self.now[picked].mean()) + 0.0, 6)}

    def names(self, picked: np.ndarray) -> dict[str, Any]:
        return {"names": tuple(self.pool[place] for place in picked)}

    def extra(self, picked: np.ndarray) -> dict[str, Any]:
        return {"kind": self.kind, "judge": self.judge.id}
