"""The lower level of a search for a worst-case set: what can be selected, and what is left after it was forgotten."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from erase_plugins.data import DataRef
from erase_plugins.errors import RequestError
from erase_plugins.families.forget_set import CLASS
from erase_plugins.families.labelled import Labelled, accuracy, losses
from erase_plugins.families.labelled_data import stored
from erase_plugins.families.labels import SAMPLES
from erase_plugins.hints import Hint
from erase_plugins.types import ForgetItem

if TYPE_CHECKING:
    from erase_plugins.artifacts.artifact import Artifact


@dataclass(frozen=True)
class Ask:
    """The method at the lower level, and how it is asked."""

    target: Any
    method: str
    options: dict[str, Any]
    seed: int

    def __call__(self, items: Sequence[ForgetItem], keep: Sequence[DataRef] = ()) -> Artifact:
        from erase_plugins.api import erase

        return erase(self.target, items, self.method, keep=keep, options=self.options, seed=self.seed)


class Lower(ABC):
    """The lower level: items that can be selected, and what is left of each after a selection was forgotten."""

    what = "rows"
    ask: Ask
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


class Rows(Lower):
    """Rows of labelled data."""

    def __init__(self, ask: Ask, pool: Labelled, told: Mapping[str, Any]) -> None:
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


class Classes(Rows):
    """Classes of labelled data."""

    what = "classes"

    def __init__(self, ask: Ask, pool: Labelled, told: Mapping[str, Any]) -> None:
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


class Concepts(Lower):
    """Concepts of a text-to-image model; the loss is minus the share of pictures that still show it."""

    what = "concepts"
    now: np.ndarray

    def __init__(self, ask: Ask, concepts: tuple[str, ...], kind: str, images: int, judge: str | None) -> None:
        from erase_plugins.workflow.measure import pick_judge

        self.ask, self.kind, self.images, self.told = ask, kind, images, {}
        self.pool = tuple(dict.fromkeys(text.strip() for text in concepts if text.strip()))
        self.count = len(self.pool)
        if self.count < 2:
            raise RequestError(
                "a prompt-wise search needs a pool of at least two concepts; add ", Hint("concept", "TEXT")
            )
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
