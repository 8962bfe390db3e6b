"""What is looked at in the pictures of one state of a subject: features, what the judge sees, a few to show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from erase_plugins.errors import Unsupported
from erase_plugins.evaluation.guarded import drawn, labels_of
from erase_plugins.evaluation.prompts import Prompt, texts_and_seeds

if TYPE_CHECKING:
    from torch import Tensor

    from erase_plugins.evaluation.erase_eval.metrics import Array
    from erase_plugins.evaluation.run import Subject

#: pictures per set that are kept for the sheet
_SHOWN = 8


@dataclass(frozen=True)
class Seen:
    """What was seen of one state of the subject, by set: features, 1 where the judge sees what the prompt names."""

    features: Mapping[str, Array]
    hits: Mapping[str, list[int]]
    pictures: Mapping[str, Tensor]


def look(subject: Subject, sets: Mapping[str, Sequence[Prompt]], edit: str = "on") -> Seen:
    """Draws sets of prompts, and keeps features, what the judge sees, and a few pictures of each.

    What a guard refused has no features (zeros): it is like nothing, and nothing is in it.
    """
    import numpy as np

    features, hits, pictures = {}, {}, {}
    for name, items in sets.items():
        if not items:
            continue
        pictured = subject.generate(*texts_and_seeds(items), edit=edit)
        features[name] = features_of(subject.judge, pictured) * np.asarray(drawn(pictured))[:, None]
        hits[name] = [item.shown(seen) for seen, item in zip(labels_of(subject.judge, pictured), items, strict=True)]
        pictures[name] = pictured[:_SHOWN].clone()
    return Seen(features, hits, pictures)


def features_of(judge: Any, pictures: Tensor) -> Array:
    """Features (n, d) of pictures: the judge's own, or the square roots of its probabilities on all axes."""
    import numpy as np
    import torch

    own = getattr(judge, "features", None)
    if own is None:
        found = torch.cat([scores.clamp_min(0).sqrt() for scores in judge.score(pictures).values()], dim=1)
    else:
        found = own(pictures)
    array = np.asarray(found.detach().cpu().double().numpy())
    if not np.isfinite(array).all():
        raise Unsupported(f"judge {judge.id} gives features that are no numbers for some pictures")
    return array
