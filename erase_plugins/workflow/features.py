"""Pictures in a folder, as the feature matrix of a head from which they can be deleted later."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from erase_plugins.data import DataRef
from erase_plugins.errors import RequestError, Unsupported
from erase_plugins.families.labelled import Labelled
from erase_plugins.families.labelled_data import referred, stored
from erase_plugins.families.labels import class_number
from erase_plugins.families.pictures import opened
from erase_plugins.manager import get_manager
from erase_plugins.workflow.measure import find_judge
from erase_plugins.workflow.models import as_target

if TYPE_CHECKING:
    from torch import Tensor

_BATCH = 256
#: axis of a judge whose labels the pictures have
_AXIS = "concept"


@dataclass(frozen=True)
class Features:
    """What a frozen model sees in pictures.

    Attributes:
        rows: (n, dim) float64, numpy.
        labels: (n,) numbers of classes.
        names: of all classes that the model knows, in the order of their numbers.
        longest: a number that no row is longer than, whatever the picture; None where nothing bounds them.
    """

    rows: Any
    labels: Any
    names: tuple[str, ...]
    longest: float | None

    def save(self, path: Path) -> None:
        """Writes an .npz file with ``features``, ``labels`` and ``names``."""
        import numpy as np

        from erase_plugins.artifacts.atomic import atomic_file
        from erase_plugins.artifacts.places import FILE, check_place

        check_place(path, False, FILE)
        with atomic_file(path, False) as work, work.open("wb") as file:
            np.savez(file, features=self.rows, labels=self.labels, names=np.array(json.dumps(self.names)))


def features_of(frozen: str, pictures: str | None) -> Features:
    """Features of pictures by the model in front of a classifier's head, or by a judge of a text-to-image model.

    Args:
        frozen: name of a registered judge, or a classifier (name, folder, Hub id).
        pictures: a folder with one folder per label; None takes the pictures beside the classifier.

    Raises:
        UnknownName: a label that the model does not know.
        RequestError: no pictures.
        Unsupported: it does not show its features.
    """
    name = frozen.partition(":")[0]
    if any(entry.item.id == name for entry in get_manager().evaluators("judge")):
        return _of_judge(frozen, pictures)
    target = as_target(frozen)
    if "classifier" not in target.info.capabilities:
        raise Unsupported(f"'{target.info.model}' is no classifier; give one, or a judge such as pocket")
    part = stored(target, "train") if pictures is None else referred(target, DataRef(pictures))
    if part is None:
        raise RequestError(f"there are no pictures beside {target.info.model}; give a folder with one folder per label")
    try:
        bound: float | None = math.nextafter(target.classifier.longest(), math.inf)
    except Unsupported:
        bound = None
    rows = _rows(target.classifier.features, part)
    return Features(rows, part.labels.numpy(), tuple(target.classifier.labels), bound)


def _of_judge(wanted: str, pictures: str | None) -> Features:
    import numpy as np
    import torch
    from PIL import Image

    judge, argument = find_judge(wanted)
    judge = judge.opened(argument, ()) if argument else judge
    names = tuple(getattr(judge, "axes", {}).get(_AXIS, ()))
    if not names or not hasattr(judge, "features"):
        raise Unsupported(f"judge '{judge.id}' does not show its features of concepts; take another one")
    if pictures is None:
        raise RequestError(f"a judge has no pictures of its own; give a folder with one folder per concept of {wanted}")
    height, width = getattr(judge, "size", (64, 64))
    shown, numbers = [], []
    for row in DataRef(pictures).rows():
        path = Path(row["path"])
        image = opened(path).resize((width, height), Image.Resampling.BICUBIC)
        shown.append(torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1).float() / 255)
        numbers.append(class_number(row["label"].replace("_", " "), names, f"judge {judge.id}"))
    part = Labelled(torch.stack(shown), torch.tensor(numbers))
    return Features(_rows(judge.features, part), part.labels.numpy(), names, None)


def _rows(see: Any, part: Labelled) -> Any:
    import torch

    with torch.no_grad():
        seen: Sequence[Tensor] = [
            see(part.pictures[some]).cpu().double() for some in torch.arange(len(part)).split(_BATCH)
        ]
    return torch.cat(list(seen)).numpy()


def told(found: Features) -> Mapping[str, Any]:
    """What the command says as JSON."""
    return {
        "rows": len(found.rows), "dim": int(found.rows.shape[1]), "classes": len(found.names), "scale": found.longest,
    }  # fmt: skip
