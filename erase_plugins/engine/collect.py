"""Collects the statistics of closed-form methods: encode once, sum once, in float64 and the small space."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from erase_plugins.artifacts.statistics import Member, Statistics
from erase_plugins.engine.context import RunContext
from erase_plugins.engine.context_rows import context_rows
from erase_plugins.engine.door_rows import kept_parts, paired_parts
from erase_plugins.engine.frame_rows import frame_rows
from erase_plugins.engine.prompt_templates import (
    TEMPLATES,
    check_phrase,
    expand,
    paired_rows,
    short_window,
)
from erase_plugins.engine.vocabulary import (
    ALONE,
    Vocabulary,
    by_length,
    encoded,
    framed_words,
    kept_rows,
    projection_gram,
    word_facts,
)
from erase_plugins.engine.words import real_words
from erase_plugins.errors import ArtifactError, RequestError
from erase_plugins.families.base import Conditioning, Target
from erase_plugins.hints import ANOTHER_TO
from erase_plugins.plain_text import some
from erase_plugins.types import Concept, EraseRequest

#: what a concept becomes when the user does not say
DEFAULT_GUIDES = {"style": "art", "person": "a person"}
BLANK = " "
#: words that a filler is drawn from
_COMMON = 2000
#: concepts and words from which it pays to form the sum of the projections' squares before meanings are compared
_FEW, _FEW_WORDS = 4, 300
#: how many plain phrasings all fillers together count for
FILLER_WEIGHT = 8.0


@dataclass(frozen=True)
class Recipe:
    """How phrases become rows; the part of the options that all closed-form methods share."""

    tokens: str
    expand: bool
    erase_scale: float
    keep_scale: float
    vocabulary: int
    vocabulary_scale: float
    near: float
    aliases: bool
    alias_threshold: float
    #: phrasings to edit instead of the six of `expand`; {} is the phrase
    templates: tuple[str, ...] = ()
    #: words of the vocabulary that follow a style in further phrasings
    fillers: int = 0
    #: what the kept words of the vocabulary stand in, in turn
    word_frames: tuple[str, ...] = ALONE
    #: rows behind a kept word that are encoded and count for all; 0 is all
    word_tail: int = 0
    #: tokens=window: rows behind a concept's last token that are encoded and count for all; 0 is all
    tail: int = 0
    #: weight of a row of the empty prompt; None: ``keep_scale``
    empty: float | None = None
    #: prompts that a concept stands in; a blank guide leaves the rest of them
    frames: tuple[str, ...] = ()

    @property
    def row_weight(self) -> float:
        """What all rows of kept prompts are summed with: the empty prompt's own weight where the others have none."""
        return self.keep_scale or self.empty or 0.0

    def lengthened(self, prompt: str) -> float:
        """Factor that gives rows of a kept prompt their own weight in that sum."""
        own = self.keep_scale if prompt or self.empty is None else self.empty
        return float((own / self.row_weight) ** 0.5) if self.row_weight else 1.0

    def framings(self, kind: str) -> int:
        """Phrasings of every phrase."""
        plain = len(self.templates or self.frames) or (len(TEMPLATES["object"]) if self.expand else 1)
        return plain + self.fillers * (kind == "style")


def guide_of(concept: Concept, fillers: int = 0) -> str:
    """What the concept becomes: as asked, else by kind, else the blank prompt.

    A style that is erased with ``fillers`` vanishes from the prompt, so it becomes nothing.
    """
    if concept.anchor is None and concept.kind == "style" and fillers:
        return BLANK
    return concept.anchor if concept.anchor is not None else DEFAULT_GUIDES.get(concept.kind, BLANK)


def check_guides(request: EraseRequest) -> None:
    """Refuses a concept that is its own guide.

    Raises:
        RequestError: names it.
    """
    for concept in request.concepts:
        if guide_of(concept).strip().lower() == concept.text.strip().lower():
            raise RequestError(f"'{concept.text}' would become itself; give ", ANOTHER_TO)


