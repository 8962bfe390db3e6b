"""What unlearning of a classifier left: UA, RA, TA, membership, probes, relearning; retraining is the aim.

    UA = 1 - accuracy on D_f (training pictures to forget)      RA = accuracy on D_r      TA = accuracy on held-out ones
    MIA = share of D_f that a confidence attack calls "not trained on"
    gap = mean over the four of |value - value of a retrained model|

All are shares in 0..1 on pictures without augmentation. Nothing here is "higher is better".

Differs from the official code (OPTML-Group/Unlearn-WorstCase, ``SVC_MIA``):
    - the attack is the best threshold on the confidence of the true class, which is what an SVC on one number finds;
    - it learns from a class-balanced random subset of the retained pictures and from one half of the held-out ones;
    - the modified entropy is that of Song and Mittal, not the one of the code.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from erase_plugins.errors import RequestError
from erase_plugins.families.labelled import Labelled, accuracy, scores

#: the four that a gap is the mean of
FOUR = ("ua", "ra", "ta", "mia")


@dataclass(frozen=True)
class Parts:
    """The pictures of a measurement.

    Attributes:
        forget, retain: training pictures.
        test: held-out pictures without those of forgotten classes.
        gone: held-out pictures of forgotten classes; None where samples are forgotten.
    """

    forget: Labelled
    retain: Labelled
    test: Labelled
    gone: Labelled | None = None

    @staticmethod
    def of(pool: Labelled, test: Labelled, mask: Tensor, classes: Sequence[int]) -> Parts:
        """From all training pictures and the mask (n,) of those that are forgotten.

        Raises:
            RequestError: nothing to forget, to retain, or to test with.
        """
        away = test.where(classes)
        found = Parts(pool[mask], pool[~mask], test[~away], test[away] if classes else None)
        for name in ("forget", "retain", "test"):
            if not len(getattr(found, name)):
                raise RequestError(f"there are no pictures to {name}, so UA, RA, TA and MIA cannot be measured")
        return found


def measure(model: Any, parts: Parts, seed: int = 0) -> dict[str, float]:
    """UA, RA, TA, MIA, and for the loss attack ``auc`` and ``tpr`` (at 1 % false positives)."""
    logits = {name: scores(model, getattr(parts, name)) for name in ("forget", "retain", "test")}
    sets = {name: getattr(parts, name) for name in logits}
    right = {name: float((found.argmax(-1) == sets[name].labels).double().mean()) for name, found in logits.items()}
    sure = {name: confidence(found, sets[name].labels) for name, found in logits.items()}
    known, fresh = halves(len(parts.test), seed)
    inside = balanced(parts.retain.labels, len(known), seed)
    cut = threshold(sure["retain"][inside], sure["test"][known])
    loss = {name: -cross_entropy(found, sets[name].labels, reduction="none") for name, found in logits.items()}
    return {
        "ua": 1 - right["forget"], "ra": right["retain"], "ta": right["test"],
        "mia": float((sure["forget"] < cut).double().mean()),
        "auc": auc(loss["forget"], loss["test"][fresh]), "tpr": tpr(loss["forget"], loss["test"][fresh]),
    }  # fmt: skip


def gap(values: Mapping[str, float], retrained: Mapping[str, float]) -> float:
    """Mean distance of UA, RA, TA and MIA from those of a retrained model."""
    return sum(abs(values[name] - retrained[name]) for name in FOUR) / len(FOUR)


def confidence(logits: Tensor, labels: Tensor) -> Tensor:
    """Probability (n,) of the true class."""
    return logits.double().softmax(-1).gather(1, labels[:, None])[:, 0]


def modified_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """-(1 - p_y) log p_y - sum_{k != y} p_k log(1 - p_k), (n,)."""
    p = logits.double().softmax(-1).clamp(1e-30, 1 - 1e-15)
    own = p.gather(1, labels[:, None])[:, 0]
    others = (p * torch.log1p(-p)).sum(-1) - own * torch.log1p(-own)
    return -(1 - own) * own.log() - others


def threshold(members: Tensor, others: Tensor) -> float:
    """The value from which most members and fewest others lie at or above; both sides weigh the same."""
    values = torch.cat([members, others]).double()
    edges = values.unique()
    inside = (members.double()[None] >= edges[:, None]).double().mean(1)
    outside = (others.double()[None] < edges[:, None]).double().mean(1)
    return float(edges[(inside + outside).argmax()])


def auc(members: Tensor, others: Tensor) -> float:
    """Chance that a member has a larger value than another one; equal ones count half."""
    both = torch.cat([members, others]).double()
    _, places, counts = both.unique(return_inverse=True, return_counts=True)
    ranks = (counts.cumsum(0) - (counts - 1) / 2.0)[places]  # mean rank of equal values, from 1
    n, m = len(members), len(others)
    return float((ranks[:n].sum() - n * (n + 1) / 2) / (n * m))


def tpr(members: Tensor, others: Tensor, fpr: float = 0.01) -> float:
    """Share of members above a cut that at most ``fpr`` of the others are above."""
    cut = others.double().sort(descending=True).values[int(fpr * len(others))]
    return float((members.double() > cut).double().mean())


def halves(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Two random halves of ``count`` rows."""
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    return order[: count // 2], order[count // 2 :]


def balanced(labels: Tensor, count: int, seed: int) -> Tensor:
    """About ``count`` random rows, as many of each class as there are, in turns."""
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed + 1))
    turn = torch.zeros(len(labels))
    for number in labels.unique():
        mine = order[labels[order] == number]
        turn[mine] = torch.arange(len(mine), dtype=turn.dtype)
    return turn.argsort(stable=True)[:count]


