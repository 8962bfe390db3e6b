"""The numbers of a trial: how much of the concept is left, how far everything else moved. Smaller is better in both.

**Left** (0..; the base is 1): where a judge knows the concept, the mean probability that it gives to it in pictures
whose prompts name it, by synonyms and by descriptions, each kind of prompt counting alike, over what it gives to the
base's pictures; a kind of prompt from which the base does not draw it is left out. Elsewhere, of the direction from
what the concept becomes to the concept, in the denoiser's predictions at states of the base's own trajectories, the
share that is left.

**Change** (0..): mean squared distance of the denoiser's predictions from the base's on retained prompts, at states of
the base's trajectories, over that of these prompts to the empty prompt. No judge is needed, and 0 is the base.

A prompt that a guard refuses shows nothing of the concept; a retained one moves to the empty prompt.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from erase_plugins.artifacts.artifact import Artifact
from erase_plugins.engine.activations import looked_at
from erase_plugins.engine.trajectories import States, ask, harvest, join, repeat, start_noise
from erase_plugins.engine.words import real_words
from erase_plugins.errors import RunRefused
from erase_plugins.evaluation.attacks.phrasing import descriptions
from erase_plugins.evaluation.draw import draw
from erase_plugins.evaluation.guarded import answered, drawn, refused_places
from erase_plugins.evaluation.prompts import Prompt, quick_prompts, texts_and_seeds, worded_prompts
from erase_plugins.evaluation.shares import knowing
from erase_plugins.families.capabilities import DENOISER
from erase_plugins.families.conditioning import Conditioning
from erase_plugins.types import Concept
from erase_plugins.workflow.applying import apply

#: the model with an edit in force, inside the block
Edited = Callable[[Artifact], AbstractContextManager[Any]]
#: states that go through the denoiser together, fewer of large pictures
_TOGETHER = 64
#: prompts and pictures are others than those of an evaluation
_SEED = 40_000
_STEPS, _PICKS, _GUIDANCE = 8, (1, 3, 6), 4.0
#: words that change is measured on where no judge knows the world
_WORDS = 24
_FRAMES = ("{}", "a {}", "a photo of a {}")
#: sum of mean probabilities below which the base does not know a concept
_UNKNOWN = 0.1
#: mean probability below which the base does not draw the concept from a kind of prompt
_UNDRAWN = 0.05


@dataclass(frozen=True)
class Measured:
    """The numbers of one edit.

    ``parts`` says what ``left`` is made of. ``values`` has it for the first picture of every kind of prompt, the second
    and so on; their mean is ``left``. None without a judge.
    """

    left: float
    change: float
    parts: Mapping[str, float]
    values: tuple[float, ...] = ()


class Yardstick:
    """Measures edits of one concept on one model; what the base gives is asked once.

    Args:
        target: the loaded model.
        concept: what is erased.
        also: other words for it and descriptions that must be gone as well.
        keep: prompts that must stay.
        judges: those that may be asked.
        images: pictures for each kind of prompt.
        seed: of prompts, noise and pictures.
        edited: the model with an edit in force, of a host that nothing is applied to; `apply` on ``target`` if None.
    """

    def __init__(
        self, target: Any, concept: Concept, *, also: Sequence[str] = (), keep: Sequence[str] = (),
        judges: Iterable[Any] = (), images: int = 8, seed: int = 0, edited: Edited | None = None,
    ) -> None:  # fmt: skip
        self.target, self.concept, self.seed, self.edited = target, concept, _SEED + seed, edited
        self.judge = knowing(target, [concept.text], judges)
        self.sets: dict[str, list[Prompt]] = {}
        kept = list(keep)
        if self.judge is not None:
            found = quick_prompts(self.judge, [concept.text], images, self.seed)
            phrases = [(item.text, concept.text) for item in descriptions(concept.text)] + [
                (text, concept.text) for text in also
            ]
            cells = [phrases[place % len(phrases)] for place in range(images)] if phrases else []
            described = worded_prompts(self.judge, [concept.text], cells, self.seed) if cells else []
            named = {"name": found["target"], "synonyms": found["synonym"], "descriptions": described}
            self.sets = {name: items for name, items in named.items() if items}
            kept += [item.text for name in ("neighbour", "kept") for item in found[name]]
        else:
            kept += self._words()
        self.kept = self._states(dict.fromkeys(kept))
        phrases_ = [concept.text, *concept.prompts, *also]
        prompts = [frame.format(phrase) for phrase in phrases_ for frame in _FRAMES]
        self.named = None if self.sets else self._states(prompts, concept.anchor or "")
        #: what ``left`` is made of on the base
        self.base: Mapping[str, float] = _means(self._judged()) if self.named is None else {"direction": 1.0}
        # what the base does not draw either is nothing that an edit leaves, only the doubt of the judge
        drawn = [name for name, value in self.base.items() if value >= _UNDRAWN] or list(self.base)
        self.sets = {name: items for name, items in self.sets.items() if name in drawn}
        self.base = {name: self.base[name] for name in drawn}
        if sum(self.base.values()) < _UNKNOWN:
            raise RunRefused(
                f"the base does not draw '{concept.text}', neither by name nor otherwise, as far as the judge "
                f"{self.judge.id} can see; there is nothing to search for, name another concept"
            )

    def measure(self, artifact: Artifact) -> Measured:
        """The numbers of an edit. The model is left as it was."""
        with self._in_force(artifact) as (target, texts_change):
            return self._measure(target, texts_change)

    def change(self, artifact: Artifact) -> float:
        """The change alone, for which nothing is drawn."""
        with self._in_force(artifact) as (target, texts_change):
            return self._change(target, texts_change)

    @contextmanager
    def _in_force(self, artifact: Artifact) -> Iterator[tuple[Any, bool]]:
        """The model with the edit, and whether what it keeps of encoded prompts is of the base."""
        if self.edited is not None:
            with self.edited(artifact) as target:
                yield target, False
        else:
            with apply(self.target, artifact):
                yield self.target, any(part != self.target.info.family.denoiser for part in artifact.edit.deltas)

    @torch.no_grad()
    def _change(self, target: Any, texts_change: bool) -> float:
        states, prompts = self.kept
        base, null = states.predictions["prompt"], states.predictions["null"]
        moved = self._predicted(target, states, prompts, texts_change, null) - base
        return float(moved.square().sum() / (base - null).square().sum().clamp_min(1e-12))

    @torch.no_grad()
    def _measure(self, target: Any, texts_change: bool) -> Measured:
        change = self._change(target, texts_change)
        seen = self._judged() if self.named is None else {}
        parts = _means(seen) or {"direction": self._direction(target, texts_change)}
        share = sum(self.base.values())
        values = tuple(sum(each) / share for each in zip(*seen.values(), strict=True))
        return Measured(sum(parts.values()) / share, change, parts, values)

    def _judged(self) -> dict[str, tuple[float, ...]]:
        """Probability of the concept in every picture, for each kind of prompt."""
        items = [item for part in self.sets.values() for item in part]

        def make(places: Sequence[int]) -> Tensor:
            asked = texts_and_seeds(items[place] for place in places)
            return draw(self.target.pipe, *asked, denoiser=self.target.network(DENOISER))

        pictures = answered(self.target, [item.text for item in items], make, lambda _place: None)
        axis = items[0].axis
        scores = self.judge.score(pictures)[axis][:, list(self.judge.axes[axis]).index(self.concept.text)]
        seen = (scores * torch.tensor(drawn(pictures))).tolist()
        parts, start = {}, 0
        for name, part in self.sets.items():
            parts[name] = tuple(seen[start : start + len(part)])
            start += len(part)
        return parts

    def _direction(self, target: Any, texts_change: bool) -> float:
        assert self.named is not None
        states, prompts = self.named
        anchor = states.predictions["anchor"]
        was = states.predictions["prompt"] - anchor
        now = self._predicted(target, states, prompts, texts_change, anchor) - anchor
        share = float((now * was).sum() / was.square().sum().clamp_min(1e-12))
        return min(max(share, 0.0), 1.0)

    def _predicted(
        self, target: Any, states: States, prompts: Sequence[str], texts_change: bool, refused: Tensor
    ) -> Tensor:
        """Predictions for the prompts at the states, with what is in force; ``refused`` where a guard refuses them."""
        cond = _encoded(target, prompts, texts_change)
        out, most = [], min(_TOGETHER, looked_at(states.x.shape))
        for start in range(0, len(states), most):
            rows = torch.arange(start, min(start + most, len(states)))
            part = states[rows]
            out.append(ask(target, part.inputs, part.timestep, cond[part.row.tolist()], None))
        gone = torch.isin(states.row, torch.tensor(refused_places(target, prompts), dtype=states.row.dtype))
        found = torch.cat(out)
        return torch.where(gone.view(-1, *[1] * (found.ndim - 1)), refused, found) if bool(gone.any()) else found

    def _words(self) -> list[str]:
        """Vocabulary words in prompts, drawn by the seed; none of those in the concept."""
        own = set(self.concept.text.lower().split())
        words = [word for word in real_words(self.target)[:2000] if word not in own]
        picked = random.Random(self.seed).sample(words, min(_WORDS, len(words)))
        return [_FRAMES[place % len(_FRAMES)].format(word) for place, word in enumerate(picked)]

    @torch.no_grad()
    def _states(self, prompts: Iterable[str], anchor: str | None = None) -> tuple[States, list[str]]:
        """States of the base's trajectories, with its predictions for prompt, empty prompt and anchor."""
        texts = list(prompts)
        target = self.target
        scheduler = target.scheduler(_STEPS)
        noise = start_noise(target, scheduler, len(texts), torch.Generator().manual_seed(self.seed))
        watch = {} if anchor is None else {"anchor": repeat(target.encode([anchor]), len(texts))}
        found = harvest(
            target, scheduler, noise, target.encode(texts), target.encode([""]), [_PICKS] * len(texts),
            guidance=_GUIDANCE, watch=watch,
        )  # fmt: skip
        return found, texts


def _encoded(target: Any, prompts: Sequence[str], live: bool) -> Conditioning:
    """Encoded prompts; past the cache where a text encoder is changed."""
    if not live:
        found: Conditioning = target.encode(prompts)
        return found
    return join([target.encode_live(target.tokens([prompt])) for prompt in prompts])


def _means(seen: Mapping[str, Sequence[float]]) -> dict[str, float]:
    return {name: sum(values) / len(values) for name, values in seen.items()}
