"""Attacks as published: no screen, no end before the last step, every row of every generation asked.

Each tells how far it had come after how many passes, so that it can be charged for what it needed to be as good as
another. What it would have cost to look there is not charged.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from erase_plugins.evaluation.attacks.genetic import Fitness
    from erase_plugins.evaluation.attacks.inversion import ConceptInversion
    from erase_plugins.evaluation.budget import Budget
    from erase_plugins.evaluation.run import Subject

#: passes so far, and how far it had come
Way = list[tuple[int, float]]


def genetic(
    fitness: Fitness, places: int, words: int, population: int, generations: int, seed: int
) -> tuple[list[int], Way]:
    """Ring-A-Bell: the best row of the last generation, and the smallest loss in each; mutations hit the best row too.

    Rows that occur again have the loss that they had, so they are not computed again here, but counted.

    Args:
        fitness: (n, places) -> (n,) losses.
        places, words: numbers in a row, and below what.
        population: rows at the start; half as many stay in each generation.
        generations: all are run.
        seed: of everything random.
    """
    from erase_plugins.evaluation.attacks.genetic import next_generation

    draws = np.random.RandomState(seed)
    rows, asked, way = draws.randint(0, words, size=(population, places)), 0, []
    known: dict[bytes, float] = {}
    while True:
        keys = [row.tobytes() for row in rows]
        fresh = {key: place for place, key in enumerate(keys) if key not in known}
        if fresh:
            known.update(zip(fresh, map(float, fitness(rows[list(fresh.values())])), strict=True))
        losses = np.array([known[key] for key in keys])
        order = np.argsort(losses, kind="stable")[: population // 2]
        kept, asked = rows[order], asked + len(rows)
        way.append((asked, float(losses[order[0]])))
        if len(way) == generations:
            return kept[0].tolist(), way
        rows = next_generation(kept, draws, (0, words), elite=False)


def learned_token(
    attack: ConceptInversion, subject: Subject, budget: Budget, steps: int, batch: int, rate: float, every: int
) -> tuple[list[int], Way]:
    """Concept inversion: 0/1 for each picture at the end, and the share of these pictures every so many steps.

    Args:
        attack: prompts, pictures and first row are those of ours, by the options of ``budget``.
        subject: the edited model.
        budget: of ours.
        steps, batch, rate: of AdamW, whose step size stays as it is.
        every: steps between looks, at the same pictures.
    """
    import torch

    from erase_plugins.engine.inversion import LearnedRows, Lessons, learn_rows, slots
    from erase_plugins.engine.loop import Schedule
    from erase_plugins.evaluation.attacks.controls import run_context
    from erase_plugins.evaluation.attacks.denoising import Looks, looks_of
    from erase_plugins.evaluation.attacks.inversion import _SETS, InversionOptions, _Run
    from erase_plugins.evaluation.attacks.material import concept_lesson
    from erase_plugins.evaluation.attacks.rates import mean, seen
    from erase_plugins.evaluation.attacks.study import Study

    run = _Run(Study.of(attack, subject, budget, _SETS), InversionOptions(**budget.options))
    target, concept, prompts = subject.target, run.study.split.concept, run.study.prompts
    taught = concept_lesson(subject, run.study.split, run.options.pictures)
    ctx = run_context(attack.id, budget, "plain", subject)

    def hits() -> list[int]:
        texts = [item.text for item in prompts]
        with torch.no_grad():
            cond = learned.encode(slots(target, texts, concept, 1))
        return seen(subject.judge, prompts, subject.draw(texts, [item.seed for item in prompts], cond))

    with run.study.victims[0].exposed():
        learned = LearnedRows(target, run.start(target))
        where = slots(target, [item.text for item in taught.prompts], concept, 1)
        looks = Looks(2.0, every, len(prompts), lambda: mean(hits()))  # nothing is above 1, so it never ends early
        schedule = Schedule(steps, rate, "adamw", every=every, stop=looks)
        learn_rows(learned, where, Lessons.of(target, taught.latents(subject), batch, ctx), schedule, ctx, "1")
        found = hits()
    way = [(batch * done, share) for done, share in looks_of(ctx).items()]
    return found, [*way, (batch * steps, mean(found))]


def words_by_gradient(
    subject: Subject, budget: Budget, prompts: int, timesteps: int, steps: int, rate: float
) -> dict[str, Any]:
    """UnlearnDiffAtk on the edited model alone: what `Prefixes.run` tells, a look after every timestep.

    Args:
        subject: the edited model.
        budget: gives options, and keeps what is done.
        prompts: asked for.
        timesteps, steps, rate: gradient steps at each timestep, and their size.
    """
    from erase_plugins.evaluation.attacks.asking import ON, Asking
    from erase_plugins.evaluation.attacks.prefix import Prefixes, Schedule
    from erase_plugins.evaluation.attacks.unlearndiffatk import UnlearnDiffAtkOptions, _targets
    from erase_plugins.evaluation.attacks.vocabulary import word_table

    options = UnlearnDiffAtkOptions(**budget.options)
    asking = Asking(subject, budget)
    targets, plain = _targets(asking, prompts)
    schedule = Schedule(options.words, timesteps, steps, rate, options.decay, screen=False)
    first = [plain[ON][place] for place in targets.places]
    return Prefixes(asking, ON, subject, targets, schedule, word_table(subject.target), first).run()


def prefix_way(found: list[dict[str, Any] | None], timesteps: int, steps: int, picture: int) -> Way:
    """Share of prompts after each timestep; every prompt pays for its steps and one picture a timestep until it hits.

    Args:
        found: of `words_by_gradient`; None is a prompt without success, which pays for all.
        timesteps, steps: of the run.
        picture: passes for one picture.
    """
    ends = [timesteps + 1 if item is None else item.get("steps", 0) // steps for item in found]
    return [
        ((steps + picture) * sum(min(end, done) for end in ends), sum(end <= done for end in ends) / len(ends))
        for done in range(1, timesteps + 1)
    ]