def collect(
    request: EraseRequest, recipe: Recipe, solver: dict[str, Any], target: Target, ctx: RunContext, need_sigma: bool
) -> Statistics:
    """Statistics of a request on a target.

    Args:
        request: concepts and what to keep.
        recipe: how phrases become rows.
        solver: settings that decide the solution; artifacts are solved jointly only if they agree.
        target: model that gives rows and projection weights.
        ctx: progress.
        need_sigma: store Sigma = sum W^T W.
    """
    check_guides(request)
    use_words = recipe.vocabulary > 0 and (recipe.vocabulary_scale > 0 or recipe.aliases)
    many = recipe.aliases or len(request.concepts) > _FEW or recipe.vocabulary > _FEW_WORDS
    sigma = projection_gram(target) if need_sigma or (use_words and many) else None
    words = None
    if use_words:
        words = Vocabulary.of(
            target, recipe.vocabulary, sigma, recipe.vocabulary_scale, recipe.word_frames, recipe.word_tail,
            recipe.aliases,
        )  # fmt: skip
    members = {}
    encoder = Phrases(target, recipe)
    encoder.prepare(request.concepts)
    for done, concept in enumerate(request.concepts, 1):
        members[concept.text] = _member(concept, recipe, target, words, encoder)
        ctx.step(done, len(request.concepts))
    facts: dict[str, Any] = {}
    block = None
    left_out: dict[str, Tensor] = {}
    if words is not None and words.block is not None:
        facts = {"words": len(words.words), "weight": words.weight, "hash": _hash_words(words.words)}
        facts |= {"frames": list(words.frames)} if words.frames != ALONE else {}
        facts |= {"tail": words.tail} if words.tail else {}
        block = words.block
        near = {word for member in members.values() for word in member.near}
        left_out = _rows_of(near, words.words, words.frames, words.tail, target, words.rows)
    return Statistics(
        width=target.info.width,
        members={name: members[name] for name in sorted(members)},
        keep=_keep(request.preserve, target, recipe),
        keep_weight=recipe.row_weight,
        solver=solver,
        block=block,
        block_facts=facts,
        left_out=left_out,
        sigma=sigma if need_sigma else None,
    )


class Phrases:
    """Encodes phrasings; where few rows count, their first rows only, of all phrasings of one length at once.

    Rows of a phrase do not depend on what is encoded along, so concepts erased one by one have the same.
    """

    def __init__(self, target: Target, recipe: Recipe) -> None:
        self.target, self.recipe = target, recipe
        # words that are kept are compared with as many rows of a phrase as they have themselves
        few = recipe.word_tail > 0 and (recipe.tokens == "last" or (recipe.tokens == "window" and recipe.tail > 0))
        self.short = few and bool(target.family.causal)
        self.tail = max(recipe.word_tail, recipe.tail if recipe.tokens == "window" else 0)
        self.known: dict[str, tuple[Tensor, int]] = {}

    def prepare(self, concepts: Sequence[Concept]) -> None:
        """Encodes what concepts and their guides will be asked for."""
        if self.short:
            texts: dict[str, None] = {}
            for concept in concepts:
                phrases = [concept.text, *concept.prompts]
                texts |= dict.fromkeys(phrases)
                for text in (*phrases, guide_of(concept, self.recipe.fillers)):
                    texts |= dict.fromkeys(framed(text, concept.kind, self.recipe))
            self._encode(list(texts))

    def __call__(self, texts: Sequence[str]) -> Conditioning:
        """The phrasings with all rows that count; rows behind those are left out, or zero."""
        if not self.short:
            return self.target.rows(texts)
        self._encode([text for text in dict.fromkeys(texts) if text not in self.known])
        found = [self.known[text] for text in texts]
        most = max(len(rows) for rows, _ in found)
        embeds = torch.stack([torch.nn.functional.pad(rows, (0, 0, 0, most - len(rows))) for rows, _ in found])
        return Conditioning(embeds, tuple(last for _, last in found), None, tuple(texts))

    def _encode(self, texts: Sequence[str]) -> None:
        for places, cond in by_length(self.target, texts, self.tail):
            for place, rows, last in zip(places, cond.embeds, cond.last, strict=True):
                self.known[texts[place]] = (rows[: last + 1 + self.tail], last)


