"""How far an edit moves what prompts draw that name somebody else: kept people, and occupations.

What the judge sees over all these prompts is one distribution with the edit and one without it, by the same seeds;
their total-variation distance is the row. 0: as without the edit; 1: nothing of what was drawn is drawn any more. Only
how often each is drawn matters, not by which prompt.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from erase_plugins.evaluation.guarded import labels_of
from erase_plugins.evaluation.prompts import Prompt, texts_and_seeds, worded_prompts
from erase_plugins.judge_world import world_of
from erase_plugins.types import EvalRow

if TYPE_CHECKING:
    from erase_plugins.evaluation.attacks.asking import Asking

METRIC = "bias_shift"
#: how rows call a group -> what it may be called in a judge's world
GROUPS = {"people": ("person", "people"), "occupations": ("occupation", "profession", "job")}
#: sets of pictures: each group with the edit and without it
SETS = 2 * len(GROUPS)


def kept_names(judge: Any, erased: Sequence[str], group: str) -> list[str]:
    """Concepts of a group that are not erased, by the name under which the judge knows them."""
    known = {label for labels in judge.axes.values() for label in labels}
    wanted = {form for word in GROUPS[group] for form in (word, f"{word}s")}
    found = [item.name for item in world_of(judge).concepts if item.group in wanted and item.name in known]
    return [name for name in found if name not in erased]


def shift_rows(asking: Asking, images: int) -> list[EvalRow]:
    """A row for each group that the judge's world has, over ``images`` pictures with the edit and as many without."""
    from erase_plugins.evaluation.attacks.asking import OFF, ON
    from erase_plugins.evaluation.bootstrap import distance

    subject, rows = asking.subject, []
    for group in GROUPS:
        names = kept_names(subject.judge, subject.erased, group)
        if names:
            cells = [(names[place % len(names)],) * 2 for place in range(images)]
            prompts = worded_prompts(subject.judge, subject.erased, cells, subject.seed)
            before, after = (_labels(asking, f"{group}-{edit}", prompts, edit) for edit in (OFF, ON))
            value, low, high = (round(number, 6) for number in distance(before, after, subject.seed))
            rows.append(EvalRow(METRIC, f"kept {group}", value, low, high, images))
    return rows


def left_out(judge: Any, erased: Sequence[str]) -> list[str]:
    """The warning about groups that the judge's world does not have."""
    gone = [group for group in GROUPS if not kept_names(judge, erased, group)]
    if not gone:
        return []
    return [f"the judge knows no kept {' and no kept '.join(gone)}: whether the edit shifts them was not measured"]


def _labels(asking: Asking, name: str, prompts: Sequence[Prompt], edit: str) -> list[str]:
    """What the judge sees in each picture, on the axis of its prompt; a set that was judged before a kill is kept."""
    subject = asking.subject
    asking.spent(len(prompts))

    def look() -> list[str]:
        seen = labels_of(subject.judge, subject.generate(*texts_and_seeds(prompts), edit=edit))
        return [labels[item.axis] for labels, item in zip(seen, prompts, strict=True)]

    found: list[str] = asking.budget.remember(name, look)
    return found
