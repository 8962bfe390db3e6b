"""Worst-case forget sets: what a method finds hardest to forget (Fan et al., ECCV 2024, arXiv 2403.07362).

The search is in `erase_plugins.engine.selection`. At the lower level stands any registered method that fits the model:
it forgets the selection, and what it left decides about the next one. Beside the set stand two trivial ones, a random
one and that with the lowest losses before any unlearning, which on easy data is as hard. Published forms: data-wise
(rows of the training data), class-wise, prompt-wise (concepts of a text-to-image model, scored by a judge).

Differs from the paper, prompt-wise: whole concepts are selected, in place of single prompts with weights in the loss of
the eraser, and what is left of each is the share of pictures in which a judge sees it, in place of the denoising loss.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from erase_plugins.data import DataRef
from erase_plugins.engine.selection import budget_of, search, smallest
from erase_plugins.errors import RequestError, Unsupported
from erase_plugins.families.forget_set import CLASS, DATA, PROMPT, ForgetSet
from erase_plugins.families.labelled_data import pool_of
from erase_plugins.families.labels import SAMPLES
from erase_plugins.families.loading import AUTO
from erase_plugins.hints import Hint
from erase_plugins.manager import get_manager
from erase_plugins.needs import lacks
from erase_plugins.workflow.lower_level import Ask, Classes, Concepts, Lower, Rows
from erase_plugins.workflow.models import as_target

if TYPE_CHECKING:
    from collections.abc import Callable

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
    revision: str | None = None, dtype: str = AUTO, device: str = "cpu", **given: Any,
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
) -> tuple[Lower, int]:  # fmt: skip
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
) -> Lower:  # fmt: skip
    ask = Ask(target, method, options, seed)
    if wise == PROMPT:
        if data is not None:
            raise RequestError("a prompt-wise search selects among concepts and reads no data; leave data out")
        return Concepts(ask, concepts, kind, images, judge)
    if wise not in (DATA, CLASS):
        raise RequestError(f"'{wise}' is no way to select; choose {DATA}, {CLASS} or {PROMPT}")
    if not getattr(get_manager().method(method), "reads_data", False):
        raise Unsupported(f"{method} reads no data, so it cannot forget pictures; see 'erase-plugins list methods'")
    if wise == DATA and SAMPLES not in get_manager().method(method).kinds:
        able = ", ".join(entry.item.id for entry in get_manager().methods() if SAMPLES in entry.item.kinds)
        raise Unsupported(
            f"{method} forgets classes, not single pictures; say ", Hint("wise", "class"), f", or take one of {able}"
        )
    if concepts:
        raise RequestError("concepts are the pool of a prompt-wise search; leave them out, or say wise='prompt'")
    ref = DataRef(data) if isinstance(data, str) else data
    return (Rows if wise == DATA else Classes)(ask, *pool_of(target, ref))