def _member(concept: Concept, recipe: Recipe, target: Target, words: Vocabulary | None, encoder: Phrases) -> Member:
    guide = guide_of(concept, recipe.fillers)
    phrases = [concept.text, *concept.prompts]
    cond = encoder(phrases)
    for index in range(len(phrases)):
        check_phrase(cond, index)
    kept = frozenset(words.words) if words is not None else frozenset()
    near = tuple(word for word in words.not_kept(cond, recipe.near, [concept]) if word in kept) if words else ()
    aliases: tuple[str, ...] = ()
    if recipe.aliases and words is not None:
        taken = {phrase.strip().lower() for phrase in phrases}
        aliases = tuple(word for word in words.near(cond, recipe.alias_threshold) if word not in taken)
    C, S = encode_member([*phrases, *aliases], guide, concept.kind, recipe, target, encoder)
    facts: dict[str, Any] = {"guide": guide, "aliases": list(aliases), "phrases": phrases, "kind": concept.kind}
    if recipe.fillers and concept.kind == "style":
        facts["fillers"] = recipe.fillers
    return Member(concept.text, C, S, recipe.erase_scale, near, facts)


def encode_member(
    phrases: Sequence[str], guide: str, kind: str, recipe: Recipe, target: Target, encoder: Phrases | None = None
) -> tuple[Tensor, Tensor]:
    """Erased rows and what they become, (n, dim) float32 each, for all phrasings of one concept.

    With ``tokens=context`` all prompts together count as one: a concept weighs the same however many tell its rows.
    """
    if recipe.tokens == "context":
        templates = [*(recipe.templates or expand("{}", kind))]
        if kind == "style":
            templates += [f"a {{}} {word}" for word in filler_words(phrases[0], recipe.fillers, target)]
        pair = context_rows(phrases, guide, templates, target)
        one, other = (part / (len(templates) * len(phrases)) ** 0.5 for part in pair)
        return one, other
    if recipe.frames:
        return frame_rows(phrases, guide, recipe.frames, target)
    rows, guides = [], []
    encode = encoder or Phrases(target, recipe)
    for phrase in phrases:
        erased, becomes = (encode(framed(text, kind, recipe)) for text in (phrase, guide))
        for index in range(len(erased.last)):
            if recipe.tokens == "window" and encode.short:
                one, other = short_window(erased, becomes, index, index, recipe.tail, target.info.tokens)
            else:
                matched = paired_parts if erased.parts else paired_rows
                one, other = matched(erased, becomes, index, index, recipe.tokens)
            rows.append(one)
            guides.append(other)
        if recipe.fillers and kind == "style":
            one, other = styled_rows(phrase, guide, recipe.fillers, target)
            rows.append(one)
            guides.append(other)
    return torch.cat(rows).float().contiguous(), torch.cat(guides).float().contiguous()


def styled_rows(style: str, guide: str, count: int, target: Target) -> tuple[Tensor, Tensor]:
    """Rows of "a STYLE word", from the style on, and what they become: those of "a word" or "a GUIDE word".

    In a causal text encoder everything behind a style carries it on, so the rows of the bare name are not enough.

    Returns:
        Two (n, dim) float64 tensors, scaled so that the squared errors count ``FILLER_WEIGHT / count`` each.
    """
    words = filler_words(style, count, target)
    if target.rows([style]).parts:
        raise RequestError(f"fillers are for models with one text encoder, {target.info.model} has more; set fillers=0")
    before, behind = target.encode([f"a {style}", f"a {guide}".strip()]).last
    erased = target.encode([f"a {style} {word}" for word in words]).embeds[:, before + 1 :]
    becomes = target.encode([" ".join(f"a {guide} {word}".split()) for word in words]).embeds[:, behind + 1 :]
    length = min(erased.shape[1], becomes.shape[1])
    weight = (FILLER_WEIGHT / count) ** 0.5
    one, other = (weight * rows[:, :length].cpu().double().flatten(0, 1) for rows in (erased, becomes))
    return one, other


def filler_words(style: str, count: int, target: Target) -> list[str]:
    """Common words that may follow a style in a prompt; the same for the same arguments."""
    generator = torch.Generator().manual_seed(0)
    known = [word for word in real_words(target)[:_COMMON] if word not in style.lower().split()]
    return [known[index] for index in torch.randperm(len(known), generator=generator)[:count].tolist()]


def framed(text: str, kind: str, recipe: Recipe) -> tuple[str, ...]:
    """Phrasings of a phrase by the recipe; a blank guide stays blank."""
    if recipe.templates:
        return tuple(template.format(text) if text.strip() else text for template in recipe.templates)
    return expand(text, kind) if recipe.expand else (text,)


