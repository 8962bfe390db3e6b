"""The contract that judges keep, as a pytest class.

    from erase_plugins.testing.judges import JudgeContract

    class TestMyJudge(JudgeContract):
        names = ("my-judge",)

A judge of which the user brings a part (``argument``) is what `JudgeContract.judge` returns, opened. Pictures of noise
stand for all pictures: what a judge says of real ones is yours to test.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from erase_plugins.testing.items import ItemContract, described

#: models of which every judge is asked whether it knows them
ASKED = ("pocket", "pocket-flow")
#: how far the probabilities of an axis may be from 1 in sum, and those of a picture alone from those among others
ROUNDING = 1e-4


@dataclass
class Judged:
    """A judge, and what it is shown: noise, black and white, (4, ...)."""

    judge: Any
    shown: Any

    @cached_property
    def scores(self) -> Mapping[str, Any]:
        """What it says of them."""
        found: Mapping[str, Any] = self.judge.score(self.shown)
        return found


def describes_itself(case: Judged) -> None:
    """The registry accepts it; it has a title."""
    described("erase_judges", case.judge)


def axes_are_named(case: Judged) -> None:
    """Every axis has two labels or more, as text, each once, and none is both a concept and a style."""
    axes = case.judge.axes
    assert axes, "axes is empty; map an axis (concept, style, background) to its labels"
    for axis, labels in axes.items():
        several = isinstance(labels, tuple) and len(labels) > 1
        assert several, f"axis {axis} has the labels {labels!r}; give a tuple of two or more"
        assert all(isinstance(label, str) and label.strip() for label in labels), (
            f"axis {axis} has a label without text"
        )
    for every in (*axes.values(), (*axes.get("concept", ()), *axes.get("style", ()))):  # either may be erased by name
        twice = sorted({label for label in every if every.count(label) > 1})
        assert not twice, f"'{twice[0] if twice else ''}' stands twice: which label is meant by a name is not clear"


def fingerprint_stays(case: Judged) -> None:
    """A text that is the same when it is asked again, also after pictures were judged."""
    before = case.judge.fingerprint
    told = isinstance(before, str) and bool(before.strip())
    assert told, f"fingerprint is {before!r}; give a text that changes with the answers"
    case.judge.score(case.shown[:1])
    assert case.judge.fingerprint == before, "the fingerprint changes without a change of the judge"


def scores_are_probabilities(case: Judged) -> None:
    """Per axis (pictures, labels), each from 0 to 1, in sum 1, without gradients."""
    import torch

    axes, count = case.judge.axes, len(case.shown)
    assert set(case.scores) == set(axes), f"score gives {', '.join(case.scores)}, the axes are {', '.join(axes)}"
    for axis, rows in case.scores.items():
        wanted = (count, len(axes[axis]))
        assert tuple(rows.shape) == wanted, f"{axis} has the shape {tuple(rows.shape)}, not {wanted}"
        assert not rows.requires_grad, f"{axis} has gradients; score under torch.no_grad()"
        assert bool(torch.isfinite(rows).all()), (
            f"{axis} holds NaN or infinity, of {case.shown.shape[0]} sound pictures"
        )
        inside = float(rows.min()) >= 0 and float(rows.max()) <= 1 + ROUNDING
        assert inside, f"{axis} is outside of 0..1: no probabilities"
        off = float((rows.double().sum(-1) - 1).abs().max())
        assert off <= ROUNDING, f"the probabilities of {axis} are {1 + off:.4f} in sum; end in .softmax(-1)"


def no_picture_is_no_row(case: Judged) -> None:
    """An empty batch gives no row per axis, and no error."""
    for axis, rows in case.judge.score(case.shown[:0]).items():
        wanted = (0, len(case.judge.axes[axis]))
        assert tuple(rows.shape) == wanted, f"of no picture, {axis} has the shape {tuple(rows.shape)}, not {wanted}"


def pictures_stand_alone(case: Judged) -> None:
    """What is said of a picture does not depend on the others, and the pictures stay as they are."""
    kept = case.shown.clone()
    for place in range(len(case.shown)):
        alone = case.judge.score(case.shown[place : place + 1])
        for axis, rows in case.scores.items():
            off = float((alone[axis][0] - rows[place]).detach().abs().max())
            assert off <= ROUNDING, f"{axis} of a picture differs by {off:.1e} where others are judged with it"
    assert bool((case.shown == kept).all()), "score changes the pictures that it is given"


def answers_are_equal(case: Judged) -> None:
    """The same pictures give the same bits, whatever the state of the global generators, and these stay untouched."""
    import torch

    from erase_plugins.testing.observe import global_random_state, global_seed

    with global_seed(2):
        state = global_random_state()
        again = case.judge.score(case.shown)
        drew = global_random_state() != state
    odd = [axis for axis, rows in case.scores.items() if not torch.equal(rows, again[axis])]
    assert not odd, f"asked twice, {odd[0] if odd else ''} of the same pictures differs"
    assert not drew, "score draws from or seeds the global random generators"


def every_model_is_answered(case: Judged) -> None:
    """`accepts` says of every model whether it knows what that draws."""
    from erase_plugins.workflow.models import find_model

    for name in ASKED:
        answer = case.judge.accepts(find_model(name).info)
        assert isinstance(answer, bool), f"accepts says {answer!r} of {name}; give True or False"


def world_is_of_its_labels(case: Judged) -> None:
    """What the world names stands on an axis, and prompts can be built for each of it."""
    from erase_plugins.evaluation.prompts import quick_prompts
    from erase_plugins.judge_world import world_of

    world, axes = world_of(case.judge), case.judge.axes
    named = [item.name for item in world.concepts] + list(world.styles)
    assert named, "the world has neither concepts nor styles, so that nothing can be asked for"
    strange = [name for name in named if name not in (*axes.get("concept", ()), *axes.get("style", ()))]
    strange += [name for name in world.backgrounds if name not in axes.get("background", ())]
    assert not strange, f"the world names {strange[0] if strange else ''}, which is a label of no axis"
    for name in named:
        sets = quick_prompts(case.judge, [name], 2, 0)
        assert len(sets["target"]) == 2, f"no prompts ask for {name}"


def features_are_rows(case: Judged) -> None:
    """`features`, where it has them: a finite row per picture, none of none."""
    import torch

    if not hasattr(case.judge, "features"):
        return
    rows = case.judge.features(case.shown)
    right = rows.ndim == 2 and len(rows) == len(case.shown)
    assert right, f"features have the shape {tuple(rows.shape)}"
    assert bool(torch.isfinite(rows).all()), "features hold NaN or infinity"
    assert tuple(case.judge.features(case.shown[:0]).shape) == (0, rows.shape[1]), "features of no picture are rows"


CHECKS = (
    describes_itself, axes_are_named, fingerprint_stays, scores_are_probabilities, no_picture_is_no_row,
    pictures_stand_alone, answers_are_equal, every_model_is_answered, world_is_of_its_labels, features_are_rows,
)  # fmt: skip


class JudgeContract(ItemContract):
    """Subclass it under a name that starts with ``Test``.

    Attributes:
        size: height and width of the pictures that it is shown.
    """

    checks = CHECKS
    size: tuple[int, int] = (64, 64)

    def judge(self, name: str) -> Any:
        """The judge under test: the registered one, unless it has to be opened with something."""
        from erase_plugins.manager import get_manager

        return get_manager().evaluator(name, "judge")

    def shown(self) -> Any:
        """What it is shown, (4, ...): noise, noise, black and white pictures unless it looks at something else."""
        import torch

        noise = torch.rand(2, 3, *self.size, generator=torch.Generator().manual_seed(7))
        return torch.cat([noise, torch.zeros(1, 3, *self.size), torch.ones(1, 3, *self.size)])

    def case(self, name: str) -> Judged:
        return Judged(self.judge(name), self.shown())
