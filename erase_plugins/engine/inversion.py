"""Concept inversion: token rows that are learned so that a model draws a concept again, all its weights as they are.

Pham et al., "Circumventing Concept Erasure Methods for Text-to-Image Generative Models", arXiv 2308.01508. New token
embeddings stand where the concept's name stood, and take the gradient of the model's own denoising loss on pictures of
the concept. The attack of that name measures with it; methods that search before they erase (`training.rounds`) train
against what it finds.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from erase_plugins.engine.activations import at_once, pieced
from erase_plugins.engine.adapters import Trainable
from erase_plugins.engine.context import RunContext
from erase_plugins.engine.loop import Schedule, shuffled, train
from erase_plugins.engine.precision import autocast
from erase_plugins.errors import RequestError, Unsupported
from erase_plugins.families.target import Conditioning, Target, Tokens
from erase_plugins.plain_text import whole_words

#: one-token words that rows begin as: neutral ones, never the concept itself
THINGS = ("object", "thing", "picture")
STYLES = ("style", "painting", "picture")


@dataclass(frozen=True)
class Slots:
    """Prompts with room for rows: ``starts`` is the first row of each prompt, ``count`` how many there are."""

    tokens: Tokens
    starts: tuple[int, ...]
    count: int


def slots(target: Target, prompts: Sequence[str], word: str, count: int) -> Slots:
    """Token numbers of prompts in which ``word`` makes room for ``count`` rows.

    Args:
        target: gives tokens and their number.
        prompts: each names the word.
        word: what is replaced, the first time it occurs as a whole word.
        count: rows.

    Raises:
        RequestError: a prompt does not name the word, or is too long.
    """
    before, after = zip(*(_around(prompt, word) for prompt in prompts), strict=True)
    left, right, empty, any_word = (target.tokens(list(texts)) for texts in (before, after, [""], ["a"]))
    ids: dict[str, Tensor] = {}
    for name, bare in empty.ids.items():
        length, rows = bare.shape[1], []
        filler = any_word.ids[name][0, 1:2].expand(count)  # its embedding is replaced
        for place, prompt in enumerate(prompts):
            content = left.last[place] + count + right.last[place]
            if content + 2 > length:
                raise RequestError(f"'{prompt}' with {count} learned rows has {content} tokens, more than {length - 2}")
            first, last = left.ids[name][place, 1 : left.last[place] + 1], right.ids[name][place]
            parts = [bare[0, :1], first, filler, last[1 : right.last[place] + 1], bare[0, 1:]]
            rows.append(torch.cat(parts)[:length])
        ids[name] = torch.stack(rows)
    ends = tuple(a + count + b for a, b in zip(left.last, right.last, strict=True))
    return Slots(Tokens(ids, ends, tuple(prompts)), tuple(last + 1 for last in left.last), count)


def _around(prompt: str, word: str) -> tuple[str, str]:
    found = re.search(whole_words(word), prompt)
    if found is None:
        raise RequestError(f"'{prompt}' does not name '{word}', so nothing can stand in its place")
    return prompt[: found.start()], prompt[found.end() :]


class LearnedRows(Trainable):
    """Rows in training, (count, sum of the widths of all text encoders).

    Args:
        target: the model as it is attacked.
        start: their first values.
    """

    def __init__(self, target: Target, start: Tensor) -> None:
        super().__init__(target, [])
        self.target = target
        self.rows = nn.Parameter(start.detach().clone())

    def named_parameters(self) -> dict[str, nn.Parameter]:
        return {"rows": self.rows}

    def encode(self, where: Slots, picks: Sequence[int] | None = None, others: Tensor | None = None) -> Conditioning:
        """Prompts (or those at ``picks``) with the rows in their slots, encoded with gradients.

        Args:
            where: prompts with slots.
            picks: which of them; all if None.
            others: rows (prompts, count, width), each prompt its own, in place of those in training.
        """
        tokens, starts = where.tokens, list(where.starts)
        if picks is not None:
            tokens, starts = tokens[picks], [starts[pick] for pick in picks]
        embedded, place = {}, 0
        prompt = torch.arange(len(starts), device=self.rows.device)[:, None]
        row = torch.tensor(starts, device=self.rows.device)[:, None] + torch.arange(where.count, device=prompt.device)
        for name, ids in tokens.ids.items():
            plain = self.target.token_table(name)[ids].to(self.rows.dtype)
            rows = self.rows.expand(len(starts), -1, -1) if others is None else others
            own = rows[..., place : place + plain.shape[-1]]
            embedded[name] = plain.index_put((prompt.expand_as(row), row), own)
            place += plain.shape[-1]
        return self.target.encode_live(tokens, embedded)

    def by_encoder(self) -> dict[str, Tensor]:
        """Rows of each text encoder (count, width), float32."""
        found, place = {}, 0
        for name in self.target.tokens([""]).ids:
            width = self.target.token_table(name).shape[1]
            found[name] = self.rows.detach()[:, place : place + width].float().cpu().contiguous().clone()
            place += width
        return found


def start_rows(target: Target, words: Sequence[str], count: int, chosen: bool = False) -> Tensor:
    """Rows to begin with: the embedding of the first of ``words`` that is one token, else the mean of all tokens.

    Args:
        target: the model.
        words: candidates.
        count: rows, all alike.
        chosen: the user named the word, so it must be one token.

    Raises:
        RequestError: the chosen word is not one token.
        Unsupported: the model has no text encoder whose embeddings can be read.
    """
    encoders = list(target.tokens([""]).ids)
    if not encoders:
        raise Unsupported(f"{target.info.model} has no text encoder; there is no token to learn")
    for word in words:
        tokens = target.tokens([word])
        if tokens.last == (1,):
            rows = [target.token_rows(name, tokens.ids[name][0, 1:2]) for name in encoders]
            return torch.cat(rows, dim=-1).float().repeat(count, 1)
    if chosen:
        raise RequestError(f"start '{words[0]}' is not one token of {target.info.model}; name another word")
    means = [target.token_table(name).float().mean(0, keepdim=True) for name in encoders]
    return torch.cat(means, dim=-1).repeat(count, 1)


def question(
    target: Target, latents: Tensor, noise: Tensor, light: Tensor | float, dark: Tensor | float
) -> tuple[Tensor, Tensor]:
    """Noised latents, and what the model should say of them.

    Args:
        target: says what it predicts.
        latents, noise: (n, channels, height, width).
        light, dark: shares of both, as `noise_shares` gives them.

    Raises:
        Unsupported: the model predicts neither noise nor velocity.
    """
    noisy = light * latents + dark * noise
    if target.info.prediction == "epsilon":
        return noisy, noise
    if target.info.prediction == "v_prediction":
        return noisy, light * noise - dark * latents
    if target.info.prediction == "flow":
        return noisy, noise - latents
    raise Unsupported(f"{target.info.model} predicts {target.info.prediction}; epsilon, v_prediction, flow are known")


def noise_shares(target: Target, alphas: Tensor, timesteps: Tensor) -> tuple[Tensor, Tensor]:
    """Shares (n, 1, 1, 1) of latents and of noise at training timesteps (n,).

    They are the roots of the cumulative product ``alphas`` and of what it lacks to 1. In a flow they are linear in
    time, and ``alphas`` only says how many timesteps there are.
    """
    if target.info.prediction == "flow":
        dark = (timesteps / len(alphas)).to(alphas).view(-1, 1, 1, 1)
        return 1 - dark, dark
    alpha = alphas[timesteps].view(-1, 1, 1, 1)
    return alpha.sqrt(), (1 - alpha).sqrt()


def denoising_loss(
    target: Target, latents: Tensor, noise: Tensor, timesteps: Tensor, alphas: Tensor, cond: Conditioning,
    precision: str = "float32",
) -> Tensor:  # fmt: skip
    """Mean squared error of the prediction for noised latents, over all elements.

    Args:
        target: the model as it is attacked; gradients flow through all that is attached to it.
        latents: clean scaled latents (n, channels, height, width).
        noise: of the same shape.
        timesteps: (n,) int64.
        alphas: the scheduler's cumulative products, one per training timestep; see `noise_shares`.
        cond: one prompt per latent.
        precision: "bfloat16" or "float32".

    Raises:
        Unsupported: the model predicts neither noise nor velocity.
    """
    noisy, wanted = question(target, latents, noise, *noise_shares(target, alphas, timesteps))
    return (wanted - predicted(target, noisy, timesteps, cond, precision)).square().mean()


def predicted(
    target: Target, noisy: Tensor, timesteps: Tensor, cond: Conditioning, precision: str = "float32",
    passing: Callable[[int], AbstractContextManager[object]] = nullcontext,
) -> Tensor:  # fmt: skip
    """The prediction for noised latents, with gradients; some at a time where all together take too much memory.

    Args:
        target, timesteps, cond, precision: as for `denoising_loss`.
        noisy: (n, channels, height, width).
        passing: the with-block of a pass of so many samples.
    """

    def passed(rows: list[int]) -> Tensor:
        with autocast(noisy.device, precision), passing(len(rows)):
            return target.predict(noisy[rows].to(target.dtype), timesteps[rows], cond[rows])

    count = len(noisy)
    most = at_once(target, precision) if torch.is_grad_enabled() else count
    return passed(list(range(count))) if count <= most else pieced(passed, count, most)


@dataclass(frozen=True)
class Lessons:
    """Batches of noised training latents; step ``n`` is the same in every run and for every model with one seed.

    Attributes:
        target: the model as it is attacked.
        latents: clean scaled latents (n, channels, height, width).
        batch: latents per step.
        ctx: gives the randomness and counts passes.
        alphas: cumulative products of the scheduler.
    """

    target: Target
    latents: Tensor
    batch: int
    ctx: RunContext
    alphas: Tensor

    @classmethod
    def of(cls, target: Target, latents: Tensor, batch: int, ctx: RunContext) -> Lessons:
        """With the model's own noise schedule."""
        flow = target.info.prediction == "flow"
        alphas = latents.new_empty(1000) if flow else target.scheduler(1, "ddim").alphas_cumprod.to(latents)
        return cls(target, latents, batch, ctx, alphas)

    def picks(self, step: int) -> list[int]:
        """Which latents a step trains on."""
        found: list[int] = shuffled(self.ctx, "lessons", len(self.latents), self.batch, step).tolist()
        return found

    def loss(self, step: int, cond: Conditioning) -> Tensor:
        """`denoising_loss` of a step; ``cond`` belongs to its `picks`."""
        latents, noise, timesteps = self.noised(step)
        self.ctx.count("training_passes", len(latents))
        return denoising_loss(self.target, latents, noise, timesteps, self.alphas, cond, self.ctx.precision)

    def noised(self, step: int) -> tuple[Tensor, Tensor, Tensor]:
        """Latents, noise and timesteps of a step."""
        generator = self.ctx.generator(f"lesson {step}")
        latents = self.latents[self.picks(step)]
        noise = torch.randn(latents.shape, generator=generator).to(latents)
        return latents, noise, torch.randint(len(self.alphas), (len(latents),), generator=generator).to(latents.device)


def learn_rows(
    learned: LearnedRows, where: Slots, lessons: Lessons, schedule: Schedule, ctx: RunContext, key: str
) -> list[float]:
    """Trains rows in their slots until the model denoises the lessons best; gives the loss of every step.

    Args:
        learned: changed in place.
        where: one prompt per latent of ``lessons``.
        lessons: pictures of the concept as latents.
        schedule, ctx, key: of the training loop (`engine.loop.train`).
    """
    with learned:
        return train(
            ctx, learned, lambda step: lessons.loss(step, learned.encode(where, lessons.picks(step))), schedule, key
        )