def refresh(statistics: Statistics, target: Target, recipe: Recipe | None = None) -> Statistics:
    """The same statistics read off another model, or off the same one with LoRAs on it.

    Args:
        statistics: of a closed-form edit.
        target: model whose effective weights count.
        recipe: how phrases become rows; all phrases, kept prompts and vocabulary words are then encoded anew. None
            leaves the rows as they are. A revoked concept that is kept is kept with all rows of its prompt.

    Raises:
        ArtifactError: the text encoder has another vocabulary.
    """
    sigma = projection_gram(target) if statistics.sigma is not None else None
    if recipe is None:
        return replace(statistics, sigma=sigma)
    members = {}
    for name, member in statistics.members.items():
        facts = member.facts
        if facts.get("drawn"):
            raise ArtifactError(f"'{name}' was erased with random neighbours; erase it anew on this model")
        phrases = [*facts.get("phrases", [name]), *facts.get("aliases", [])]
        rows, guides = encode_member(phrases, str(facts["guide"]), str(facts.get("kind", "object")), recipe, target)
        members[name] = replace(member, rows=rows, guides=guides)
    block, left_out = statistics.block, statistics.left_out
    if block is not None:
        count = int(statistics.block_facts["words"])
        # earlier artifacts kept whatever ends a word in the tokenizer
        pools = [pool(target)[:count] for pool in (real_words, lambda model: model.vocabulary())]
        words = next((pool for pool in pools if _hash_words(pool) == statistics.block_facts["hash"]), None)
        if words is None:
            raise ArtifactError("the text encoder has another vocabulary; erase anew on this model")
        frames = tuple(statistics.block_facts.get("frames", ALONE))
        tail = int(statistics.block_facts.get("tail", 0))
        _, block = word_facts(target, words, float(statistics.block_facts["weight"]), frames, tail)
        left_out = _rows_of(left_out, words, frames, tail, target)
    return replace(
        statistics, members=members, keep=_keep(tuple(statistics.keep), target, recipe), block=block, left_out=left_out,
        sigma=sigma, sums=None, kept_sum=None,
    )  # fmt: skip


def _keep(prompts: Sequence[str], target: Target, recipe: Recipe) -> dict[str, Tensor | None]:
    """All rows of every prompt to keep; the empty prompt (guidance's other half) always among them.

    All are summed with one weight, so rows are made longer or shorter for their own, see `Recipe.lengthened`.
    """
    names = list(dict.fromkeys(["", *prompts]))
    cond = target.rows(names)
    found: dict[str, Tensor | None] = {}
    for index, name in enumerate(names):
        rows = kept_parts(cond, index) if cond.parts else cond.embeds[index].float().cpu()
        found[name] = (rows * recipe.lengthened(name)).contiguous()
    return found


def _rows_of(
    wanted: Collection[str], words: Sequence[str], frames: Sequence[str], tail: int, target: Target,
    known: Mapping[str, Tensor] | None = None,
) -> dict[str, Tensor]:  # fmt: skip
    """Rows of some words of a vocabulary as its sum counts them; ``known`` has those of words just encoded."""
    if known and set(wanted) <= set(known):
        return {word: known[word] for word in words if word in wanted}
    prompts = {word: prompt for word, prompt in zip(words, framed_words(words, frames), strict=True) if word in wanted}
    if not prompts:
        return {}
    found = kept_rows(encoded(target, list(prompts.values()), tail), tail, target.info.tokens)
    return dict(zip(prompts, found, strict=True))


def _hash_words(words: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(words).encode()).hexdigest()[:16]


def summary(statistics: Statistics, ctx: RunContext) -> None:
    """Tells which words were taken as aliases."""
    for member in statistics.members.values():
        aliases = member.facts.get("aliases", [])
        if aliases:
            ctx.note(f"aliases of {member.concept}: {some(aliases, 8)}")


def phrase_count(request: EraseRequest, recipe: Recipe) -> int:
    """How many prompts `collect` encodes, aliases apart."""
    phrases = sum((1 + len(concept.prompts)) * recipe.framings(concept.kind) for concept in request.concepts)
    return phrases * 2 + len(request.preserve) + 1 + recipe.vocabulary
