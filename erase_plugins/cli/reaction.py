"""Does the base model draw the concept at all? If not, there is nothing to erase. Asked only where a judge can tell."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from erase_plugins.cli.console import percent
from erase_plugins.judge_world import world_of

#: pictures in all, shared by the concepts; about a second on the embedded model
PICTURES = 8
#: a name that means nothing, as the yardstick
RANDOM_NAME = "zqxv blorf"
_MARGIN = 0.15
#: from this score on there is no doubt about a name that the judge knows, and the yardstick is not drawn
_CLEAR = 0.75


@dataclass(frozen=True)
class Reaction:
    """How often the judge sees each concept in pictures of it, and in pictures of a random name."""

    scores: dict[str, float]
    random: dict[str, float]
    pictures: int
    judge: str

    @property
    def deaf(self) -> tuple[str, ...]:
        """Concepts that the model does not react to."""
        return tuple(name for name, score in self.scores.items() if score <= self.random[name] + _MARGIN)

    @property
    def nothing(self) -> bool:
        """Whether no concept gets a reaction."""
        return len(self.deaf) == len(self.scores)

    def lines(self) -> Iterable[str]:
        """What to tell people; nothing if all is well."""
        for name in self.deaf:
            yield (
                f"the base model does not react to '{name}': concept score {percent(self.scores[name])} against "
                f"{percent(self.random[name])} for a random name"
            )

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form."""
        return {
            "judge": self.judge, "pictures": self.pictures, "scores": self.scores, "random_name": self.random,
            "no_reaction": list(self.deaf),
        }  # fmt: skip


def find_judge(info: Any) -> Any:
    """The first registered judge that knows what the model draws; None without one."""
    from erase_plugins.manager import get_manager

    return next((entry.item for entry in get_manager().evaluators("judge") if entry.item.accepts(info)), None)


def known_label(judge: Any, text: str) -> str | None:
    """The judge's label for a concept given by name or synonym; None if it is not of its world."""
    wanted = text.strip().lower()
    for item in world_of(judge).concepts:
        if wanted == item.name.lower() or wanted in (word.lower() for word in item.synonyms):
            return item.name
    return None


def base_reaction(target: Any, request: Any, insist: bool = False) -> Reaction | None:
    """Pictures of the concepts on the base, judged against pictures of a random name.

    A concept of the judge's world scores by how often the judge sees it. Any other name scores by how often the
    pictures agree on one label, as the judge cannot know it.

    Args:
        target: the loaded base model.
        request: names the concepts.
        insist: raise if nobody can tell.

    Raises:
        Unsupported: ``insist`` is set and no judge accepts the model.
    """
    judge = find_judge(target.info)
    names = [concept.text for concept in request.concepts if concept.kind == "object"][:8]
    if judge is None or not names or "denoiser" not in target.info.capabilities:
        if insist:
            from erase_plugins.errors import Unsupported

            raise Unsupported(f"no judge knows what {target.info.model} draws; leave --check out")
        return None
    each = max(PICTURES // len(names), 4)
    scores = {name: _share(seen, known_label(judge, name)) for name, seen in _seen(target, judge, names, each, request)}
    random = dict.fromkeys(scores, 0.0)
    drawn = each * len(names)
    # pictures of a name outside the judge's world may well agree with each other and still show no such thing
    if any(score < _CLEAR or known_label(judge, name) is None for name, score in scores.items()):
        ((_, yardstick),) = _seen(target, judge, [RANDOM_NAME], each, request)
        random = {name: _share(yardstick, known_label(judge, name)) for name in scores}
        drawn += each
    return Reaction(scores, random, drawn, judge.id)


def _seen(target: Any, judge: Any, names: list[str], each: int, request: Any) -> list[tuple[str, list[str]]]:
    """Labels that the judge sees in ``each`` pictures per name, the same seeds for all."""
    from erase_plugins.evaluation.draw import draw

    prompts = [f"a {name}" for name in names for _ in range(each)]
    seeds = [request.seed + index for _ in names for index in range(each)]
    best = (
        judge.score(draw(target.pipe, prompts, seeds, steps=6, denoiser=target.network("denoiser")))["concept"]
        .argmax(-1)
        .tolist()
    )
    labels = [judge.axes["concept"][index] for index in best]
    return [(name, labels[each * i : each * (i + 1)]) for i, name in enumerate(names)]


def _share(seen: list[str], label: str | None) -> float:
    """Share of pictures with the label, or of the most frequent one if there is no label."""
    count = seen.count(label) if label is not None else max(seen.count(item) for item in set(seen))
    return round(count / len(seen), 4)
