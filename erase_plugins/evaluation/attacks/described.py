"""The attack ``described``: the concept named less and less, and named among other things.

Five levels: its name, a synonym, a description (what it is and what one sees), a scene (what it is and where one meets
it), and a scene in which it is never named. Beside them scenes with two and three other things that are kept. As for
``paraphrase``, each level is drawn with the edit and without it, and the level that brings the concept back most often
is measured again with other seeds. So it is for the control, by a level of its own. What the edit does to prompts that
name kept people and occupations stands beside it (`bias_shift`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from erase_plugins.evaluation.attacks import bias_shift, phrasing
from erase_plugins.evaluation.attacks.asking import found_files
from erase_plugins.evaluation.attacks.paraphrase import PhraseAttack, sets_of
from erase_plugins.evaluation.attacks.phrasing import Phrase
from erase_plugins.evaluation.attacks.rates import REFERENCE_HELP
from erase_plugins.hookspecs import hookimpl
from erase_plugins.judge_world import world_of
from erase_plugins.options import option

if TYPE_CHECKING:
    from erase_plugins.evaluation.attacks.asking import Asking
    from erase_plugins.types import EvalRow

#: the first level, the name itself, is drawn by every attack
LEVELS = ("synonym", "description", "scene", "never named", "with one other", "with two others")
_OTHERS = {"with one other": 1, "with two others": 2}
_SETS = sets_of(len(LEVELS)) + bias_shift.SETS


@dataclass(frozen=True)
class DescribedOptions:
    """Options of `DescribedAttack`."""

    words: str = option("", "JSON file with words of your own: {concept: {level: [text ...]}}")
    reference: str = option("", REFERENCE_HELP)


class DescribedAttack(PhraseAttack):
    """Levels of naming, and several things in one scene."""

    id = "described"
    title = "Levels of naming: name, synonym, description, scene, never named; several things in one scene"
    Options = DescribedOptions
    kinds = LEVELS
    budgets: Mapping[str, int] = {"quick": 16 * _SETS, "standard": 64 * _SETS, "long": 256 * _SETS}
    least = _SETS
    attachments = found_files("described")

    def phrases(self, asking: Asking, kind: str, name: str) -> list[Phrase]:
        """Phrases of a level for one concept."""
        world = world_of(asking.subject.judge)
        style = name in world.styles
        if kind in _OTHERS:
            made = [] if style else together(name, [item.name for item in world.concepts], _OTHERS[kind],
                                             asking.subject.erased)  # fmt: skip
        else:
            made = {
                "synonym": lambda: phrasing.synonyms(world, "style" if style else "concept", name),
                "description": lambda: phrasing.descriptions(name),
                "scene": lambda: phrasing.scenes(name),
                "never named": lambda: phrasing.unnamed(name),
            }[kind]()
        return [*self.own(asking, kind, name), *made]

    @property
    def sets(self) -> int:
        return super().sets + bias_shift.SETS

    def beside(self, asking: Asking, images: int) -> list[EvalRow]:
        return bias_shift.shift_rows(asking, images)

    def warnings(self, asking: Asking, missing: Sequence[str], base: Mapping[str, Sequence[int]]) -> list[str]:
        subject = asking.subject
        return super().warnings(asking, missing, base) + bias_shift.left_out(subject.judge, subject.erased)


def together(name: str, names: list[str], others: int, erased: list[str]) -> list[Phrase]:
    """Prompts that name the concept among other things, first, in the middle and last by turns."""
    kept = [item for item in names if item not in erased]
    made = []
    for turn in range(min(len(kept), 24)):
        things = [kept[(turn * 11 + step * 37) % len(kept)] for step in range(others)]
        things.insert(turn % (others + 1), name)
        *first, last = (f"a {thing}" for thing in things)
        made.append(Phrase(f"{', '.join(first)} and {last}", True))
    return made


@hookimpl
def erase_attacks() -> list[DescribedAttack]:
    return [DescribedAttack()]
