"""Membership attacks against models trained anew ("shadows"): LiRA and RMIA, on what was forgotten.

Asked is whether the unlearned model can still be told to have seen D_f: its pictures against held-out ones that it
never saw (of the same classes, where classes were forgotten). After ideal unlearning the AUC is 0.5.

LiRA (Carlini et al., IEEE S&P 2022, arXiv 2112.03570) compares phi = log p - log(1 - p) of the true class with phi of
shadows: offline with a Gaussian of those that did not see the picture, online with the likelihood ratio of those that
did and those that did not. The variance is one for all pictures below `_OWN_SPREAD` shadows of a kind, as in the paper
for few models. RMIA (Zarifzadeh et al., ICML 2024, arXiv 2312.03262) is in its offline form: the score of x is the
share of z, from the other half of the held-out pictures, with p(x)/p_ref(x) > p(z)/p_ref(z), equal ones half, where
p_ref is the mean over shadows that did not see the picture.

A shadow costs a training, so only its phi are kept, in the user's cache (`erase_plugins.engine.disk_cache`), under a
hash of its first weights, pictures and settings: a killed run goes on, and the next artifact on the same pictures needs
none. They differ from the papers' in that all of them are trained by one plain recipe.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from erase_plugins.engine import disk_cache
from erase_plugins.errors import RequestError
from erase_plugins.evaluation.unlearning import Parts, auc, halves, tpr
from erase_plugins.families.labelled import Labelled, scores

_BATCH, _RATE, _VERSION = 64, 2e-3, 1
#: shadows of a kind from which each picture has a variance of its own
_OWN_SPREAD = 32
_RESAMPLES = 300
FPR = 0.01


@dataclass(frozen=True)
class Shadows:
    """What models trained anew say.

    Attributes:
        forget, others, z: pictures that were forgotten, that nobody saw, and that RMIA compares with.
        inside: (shadows, forget + others) whether a shadow was trained on a picture.
        asked, compared: phi (shadows, forget + others) and (shadows, z).
    """

    forget: Labelled
    others: Labelled
    z: Labelled
    inside: Tensor
    asked: Tensor
    compared: Tensor


def logit_gap(logits: Tensor, labels: Tensor) -> Tensor:
    """phi (n,) = log p - log(1 - p) of the true class, from logits without loss of digits."""
    wide = logits.double()
    own = wide.gather(1, labels[:, None])
    return (own[:, 0] - wide.scatter(1, labels[:, None], -torch.inf).logsumexp(-1)).clamp(-1e6, 1e6)


def shadows(
    model: Any, parts: Parts, count: int, epochs: int, *, online: bool = False, seed: int = 0,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Shadows:  # fmt: skip
    """Trains models of the same architecture, each on half of what is retained; online also on half of what is asked.

    Args:
        model: the architecture; it stays as it is.
        parts: pictures.
        count: number of models; online they come in pairs, which saw opposite halves.
        epochs: of each.
        progress: told models done and all models.

    Raises:
        RequestError: nothing held out to compare with, or an odd number online.
        Unsupported: the model cannot be made anew.
    """
    if online and count % 2:
        raise RequestError(f"online shadows come in pairs, and {count} is odd; set references to an even number")
    known, fresh = halves(len(parts.test), seed)
    others = parts.test[fresh] if parts.gone is None else parts.gone
    if not len(others) or not len(known):
        raise RequestError("no held-out pictures of the forgotten classes; a membership attack needs some")
    targets, z = Labelled.joined([parts.forget, others]), parts.test[known]
    inside = torch.zeros(count, len(targets), dtype=torch.bool)
    for number in range(count if online else 0):
        inside[number, halves(len(targets), seed + number // 2)[number % 2]] = True
    asked, compared = [], []
    for number in range(count):
        progress(number, count)
        half, _ = halves(len(parts.retain), seed + number)
        seen = Labelled.joined([parts.retain[half], targets[inside[number]]])
        found = _phi(model, seen, Labelled.joined([targets, z]), epochs, seed + number)
        asked.append(found[: len(targets)])
        compared.append(found[len(targets) :])
    return Shadows(parts.forget, others, z, inside, torch.stack(asked), torch.stack(compared))


def lira(model: Any, found: Shadows) -> tuple[Tensor, Tensor]:
    """Scores of LiRA of what was forgotten and of the others, the larger the likelier seen."""
    asked = Labelled.joined([found.forget, found.others])
    phi = logit_gap(scores(model, asked), asked.labels)
    out_mean, out_spread = _gaussian(found.asked, ~found.inside)
    told = (phi - out_mean) / out_spread
    if bool(found.inside.any()):
        in_mean, in_spread = _gaussian(found.asked, found.inside)
        told = (told.square() - ((phi - in_mean) / in_spread).square()) / 2 + out_spread.log() - in_spread.log()
    return told[: len(found.forget)], told[len(found.forget) :]


def rmia(model: Any, found: Shadows) -> tuple[Tensor, Tensor]:
    """Scores of RMIA of what was forgotten and of the others, the larger the likelier seen."""
    asked = Labelled.joined([found.forget, found.others])
    out = (~found.inside).double()
    reference = (found.asked.sigmoid() * out).sum(0) / out.sum(0)
    own = logit_gap(scores(model, asked), asked.labels).sigmoid() / reference.clamp_min(1e-12)
    against = logit_gap(scores(model, found.z), found.z.labels).sigmoid() / (
        found.compared.sigmoid().mean(0).clamp_min(1e-12)
    )
    told = ((own[:, None] > against).double() + 0.5 * (own[:, None] == against)).mean(1)
    return told[: len(found.forget)], told[len(found.forget) :]


def summary(members: Tensor, others: Tensor, seed: int) -> dict[str, tuple[float, float, float]]:
    """``auc`` and ``tpr`` (at `FPR`) with 95 % bootstrap intervals over the pictures of both sides.

    A rate of exactly 0 or 1 has no spread to resample; its open end is the rule of three.
    """
    rng, drawn = np.random.default_rng(seed), []
    for _ in range(_RESAMPLES):
        first, second = (torch.from_numpy(rng.integers(0, len(part), len(part))) for part in (members, others))
        drawn.append((auc(members[first], others[second]), tpr(members[first], others[second], FPR)))
    found = {}
    for place, (name, value) in enumerate((("auc", auc(members, others)), ("tpr", tpr(members, others, FPR)))):
        low, high = np.quantile([item[place] for item in drawn], [0.025, 0.975])
        slack = min(1.0, 3 / min(len(members), len(others)))
        low, high = (1 - slack, 1.0) if value == 1 else (0.0, slack) if value == 0 else (low, high)
        found[name] = value, min(float(low), value), max(float(high), value)
    return found


def _gaussian(phi: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and spread of phi over the shadows of a kind, for each picture."""
    weight = mask.double()
    count = weight.sum(0)
    mean = (phi * weight).sum(0) / count
    squares = ((phi - mean).square() * weight).sum(0)
    if float(count.min()) >= _OWN_SPREAD:
        return mean, (squares / (count - 1)).sqrt().clamp_min(1e-6)
    freedom = float((count - 1).clamp_min(0).sum())
    spread = (squares.sum() / freedom).sqrt() if freedom else torch.ones(())
    return mean, spread.clamp_min(1e-6).expand_as(mean)


