"""Takes a concept out of somebody's LoRA in closed form: its "down" factors stop answering to the concept's rows.

A module with the update B A reads rows x and adds B A x. With G the sum of x x^T over prompts that name the concept and
H the same over prompts that must stay, A (I - P) with P = G (lam I + G + H)^-1 is the update that adds least for the
former and changes least for the latter: the solve of `artifacts.closed_form` with nothing as the guide. Rank, up
factor and scale stay. What a text encoder's module reads depends on the modules below it, so its rows are collected
from the live encoder: those of the concept with the LoRA off and on, since once every module is silent on the
concept the encoder gives what the base gives.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from erase_plugins.artifacts.closed_form import solve_map
from erase_plugins.artifacts.edit import Delta, LowRank
from erase_plugins.engine.attack import token_rows
from erase_plugins.engine.collect import filler_words
from erase_plugins.engine.prompt_templates import CAPTIONS, FRAMES, check_phrase
from erase_plugins.engine.vocabulary import Vocabulary, projection_gram
from erase_plugins.families.base import ModuleRef, Target
from erase_plugins.families.capabilities import DENOISER, TEXT
from erase_plugins.families.model import ModelSpec

#: (component, key of an edit)
Place = tuple[str, str]
#: what common words that are kept stand in, in turn
_KEPT_FRAMES = ("{}", "a photo of a {}", "a {} on a blue background", "a picture of {}")
_CHUNK = 64


@dataclass(frozen=True)
class Weights:
    """How hard the concept's rows are pressed against those that stay.

    Attributes:
        erase: of the concept's rows, one prompt's worth.
        keep: of the kept rows, one prompt's worth.
        lam_share: ridge term, in units of the system's mean diagonal.
        words: common words of the text encoder that stay.
        fillers: common words that stand before and after the concept in further prompts.
        near: closeness from which a common word counts as the concept and is not kept.
    """

    erase: float = 10.0
    keep: float = 1.0
    lam_share: float = 1e-4
    words: int = 400
    fillers: int = 48
    near: float = 0.85


def readers(info: ModelSpec, deltas: Mapping[str, Mapping[str, Delta]]) -> tuple[dict[Place, ModuleRef], list[Place]]:
    """Modules of a LoRA that read text rows (of cross-attention, and linear ones of text encoders), and all others.

    Raises:
        Unsupported: the model has no separate cross-attention.
    """
    denoisers, encoders = info.components(DENOISER), info.components(TEXT)
    refs = {(ref.component, ref.weight): ref for ref in info.modules("cross_kv") if ref.component in denoisers}
    refs |= {
        (ref.component, ref.weight): ref
        for ref in info.refs
        if ref.component in encoders and ref.kind == "linear" and ref.path != "text_projection"
    }
    places = [(component, key) for component, group in deltas.items() for key in group]
    found = {place: refs[place] for place in places if place in refs and _is_lora(deltas, place)}
    return found, [place for place in places if place not in found]


def _is_lora(deltas: Mapping[str, Mapping[str, Delta]], place: Place) -> bool:
    return isinstance(deltas[place[0]][place[1]], LowRank)


def concept_prompts(phrases: Sequence[str], fillers: int, target: Target) -> list[tuple[str, str]]:
    """(prompt, phrase in it) of every phrase in the usual frames, and between common words."""
    frames = list(dict.fromkeys([*CAPTIONS["object"], *CAPTIONS["style"], *FRAMES]))
    for place, word in enumerate(filler_words(" ".join(phrases), fillers, target)):
        frames.append((f"a {word} {{}}", f"a {{}} on a {word}", f"a {word} {{}} with {word}")[place % 3])
    return [(frame.format(phrase), phrase) for phrase in phrases for frame in frames]


def kept_prompts(phrases: Sequence[str], weights: Weights, target: Target) -> list[str]:
    """The empty prompt, common words that do not mean the concept, in frames by turns."""
    words = Vocabulary.of(target, weights.words, projection_gram(target))
    own = {part for phrase in phrases for part in phrase.lower().split()}
    near = set(words.near(target.encode(list(phrases)), weights.near)) | own
    common = [word for word in words.words if word not in near]
    return ["", *(_KEPT_FRAMES[place % len(_KEPT_FRAMES)].format(word) for place, word in enumerate(common))]


@torch.no_grad()
def project(
    target: Target, deltas: Mapping[str, Mapping[str, Delta]], phrases: Sequence[str], keep: Sequence[str],
    lora: Callable[[], AbstractContextManager[object]], tries: Sequence[float] = (), weights: Weights | None = None,
) -> tuple[dict[Place, Tensor], list[dict[Place, Tensor]]]:  # fmt: skip
    """New "down" factors (rank, in) float64 of all modules that read text rows; those of the denoiser several times.

    Args:
        target: the base, without the LoRA.
        deltas: the LoRA.
        phrases: the concept and what means the same.
        keep: prompts or words that must stay as the LoRA has them.
        lora: puts the LoRA on the target for a with-block.
        tries: other weights of the concept's rows, for each of which the denoiser's factors are solved too.
        weights: see there.

    Raises:
        RequestError: a phrase without content for this text encoder.
        NotFiniteError: the system is not solvable.
    """
    weights = weights or Weights()
    plain = target.encode(list(phrases))
    for index in range(len(phrases)):
        check_phrase(plain, index)
    refs, _ = readers(target.info, deltas)
    deep = [ref for ref in refs.values() if ref.component in target.info.components(TEXT)]
    named = concept_prompts(phrases, weights.fillers, target)
    prompts = [prompt for prompt, _ in named]
    starts = [token_rows(target, prompt, phrase)[0] for prompt, phrase in named]
    stay = kept_prompts(phrases, weights, target)
    asked = [frame.format(word) for word in keep for frame in ("{}", *CAPTIONS["object"][1:], *_KEPT_FRAMES[1:])]
    erased = _grams(target, deep, prompts, starts)
    with lora():
        kept = _grams(target, deep, stay, [1] * len(stay))
        if asked:
            named_kept = _grams(target, deep, asked, [1] * len(asked))
            kept = {key: kept[key] + named_kept[key] for key in kept}
        if deep:
            again = _grams(target, deep, prompts, starts)
            erased = {key: (erased[key] + again[key]) / 2 for key in erased}
    denoiser = {place: ref for place, ref in refs.items() if ref not in kept}
    tried = [_silenced(deltas, denoiser, erased, kept, replace(weights, erase=erase)) for erase in tries]
    return _silenced(deltas, refs, erased, kept, weights), tried


def _silenced(
    deltas: Mapping[str, Mapping[str, Delta]], refs: Mapping[Place, ModuleRef],
    erased: Mapping[ModuleRef | None, Tensor], kept: Mapping[ModuleRef | None, Tensor], weights: Weights,
) -> dict[Place, Tensor]:  # fmt: skip
    """The solve, once for all modules that read the same rows."""
    maps: dict[ModuleRef | None, Tensor] = {}
    found = {}
    for place, ref in refs.items():
        key = ref if ref in kept else None
        if key not in maps:
            G, H = weights.erase * erased[key], weights.keep * kept[key]
            lam = weights.lam_share * float((G + H).trace()) / len(G)
            maps[key] = solve_map(G, torch.zeros_like(G), H, lam)
        delta = deltas[place[0]][place[1]]
        assert isinstance(delta, LowRank)
        A = delta.A.double().flatten(1)
        found[place] = (A + A @ maps[key]).reshape(delta.A.shape)
    return found


def _grams(
    target: Target, deep: Sequence[ModuleRef], prompts: Sequence[str], starts: Sequence[int]
) -> dict[ModuleRef | None, Tensor]:
    """Sum of x x^T per prompt, (in, in) float64, of what each module reads, from a row on; None is the denoiser's."""
    sums: dict[ModuleRef | None, Tensor] = {}

    def add(key: ModuleRef | None, rows: Tensor) -> None:
        chosen = rows.cpu().double()[mask]
        part = chosen.T @ chosen / len(prompts)
        sums[key] = sums[key] + part if key in sums else part

    for begin in range(0, len(prompts), _CHUNK):
        tokens = target.tokens(list(prompts[begin : begin + _CHUNK]))
        first = torch.tensor(starts[begin : begin + _CHUNK])
        mask = torch.arange(target.info.tokens)[None] >= first[:, None]
        with _listening(target, deep, add):
            cond = target.encode_live(tokens)
        add(None, cond.embeds)
    return sums


@contextmanager
def _listening(
    target: Target, refs: Sequence[ModuleRef], add: Callable[[ModuleRef | None, Tensor], None]
) -> Iterator[None]:
    """Inside, every input (prompts, tokens, in) of these modules is passed on."""
    hooks = [
        target.module(ref).register_forward_pre_hook(lambda _module, given, key=ref: add(key, given[0])) for ref in refs
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
