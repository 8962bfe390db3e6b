"""The attack ``unlearndiffatk``: a few real words in front of a prompt, found by gradient through the edited denoiser.

Zhang et al., "To Generate or Not? Safety-Driven Unlearned Diffusion Models Are Still Easy to Generate Unsafe Images ...
For Now", ECCV 2024, arXiv 2310.11868. For a prompt and a picture of it that the base drew, the words are chosen so that
the edited model, with the edit in force, denoises that picture well; no classifier takes part. A prompt counts if the
judge sees the concept without an attack, or after one of the looks that follow each timestep (the paper's rate, ASR).

Differs from the official code: prompts are attacked in one batch, noises differ from block to block, only whole words
that read back as they were chosen are tried, the projection is exact, and what is looked at after a timestep are the
words that denoise the target best at a few fixed noises, among the likeliest, those of earlier blocks with one of them
put in, and some drawn ones; no picture is drawn of words that are not better than the plain prompt (but always at the
end). Prompts of which the base does not draw the concept are neither attacked nor counted.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from erase_plugins.evaluation.attacks.asking import OFF, ON, Asking, found_files
from erase_plugins.evaluation.attacks.rates import (
    BASE,
    DESTROYED,
    PLAIN,
    REFERENCE,
    REFERENCE_HELP,
    SUCCESS,
    TARGET,
    per_set,
    picture_passes,
    rate,
)
from erase_plugins.hookspecs import hookimpl
from erase_plugins.judge_world import world_of
from erase_plugins.options import option

if TYPE_CHECKING:
    from erase_plugins.evaluation.attacks.prefix import Schedule, Targets
    from erase_plugins.evaluation.budget import Budget
    from erase_plugins.evaluation.run import Subject
    from erase_plugins.types import AttackReport

#: (prompts, timesteps, gradient steps for each, step size) by budget; the last are those of the paper
_SIZES = {"quick": (6, 5, 20, 0.1), "standard": (16, 10, 40, 0.05), "long": (50, 50, 40, 0.01)}
#: candidates per attacked prompt: the base does not draw every one
_SPARE = 1.25
#: pictures per prompt besides the looks: plain name three times, found words with other seeds
_FIXED = 5
#: noised latents that tell whether words are worth a picture
_SCREEN = 4
#: prompts in one pass
_BATCH = 16


def _pictures(prompts: int, blocks: int) -> int:
    return prompts * (_FIXED + 3 * blocks)


@dataclass(frozen=True)
class UnlearnDiffAtkOptions:
    """Options of `UnlearnDiffAtk`; 0 leaves the choice to the budget."""

    words: int = option(3, "words in front of a prompt", low=1, high=32)
    timesteps: int = option(0, "timesteps, from little noise to much; 0: 5, 10 or 50 by the budget", low=0, high=1000)
    steps: int = option(0, "gradient steps at each timestep; 0: 20, 40 or 40 by the budget", low=0, high=10_000)
    lr: float = option(0.0, "step size of Adam; 0: 0.1, 0.05 or 0.01 by the budget", low=0.0, high=10.0)
    decay: float = option(0.1, "coupled weight decay", low=0.0, high=10.0)
    screen: bool = option(True, "look at the words of each block that denoise the target best, if better than none")
    forbid: str = option("none", "words that are never tried: the concept's name, or its synonyms too",
                         choices=("none", "name", "synonyms"))  # fmt: skip
    reference: str = option("", REFERENCE_HELP)


class UnlearnDiffAtk:
    """A prefix of real words, by gradient."""

    id = "unlearndiffatk"
    title = "UnlearnDiffAtk: a prefix of real words, by gradient through the edited denoiser; no classifier"
    needs: frozenset[str] = frozenset({"denoiser", "text"})
    packages: frozenset[str] = frozenset()
    past_guards = "gradients"
    Options = UnlearnDiffAtkOptions
    budgets: Mapping[str, int] = {name: _pictures(size[0], size[1]) for name, size in _SIZES.items()}
    attachments = found_files("unlearndiffatk")

    @staticmethod
    def least(options: Mapping[str, Any]) -> int:
        """Pictures for one prompt; the looks depend on the timesteps."""
        return _pictures(1, int(options.get("timesteps") or 0) or _SIZES["quick"][1])

    def run(self, subject: Subject, budget: Budget) -> AttackReport:
        """See the module.

        Raises:
            RequestError: too small a budget, or a prompt without room for the words.
            Unsupported: the base hardly draws the concept, the judge sees it on a destroyed model, or the model is of a
                kind that has no noise schedule.
        """
        from erase_plugins.evaluation.attacks.prefix import Prefixes, Schedule
        from erase_plugins.evaluation.attacks.vocabulary import forbidden_words, word_table

        options = UnlearnDiffAtkOptions(**budget.options)
        _, blocks, steps, rate = _SIZES.get(budget.name, _SIZES["quick"])
        blocks, steps = options.timesteps or blocks, options.steps or steps
        count = per_set(budget, self.id, _pictures(1, blocks))
        schedule = Schedule(options.words, blocks, steps, options.lr or rate, options.decay, options.screen)
        asking = Asking(subject, budget, options.reference)
        targets, plain = _targets(asking, count)
        before = {ON: plain[ON], DESTROYED: plain[DESTROYED]}
        if asking.reference is not None:
            before[REFERENCE] = asking.look("plain-reference", targets.prompts, REFERENCE)
        hidden = budget.remember("gradients", lambda: _hidden(subject))
        forbidden = forbidden_words(world_of(subject.judge), subject.erased, options.forbid)
        results = {}
        for state, hits in before.items():
            first = hits if state == REFERENCE else [hits[place] for place in targets.places]
            owner = asking.reference if state == REFERENCE and asking.reference is not None else subject
            search = Prefixes(asking, state, owner, targets, schedule, word_table(owner.target, forbidden), first)
            given = (schedule, targets.key, first)
            results[state] = (
                search.run() if state == ON else asking.control(self.id, state, targets.prompts, given, search.run)
            )
        return _report(asking, targets, plain, results, schedule, hidden)


def _hidden(subject: Subject) -> list[str]:
    from erase_plugins.engine.slopes import hidden_warning

    with subject.under(ON):
        return hidden_warning(subject.target, subject.erased[0])


def _targets(asking: Asking, count: int) -> tuple[Targets, dict[str, list[int]]]:
    """Prompts to attack: those of which the base draws the concept; and how often the plain prompts bring it."""
    from erase_plugins.evaluation.attacks.prefix import Targets, clean_latents
    from erase_plugins.evaluation.prompts import quick_prompts

    subject = asking.subject
    pool = quick_prompts(subject.judge, subject.erased, math.ceil(count * _SPARE), subject.seed)["target"]
    plain = asking.check_plain(pool, keep=len(pool))
    places = [place for place, hit in enumerate(plain[OFF]) if hit][:count]
    pictures = asking.shown["plain-off"][places]
    return Targets([pool[place] for place in places], places, clean_latents(subject, pictures)), plain


def _report(
    asking: Asking, targets: Targets, plain: Mapping[str, Sequence[int]], results: Mapping[str, Any],
    schedule: Schedule, hidden: Sequence[str],
) -> AttackReport:  # fmt: skip
    import torch

    subject = asking.subject
    seed, mine = subject.seed, results[ON]
    new = [item for item in mine["found"] if item and "prompt" in item]
    rows = [
        rate(TARGET, PLAIN, mine["before"], seed), rate(BASE, PLAIN, plain[OFF], seed),
        rate(TARGET, f"name and {schedule.words} words", mine["hits"], seed),
    ]  # fmt: skip
    if new:
        others = [
            replace(targets.prompts[0], text=item["prompt"], seed=(seed + 1) * 100_003 + 70_001 + place)
            for place, item in enumerate(new)
        ]
        again = [replace(other, expected={other.axis: item["shows"]}) for other, item in zip(others, new, strict=True)]
        rows.append(rate(TARGET, "found prompts, other seeds", asking.look("again", again), seed))
    controls = {state: results[state]["hits"] for state in results if state != ON}
    listed: dict[str, list[dict[str, Any]]] = {"found": new, "tried": mine["tried"]}
    for name, items in listed.items():
        if items:
            asking.shown[name] = torch.stack([asking.shown[item["picture"][0]][item["picture"][1]] for item in items])
    plainly = {
        name: [{key: value for key, value in item.items() if key != "picture"} for item in items]
        for name, items in listed.items()
    }
    spent = {name: sum(part[name] for part in results.values())
             for name in ("gradient_passes", "screen_passes", "skipped")}  # fmt: skip
    warnings = list(hidden)
    if len(targets.prompts) == sum(plain[OFF]) < int(len(plain[OFF]) / _SPARE):
        warnings.append(
            f"{len(targets.prompts)} prompts are attacked; of the others the base draws no picture to aim at"
        )
    if seen := sum(mine["before"]):
        warnings.append(f"{seen} of {len(mine['hits'])} prompts bring the concept without an attack")
    return asking.report(
        "unlearndiffatk", rate(SUCCESS, f"name and {schedule.words} words", mine["hits"], seed), controls, rows,
        {"prompts": plainly["found"], "tried": plainly["tried"], "words": schedule.words,
         "without_attack": sum(mine["before"])},
        [("plain name, base", "plain-off"), ("plain name, edited", "plain-on"), ("found words", "found"),
         ("found, other seeds", "again"), ("words that failed", "tried")],
        extra_passes=spent["gradient_passes"] + spent["screen_passes"], seeds=(seed, seed + 1), warnings=warnings,
        details={"timesteps": schedule.blocks, "steps": schedule.steps, "prompts": len(targets.prompts),
                 "plain": dict(plain),
                 "results": json.loads(json.dumps(results)), "spent": spent,
                 "pictures": asking.queries, "picture_passes": asking.queries * picture_passes(subject)},
    )  # fmt: skip


@hookimpl
def erase_attacks() -> list[UnlearnDiffAtk]:
    return [UnlearnDiffAtk()]