# ---- what the features still hold ------------------------------------------------------------------------------------


def read_from_features(model: Any, pool: Labelled, parts: Parts) -> dict[str, float]:
    """Accuracy on held-out pictures of the forgotten classes, ``probe`` by a linear head that is learned anew on the
    features of all training pictures, ``prototype`` by the nearest class mean.

    Raises:
        RequestError: no class is forgotten.
    """
    if parts.gone is None or not len(parts.gone):
        raise RequestError("probes read forgotten classes, and here samples are forgotten; leave probe out")
    x, asked = features(model, pool), features(model, parts.gone)
    mean, spread = x.mean(0), x.std(0).clamp_min(1e-9)
    x, asked = (x - mean) / spread, (asked - mean) / spread
    numbers = pool.labels.unique()
    wanted = (pool.labels[:, None] == numbers).double()
    gram = x.T @ x + 1e-2 * len(x) * torch.eye(x.shape[1], dtype=x.dtype)
    head = torch.linalg.solve(gram, x.T @ (wanted - wanted.mean(0)))
    linear = (asked @ head + wanted.mean(0)).argmax(1)
    means = torch.stack([x[pool.labels == number].mean(0) for number in numbers])
    near = torch.cdist(asked, means).argmin(1)
    return {name: float((numbers[place] == parts.gone.labels).double().mean())
            for name, place in (("probe", linear), ("prototype", near))}  # fmt: skip


def features(model: Any, part: Labelled, batch: int = 256) -> Tensor:
    """Features (n, width) float64 of all pictures."""
    with torch.no_grad():
        rows = torch.arange(len(part)).split(batch)
        return torch.cat([model.classifier.features(part.pictures[some]).cpu().double() for some in rows])


def relearn(
    model: Any, parts: Parts, steps: int, *, shots: int = 4, lr: float = 1e-3, looks: int = 5, seed: int = 0
) -> dict[int, float]:
    """Steps -> accuracy on what was forgotten while a copy of the model is trained on few pictures of it.

    Each step shows ``shots`` pictures per forgotten class (of samples 16 in all), always the same, and as many
    retained ones. Measured on held-out pictures of the classes; of samples on those that were not shown.
    """
    twin = model.family.wrap(copy.deepcopy(model.host))
    parameters = [part.requires_grad_(True) for part in twin.network("classifier").parameters()]
    optimizer, generator = torch.optim.Adam(parameters, lr), torch.Generator().manual_seed(seed)
    shown = _shown(parts, shots)
    rest = torch.ones(len(parts.forget), dtype=torch.bool)
    rest[shown] = False
    asked = parts.forget[rest] if parts.gone is None else parts.gone
    if not len(asked):
        raise RequestError("too few pictures are forgotten to relearn from some and ask for others")
    curve = {0: accuracy(twin, asked)}
    for step in range(1, steps + 1):
        rows = torch.randint(len(parts.retain), (len(shown),), generator=generator)
        part = Labelled.joined([parts.forget[shown], parts.retain[rows]])
        optimizer.zero_grad()
        cross_entropy(twin.classifier.logits(part.pictures).float(), part.labels).backward()
        optimizer.step()
        if step % max(1, steps // looks) == 0 or step == steps:
            curve[step] = accuracy(twin, asked)
    return curve


def _shown(parts: Parts, shots: int) -> Tensor:
    labels = parts.forget.labels
    if parts.gone is None:
        return torch.arange(min(16, max(1, len(labels) // 2)))
    return torch.cat([(labels == number).nonzero()[:shots, 0] for number in labels.unique()])


def confusion(guesses: Tensor, labels: Tensor, count: int) -> Tensor:
    """Number of pictures (true class, predicted class), from predicted and true classes (n,)."""
    table = torch.zeros(count, count, dtype=torch.long)
    table.index_put_((labels, guesses), torch.ones(len(labels), dtype=torch.long), accumulate=True)
    return table
