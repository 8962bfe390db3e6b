"""Prompts that tell a LoRA's concept from what it has to keep: both stand in the same surroundings.

Whatever differs between prompts with the concept and prompts that stay is taken for the concept. If only the former
had other words around it, the LoRA would stop answering to those, too: "a red CONCEPT" would cost "a red KEPT".

The words around it are such as leave open what is drawn: styles, looks, "photo". A word that names a thing of its own
("a dog KEPT") makes the model choose between two, which says little of either and has the largest errors, so that
training would be about little else. They are told apart by what the model draws for a word alone. And they are drawn
as people use words, the n-th most common one with a chance of 1 / (n + 2.7): a LoRA meets common ones again and again.

Source:
    Piantadosi, "Zipf's word frequency law in natural language" (2014), equation 2: Zipf's law with Mandelbrot's shift.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle, islice

import torch

from erase_plugins.engine.prompt_templates import CAPTIONS, FRAMES
from erase_plugins.engine.trajectories import start_noise
from erase_plugins.engine.vocabulary import Vocabulary, projection_gram
from erase_plugins.engine.words import own_words, real_words
from erase_plugins.families.base import Target
from erase_plugins.workflow.lora_states import asked, encoded

#: words that are looked at for what they leave open
COMMON = 256
#: shift of Zipf's law
_SHIFT = 2.7
#: surroundings of a word, in turn
_AROUND = ("a {0} {{}}", "a {{}} on a {0}", "a {0} {{}} on a {1}")
#: what common words that are kept stand in, in turn
_KEPT_FRAMES = ("{}", "a photo of a {}", "a {} on a blue background", "a picture of {}")


def common_words(target: Target, phrases: Sequence[str]) -> tuple[str, ...]:
    """The first `COMMON` words of the text encoder, most common first, without the phrases' own."""
    own = own_words(phrases)
    return tuple(word for word in real_words(target)[:COMMON] if word not in own)


@torch.no_grad()
def quiet_words(target: Target, words: Sequence[str]) -> tuple[str, ...]:
    """The quarter of words that, alone in a prompt, change the base's prediction least, in their order.

    Args:
        target: the base; asked on pure noise, at the noise level half-way down the schedule.
        words: those to look at.
    """
    sampler = target.scheduler(2)
    noise = start_noise(target, sampler, 1, torch.Generator().manual_seed(0))
    prompts = ["", *(f"a {word}" for word in words)]
    times = sampler.timesteps[:1].to(noise.device).expand(len(prompts))
    inputs = sampler.scale_model_input(noise, times[0]).expand(len(prompts), *noise.shape[1:])
    silent, *told = asked(target, inputs, times, encoded(target, prompts))
    changes = [float((one - silent).square().sum()) for one in told]
    quiet = sorted(range(len(words)), key=changes.__getitem__)[: len(words) // 4]
    return tuple(words[place] for place in sorted(quiet))


def frames_for(words: Sequence[str], surroundings: int) -> tuple[str, ...]:
    """Prompts with a slot, each once: the usual ones, and those in which other words stand around it.

    Args:
        words: that do, most common first.
        surroundings: how many of the latter are drawn; always the same ones.
    """
    chances = 1 / (torch.arange(1, len(words) + 1) + _SHIFT)
    generator = torch.Generator().manual_seed(0)
    count = 2 * surroundings if words else 0
    drawn = torch.multinomial(chances, count, replacement=True, generator=generator).tolist() if count else []
    pairs = zip(cycle(_AROUND), drawn[::2], drawn[1::2])
    around = [frame.format(words[one], words[other]) for frame, one, other in pairs]
    return tuple(dict.fromkeys([*CAPTIONS["object"], *CAPTIONS["style"], *FRAMES, *around]))


def kept_prompts(target: Target, phrases: Sequence[str], words: int = 400, near: float = 0.85) -> list[str]:
    """The empty prompt, common words that do not mean the concept, in frames by turns.

    Args:
        target: whose words they are.
        phrases: the concept and what means the same.
        words: how many are looked at.
        near: closeness from which a word counts as the concept and is left out.
    """
    known = Vocabulary.of(target, words, projection_gram(target))
    close = own_words(phrases).union(known.near(target.encode(list(phrases)), near))
    common = (word for word in known.words if word not in close)
    return ["", *(frame.format(word) for frame, word in zip(cycle(_KEPT_FRAMES), common))]


class Beside:
    """Prompts that stay, for a step in which the concept stands in certain frames.

    Args:
        keep: words or prompts that were named to be kept; by turns they stand in the frames of the concept.
        common: prompts of common words, which are the rest, or all where nothing was named.
        share: of the former, 0..1.
    """

    def __init__(self, keep: Sequence[str], common: Sequence[str], share: float) -> None:
        self._keep, self._common, self._share = cycle(keep), iter(common), share if keep else 0.0

    def of(self, frames: Sequence[str], count: int) -> list[str]:
        """``count`` of them, of which the first stand in as many of the frames as their share wants."""
        framed = [frame.format(next(self._keep)) for frame in frames[: round(count * self._share)]]
        return [*framed, *islice(self._common, count - len(framed))]