def _phi(model: Any, seen: Labelled, asked: Labelled, epochs: int, seed: int) -> Tensor:
    """phi (n,) of pictures under a model that is trained anew on others, or from the cache."""
    start = model.classifier.fresh(seed)
    key = "shadow-" + _hash(start, seen, asked, f"{_VERSION} {epochs} {_RATE} {_BATCH} {seed} {torch.__version__}")
    kept = disk_cache.read(key, {"phi": ((len(asked),), torch.float64)})
    if kept is not None:
        return kept["phi"]
    twin = model.family.wrap(copy.deepcopy(model.host))
    network = twin.network("classifier")
    with torch.no_grad():
        for name, value in start.items():
            network.get_parameter(name).copy_(value)
    optimizer = torch.optim.AdamW([item.requires_grad_(True) for item in network.parameters()], _RATE)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(epochs):
        for rows in torch.randperm(len(seen), generator=generator).split(_BATCH):
            optimizer.zero_grad()
            cross_entropy(twin.classifier.logits(seen.pictures[rows]).float(), seen.labels[rows]).backward()
            optimizer.step()
    phi = logit_gap(scores(twin, asked), asked.labels)
    disk_cache.write(key, {"phi": phi})
    return phi


def _hash(start: Any, seen: Labelled, asked: Labelled, settings: str) -> str:
    total = hashlib.blake2b(settings.encode(), digest_size=20)
    tensors = [*(start[name] for name in sorted(start)), seen.pictures, seen.labels, asked.pictures, asked.labels]
    for part in tensors:
        plain = part.detach().cpu().contiguous()
        total.update(f"{tuple(plain.shape)} {plain.dtype}".encode() + plain.view(torch.uint8).numpy().tobytes()
                     if plain.dim() else plain.reshape(1).view(torch.uint8).numpy().tobytes())  # fmt: skip
    return total.hexdigest()
