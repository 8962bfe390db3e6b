"""The attack ``worst-case``: among all prompts that name a concept, those that an edit erases worst.

The prompt-wise search of Fan et al., "Challenging Forgets: Unveiling the Worst-Case Forget Sets in Machine Unlearning",
ECCV 2024, arXiv 2403.07362. The prompts of a pool compete by how well the edited model still denoises the base's own
picture of each: mean over timesteps of (eps(x_t, t, p) - noise)^2, least the same of the base, so that an easy picture
is no merit. A few of the best are drawn, and those that show the concept most often are measured with other seeds.

Differs from the official code: there the eraser is run again in every round with weights on the prompts, and the score
looks at what is left. Here the edit is given and does not move, so one pass decides: with the step size that the search
needs to move at all, its projection takes the lowest scores (``score=loss`` scores as published).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from erase_plugins.errors import Unsupported
from erase_plugins.evaluation.attacks.rates import CONCEPT_HELP, FEWEST, REFERENCE_HELP
from erase_plugins.hookspecs import hookimpl
from erase_plugins.options import option
from erase_plugins.types import AttackReport

if TYPE_CHECKING:
    from torch import Tensor

    from erase_plugins.evaluation.attacks.controls import Victim
    from erase_plugins.evaluation.attacks.study import Sample, Study
    from erase_plugins.evaluation.budget import Budget
    from erase_plugins.evaluation.prompts import Prompt
    from erase_plugins.evaluation.run import Subject

FOUND, PICTURES = "attack-worst-case-found.json", "attack-worst-case-pictures.png"
#: sets of pictures: the pool, base, plain name, base's easiest, three victims with their short lists
_SETS = 12
#: prompts on the short list for each that is chosen
_SHORT = 3
#: prompts of one pass
_BATCH = 32


@dataclass(frozen=True)
class WorstCaseOptions:
    """Options of the attack."""

    concept: str = option("", CONCEPT_HELP)
    prompts: int = option(4, "prompts to find", low=1, high=100)
    pool: int = option(64, "prompts that compete", low=2, high=10_000)
    timesteps: int = option(10, "timesteps at which a prompt is scored, evenly spaced", low=1, high=1000)
    score: str = option(
        "excess", "excess: loss of the edited model over that of the base; loss: its loss alone, as published",
        choices=("excess", "loss"),
    )  # fmt: skip
    reference: str = option("", REFERENCE_HELP)


class WorstCase:
    """The prompts at which an edit holds least."""

    id = "worst-case"
    title = "Worst-case prompts: of all that name the concept, those that the edit erases worst"
    needs: frozenset[str] = frozenset({"denoiser", "text"})
    packages: frozenset[str] = frozenset()
    past_guards = "losses"
    budgets: Mapping[str, int] = {"quick": 24 * _SETS, "standard": 64 * _SETS, "long": 128 * _SETS}
    least = FEWEST * _SETS
    attachments = (FOUND, PICTURES)
    Options = WorstCaseOptions

    def run(self, subject: Subject, budget: Budget) -> AttackReport:
        """See the module.

        Raises:
            RequestError: no artifact, a wrong option, or a budget too small for four pictures per set.
            Unsupported: the base draws too few of the prompts, or the reference is of another kind.
        """
        from erase_plugins.evaluation.attacks.study import Study

        run = _Run(Study.of(self, subject, budget, _SETS), WorstCaseOptions(**budget.options))
        pool = run.pool()
        base = run.losses(None, pool)
        found = [run.attack(victim, pool, base) for victim in run.study.victims]
        return run.report(pool, base, found)


def hardest(scores: Sequence[float], count: int) -> list[int]:
    """Places of the ``count`` lowest scores, lowest first; equal ones in their order."""
    return sorted(range(len(scores)), key=lambda place: (scores[place], place))[:count]


@dataclass(frozen=True)
class Pool:
    """Prompts that compete, each with the clean scaled latent (n, channels, height, width) of the base's picture.

    ``key`` tells it from any other pool.
    """

    prompts: list[Prompt]
    latents: Tensor
    key: str


@dataclass(frozen=True)
class _Run:
    study: Study
    options: WorstCaseOptions

    def pool(self) -> Pool:
        """Prompts of which the base's picture shows the concept.

        Raises:
            Unsupported: too few of them.
        """
        from erase_plugins.evaluation.attacks.material import Lesson, drawn_by_base
        from erase_plugins.evaluation.attacks.rates import seen

        study, split, subject = self.study, self.study.split, self.study.subject
        texts = {item.text: item for item in (*split.train, *split.fresh)}
        asked = [
            replace(item, seed=subject.seed * 100_003 + 90_001 + place) for place, item in enumerate(texts.values())
        ]
        asked = asked[: min(self.options.pool, 2 * study.images)]
        study.budget.progress("pictures of the base", 0, 1)
        pictures = drawn_by_base(subject, asked)
        good = [place for place, hit in enumerate(seen(subject.judge, asked, pictures)) if hit]
        wanted = self.options.prompts
        if len(good) <= wanted:
            raise Unsupported(
                f"the base shows {split.concept} in {len(good)} of {len(asked)} prompts; to find {wanted} worst ones "
                "takes more to choose from"
            )
        chosen = [asked[place] for place in good]
        drawn = Lesson(pictures[good], tuple(chosen), len(good) / len(asked))
        return Pool(chosen, drawn.latents(subject), drawn.key)

    def losses(self, victim: Victim | None, pool: Pool) -> list[float]:
        """Denoising loss of every prompt, at the same noise for all models; None: the base."""
        study = self.study
        if victim is None:
            with study.subject.under("off"):
                return self._losses(study.subject, pool)
        with victim.exposed():
            return self._losses(victim.subject, pool)

    def _losses(self, subject: Subject, pool: Pool) -> list[float]:
        import torch

        from erase_plugins.engine.activations import looked_at
        from erase_plugins.engine.inversion import question
        from erase_plugins.evaluation.attacks.material import encoded_now

        target, total = subject.target, torch.zeros(len(pool.prompts))
        alphas = target.scheduler(1, "ddim").alphas_cumprod.to(pool.latents)
        cond = encoded_now(target, [item.text for item in pool.prompts])
        generator = torch.Generator().manual_seed(self.study.subject.seed + 1)
        for place in range(self.options.timesteps):
            stamp = place * len(alphas) // self.options.timesteps
            light, dark = alphas[stamp].sqrt(), (1 - alphas[stamp]).sqrt()
            noise = torch.randn(pool.latents.shape, generator=generator).to(pool.latents)
            noisy, wanted = question(target, pool.latents, noise, light, dark)
            batch = min(_BATCH, looked_at(noisy.shape))
            for start in range(0, len(noisy), batch):
                rows = list(range(start, min(start + batch, len(noisy))))
                times = torch.full((len(rows),), stamp, device=noisy.device)
                with torch.no_grad():
                    out = target.predict(noisy[rows].to(target.dtype), times, cond[rows])
                total[rows] += (out - wanted[rows]).square().mean((1, 2, 3)).float().cpu()
        return [float(value) for value in total / self.options.timesteps]

    def scores(self, losses: Sequence[float], base: Sequence[float]) -> list[float]:
        """What prompts compete by, the lowest wins."""
        if self.options.score == "loss":
            return list(losses)
        return [mine - other for mine, other in zip(losses, base, strict=True)]

    def measured(self, pool: Pool, places: Sequence[int]) -> list[Prompt]:
        """Prompts for one set of pictures, with seeds that nothing was chosen with."""
        seeds = [item.seed for item in self.study.prompts]
        return [replace(pool.prompts[places[n % len(places)]], seed=seed) for n, seed in enumerate(seeds)]

    def attack(self, victim: Victim, pool: Pool, base: Sequence[float]) -> tuple[list[Prompt], Sample]:
        """The prompts at which a victim holds least, and pictures of them."""
        from erase_plugins.evaluation.attacks.rates import mean, seen

        study, count = self.study, self.options.prompts

        def choose() -> dict[str, Any]:
            losses = self.losses(victim, pool)
            scores = self.scores(losses, base)
            short = hardest(scores, _SHORT * count)
            each = max(study.images // len(short), 1)
            looked = [replace(pool.prompts[place], seed=study.subject.seed * 100_003 + 95_001 + n)
                      for place in short for n in range(each)]  # fmt: skip
            hits = seen(study.subject.judge, looked, victim.pictures(looked))
            rates = [mean(hits[n * each : (n + 1) * each]) for n in range(len(short))]
            chosen = [short[n] for n in hardest([-value for value in rates], count)]
            return {"places": chosen, "losses": losses, "short": short, "rates": rates}

        told = study.told(victim, f"chosen-{victim.name}", choose, (pool.key, base))
        prompts = self.measured(pool, told["places"])

        def make() -> tuple[Tensor, dict[str, Any], dict[str, Tensor]]:
            return victim.pictures(prompts), told, {}

        return prompts, study.kept(f"worst prompts, {victim.name}", make, prompts)

    def report(self, pool: Pool, base: list[float], found: Sequence[tuple[list[Prompt], Sample]]) -> AttackReport:
        study, count = self.study, self.options.prompts
        worst, mine = found[0]
        easiest = self.measured(pool, hardest(base, count))
        beside = [study.plain("base, worst prompts", "off", worst), study.plain("plain name", "on"),
                  study.plain("prompts of least loss in the base", "on", easiest)]  # fmt: skip
        losses = mine.facts["losses"]
        listed = [
            {"prompt": pool.prompts[place].text, "loss": losses[place], "base_loss": base[place]}
            for place in mine.facts["places"]
        ]
        passes = len(pool.prompts) * self.options.timesteps * (1 + len(found))
        return study.report(
            "worst prompts", [sample for _, sample in found], beside,
            {"prompts": listed, "plain_rate": beside[1].rate},
            {"pool": len(pool.prompts), "score": self.options.score, "losses": losses, "base_losses": base,
             "short_list": {"places": mine.facts["short"], "rates": mine.facts["rates"]}},
            training=passes, pictures=PICTURES, title="worst prompts against",
        )  # fmt: skip


@hookimpl
def erase_attacks() -> list[WorstCase]:
    return [WorstCase()]
