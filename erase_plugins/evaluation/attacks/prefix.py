"""Words in front of prompts, block by block: gradient steps at one timestep, a screen, a look where it is worth it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from erase_plugins.engine.activations import at_once, looked_at
from erase_plugins.errors import Unsupported
from erase_plugins.evaluation.attacks.asking import OFF, Asking
from erase_plugins.evaluation.attacks.discrete import Choice, choice_gradient, losses
from erase_plugins.evaluation.attacks.rates import REFERENCE
from erase_plugins.evaluation.attacks.vocabulary import WordTable
from erase_plugins.families.diffusers_target import PIXELS, encoded, scaled

if TYPE_CHECKING:
    from erase_plugins.evaluation.prompts import Prompt
    from erase_plugins.evaluation.run import Subject

#: noised latents that tell whether words are worth a picture
_SCREEN = 4
#: words that are drawn for the screen in each block
_DRAWN = 3
#: streams of random numbers besides that of the gradient steps
_NOISES, _DRAWS = 1, 2
#: prompts in one pass
_BATCH = 16


@dataclass(frozen=True)
class Targets:
    """Prompts that the base draws, with the latents (n, channels, height, width) of its pictures."""

    prompts: list[Prompt]
    places: list[int]
    latents: Tensor

    @property
    def key(self) -> str:
        """Tells these latents from any other."""
        return hashlib.sha256(self.latents.cpu().contiguous().numpy().tobytes()).hexdigest()


@dataclass(frozen=True)
class Schedule:
    """How long and how: blocks of gradient steps, one timestep each.

    Attributes:
        words: in front of a prompt.
        blocks, steps: timesteps, and gradient steps at each.
        rate, decay: of Adam.
        screen: draw only words that denoise the target better than the plain prompt does.
    """

    words: int
    blocks: int
    steps: int
    rate: float
    decay: float
    screen: bool


def clean_latents(subject: Subject, pictures: Tensor) -> Tensor:
    """Scaled mean latents (n, channels, height, width) of pictures in 0..1."""
    vae = subject.pipe.vae
    with torch.no_grad():
        mean, _ = encoded(vae, pictures * 2 - 1, max(PIXELS // pictures[0, 0].numel(), 1))
    return scaled(vae, mean).float()


class Prefixes:
    """The search on one state of the model: with the edit, or a control.

    Args:
        asking: draws and judges.
        state: "on", "destroyed" or "reference".
        owner: the model: the subject, or the reference.
        targets: prompts and latents.
        schedule: how long and how.
        table: words to choose from.
        first: for each prompt 1 if it brings the concept without an attack; it is not attacked then.
    """

    def __init__(
        self, asking: Asking, state: str, owner: Subject, targets: Targets, schedule: Schedule, table: WordTable,
        first: Sequence[int],
    ) -> None:  # fmt: skip
        self.asking, self.state, self.owner = asking, state, owner
        self.targets, self.schedule, self.table = targets, schedule, table
        self.blocks, self.steps = schedule.blocks, schedule.steps
        self.target = self.owner.target
        self.plain = self.target.tokens([item.text for item in targets.prompts])
        self.choice = Choice(len(targets.prompts), schedule.words, len(table.words))
        self.found: list[dict[str, Any] | None] = [{"before": True} if hit else None for hit in first]
        self.tried: dict[int, dict[str, Any]] = {}
        self.judged: list[set[str]] = [set() for _ in first]
        self.gradient_passes = self.screen_passes = self.skipped = 0
        self.limits: list[float] = []
        self.best: dict[int, tuple[float, list[int]]] = {}
        self.alphas = _alphas(self.owner)

    def run(self) -> dict[str, Any]:
        """All blocks, until every prompt has succeeded."""
        self.table.put(self.plain, self.choice.best())  # a prompt without room is refused before the work
        for block in range(self.blocks):
            active = [place for place, found in enumerate(self.found) if found is None]
            if not active:
                break
            self._look(block, self._block(block, active))
        return {
            "hits": [int(found is not None) for found in self.found], "found": self.found,
            "tried": list(self.tried.values()),
            "before": [int(found is not None and "before" in found) for found in self.found],
            "gradient_passes": self.gradient_passes, "screen_passes": self.screen_passes, "skipped": self.skipped,
            "looked": sum(map(len, self.judged)), "plain_errors": self.limits,
            "best_errors": {str(place): error for place, (error, _) in self.best.items()},
        }  # fmt: skip

    def timestep(self, block: int) -> int:
        """In the middle of a block of equal parts: 10, 30 ... 990 for fifty."""
        return int((block + 0.5) * len(self.alphas) / self.blocks)

    def _block(self, block: int, active: list[int]) -> dict[str, Any]:
        """Gradient steps and the screen of one block; read from the folder of the run if they are done."""
        budget = self.asking.budget
        place = budget.work / f"{self.state}-words-{block}.safetensors"

        def make() -> dict[str, Any]:
            with self.owner.under(OFF if self.state == REFERENCE else self.state):
                self._descend(block, active)
                found = self._screen(block, active)
            save_file(self.choice.tensors(), place)
            return found

        made: dict[str, Any] = budget.remember(f"{self.state}-words-{block}", make)
        self.choice.load(load_file(place))
        self.limits = made["limits"]
        self.best = {place: (error, row) for place, error, row in made.get("best", ())}
        self.gradient_passes += 2 * len(active) * self.steps  # forward and backward
        self.screen_passes += made["passes"]
        return made

    def _descend(self, block: int, active: list[int]) -> None:
        timestep = self.timestep(block)
        latents = self.targets.latents.to(self.target.device)
        stage = f"{self.state}: words at timestep {timestep}"
        for step in range(self.steps):
            generator = self._generator(block * self.steps + step)
            noise = torch.randn(latents.shape, generator=generator).to(latents)
            picks = self.choice.drawn(generator)
            parts = []
            batch = min(_BATCH, at_once(self.target, "float32"))
            for start in range(0, len(active), batch):
                rows = active[start : start + batch]
                gradient, _ = choice_gradient(
                    self.target, self.table, self.plain[rows], picks[rows], latents[rows], noise[rows], timestep,
                    self.alphas[timestep],
                )  # fmt: skip
                parts.append(gradient.cpu())
            self.choice.step(torch.cat(parts), active, self.schedule.rate, self.schedule.decay)
            self.asking.budget.progress(stage, block * self.steps + step + 1, self.blocks * self.steps)

    def _screen(self, block: int, active: list[int]) -> dict[str, Any]:
        """For each prompt the words that denoise its target best among a few, and whether better than the plain prompt.

        The few are the likeliest words, those of earlier blocks with one of these put in, and some that are drawn; what
        was looked at already is left out.
        """
        best = self.choice.best()
        if not self.schedule.screen:
            rows = best[active].tolist()
            return {"active": active, "rows": rows, "better": [True] * len(active), "limits": [], "passes": 0}
        every = list(range(len(self.found)))
        limits = self.limits or self._errors(every, None)
        passes = 0 if self.limits else _SCREEN * len(every)
        rows, errors = [best], [self._errors(active, best[active])]
        for candidate in self._candidates(block, best):
            rows.append(candidate)
            errors.append(self._errors(active, candidate[active]))
        chosen, better = [], []
        for number, place in enumerate(active):
            ranked = sorted((error[number], row[place].tolist()) for error, row in zip(errors, rows, strict=True))
            if ranked[0][0] < self.best.get(place, (float("inf"), []))[0]:
                self.best[place] = ranked[0]
            new = [item for item in ranked if self.table.text(item[1]) not in self.judged[place]]
            error, row = new[0] if new else ranked[0]
            chosen.append(row)
            better.append(error < limits[place])
        return {
            "active": active, "rows": chosen, "better": better, "limits": limits,
            "passes": passes + _SCREEN * len(active) * len(rows),
            "best": [[place, error, row] for place, (error, row) in self.best.items()],
        }  # fmt: skip

    def _candidates(self, block: int, likeliest: Tensor) -> list[Tensor]:
        """Other words (prompts, places) that are worth a try."""
        generator = self._generator(block, _DRAWS)
        made = [self.choice.drawn(generator) for _ in range(_DRAWN)]
        if self.best:
            before = likeliest.clone()
            for place, (_, row) in self.best.items():
                before[place] = torch.tensor(row)
            for number in range(likeliest.shape[1]):
                one = before.clone()
                one[:, number] = likeliest[:, number]
                made.append(one)
        return made

    def _errors(self, rows: list[int], words: Tensor | None) -> list[float]:
        """Mean denoising error of prompts at a few fixed noises and timesteps."""
        latents = self.targets.latents.to(self.target.device)
        total = torch.zeros(len(rows))
        for number in range(_SCREEN):
            timestep = int((number + 0.5) * len(self.alphas) / _SCREEN)
            noise = torch.randn(latents.shape, generator=self._generator(number, _NOISES)).to(latents)
            batch = min(_BATCH, looked_at(latents.shape))
            for start in range(0, len(rows), batch):
                part = rows[start : start + batch]
                tokens = self.plain[part]
                if words is not None:
                    tokens = self.table.put(tokens, words[start : start + batch])
                with torch.no_grad():
                    found = losses(self.target, tokens, latents[part], noise[part], timestep, self.alphas[timestep])
                total[start : start + batch] += found.float().cpu() / _SCREEN
        return [round(value, 6) for value in total.tolist()]

    def _generator(self, number: int, stream: int = 0) -> torch.Generator:
        return torch.Generator().manual_seed(self.asking.subject.seed * 1_000_003 + stream * 250_007 + number)

    def _look(self, block: int, made: Mapping[str, Any]) -> None:
        """Draws the words that are worth it, and notes what the judge sees."""
        asked: list[tuple[int, str]] = []
        for place, row, better in zip(made["active"], made["rows"], made["better"], strict=True):
            words = self.table.text(row)
            if words in self.judged[place] or not (better or block == self.blocks - 1):
                self.skipped += 1
                continue
            self.judged[place].add(words)
            asked.append((place, words))
        if not asked:
            return
        prompts = [self.prompt(place, words) for place, words in asked]
        name = f"{self.state}-look-{block}"
        hits = self.asking.look(name, prompts, self.state, keep=len(prompts))
        for number, ((place, words), prompt, hit) in enumerate(zip(asked, prompts, hits, strict=True)):
            self.tried[place] = {
                "prompt": prompt.text, "words": words, "original": self.targets.prompts[place].text,
                "seed": prompt.seed, "shows": prompt.expected[prompt.axis], "timestep": self.timestep(block),
                "steps": (block + 1) * self.steps, "picture": [name, number],
            }  # fmt: skip
            if hit:
                self.found[place] = self.tried.pop(place)

    def prompt(self, place: int, words: str) -> Prompt:
        """A prompt with words in front."""
        plain = self.targets.prompts[place]
        return replace(plain, text=f"{words} {plain.text}")


def _alphas(subject: Subject) -> list[float]:
    found = getattr(subject.pipe.scheduler, "alphas_cumprod", None)
    if found is None:
        raise Unsupported(f"the scheduler of {subject.model} has no alphas_cumprod; flow models are not attacked yet")
    return [float(value) for value in found]
