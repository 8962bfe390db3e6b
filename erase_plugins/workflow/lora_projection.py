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
from erase_plugins.engine.prompt_templates import check_phrase
from erase_plugins.families.base import ModuleRef, Target
from erase_plugins.families.capabilities import DENOISER, TEXT
from erase_plugins.families.model import ModelSpec
from erase_plugins.workflow.lora_prompts import frames_for, kept_prompts

#: (component, key of an edit)
Place = tuple[str, str]
_CHUNK = 64


@dataclass(frozen=True)
class Weights:
    """How hard the concept's rows are pressed against those that stay.

    Attributes:
        erase: of the concept's rows, one prompt's worth.
        keep: of the kept rows, one prompt's worth.
        lam_share: ridge term, in units of the system's mean diagonal.
        surroundings: further prompts in which other words stand around the concept and around what is to be kept.
    """

    erase: float = 10.0
    keep: float = 1.0
    lam_share: float = 1e-4
    surroundings: int = 48


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


@torch.no_grad()
def project(
    target: Target, deltas: Mapping[str, Mapping[str, Delta]], phrases: Sequence[str], keep: Sequence[str],
    words: Sequence[str], lora: Callable[[], AbstractContextManager[object]], tries: Sequence[float] = (),
    weights: Weights | None = None,
) -> tuple[dict[Place, Tensor], list[dict[Place, Tensor]]]:  # fmt: skip
    """New "down" factors (rank, in) float64 of all modules that read text rows; those of the denoiser several times.

    Args:
        target: the base, without the LoRA.
        deltas: the LoRA.
        phrases: the concept and what means the same.
        keep: prompts or words that must stay as the LoRA has them.
        words: that stand around both in further prompts, see `lora_prompts`.
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
    frames = frames_for(words, weights.surroundings)
    named = [(frame.format(phrase), phrase) for phrase in phrases for frame in frames]
    prompts = [prompt for prompt, _ in named]
    starts = [token_rows(target, prompt, phrase)[0] for prompt, phrase in named]
    stay = kept_prompts(target, phrases)
    asked = [frame.format(word) for word in keep for frame in frames]
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
