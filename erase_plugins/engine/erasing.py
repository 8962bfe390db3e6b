"""What training methods that erase by a concept's prompts share: the prompts and what each becomes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from erase_plugins.errors import RequestError
from erase_plugins.hints import ANOTHER_TO, Hint
from erase_plugins.options import resolve
from erase_plugins.types import EraseRequest

if TYPE_CHECKING:
    from erase_plugins.families.base import TargetInfo


#: name of presets for the training of full weights: ``[full]``, ``[MODEL.full]``, ``[full.KIND]``
FULL = "full"


@dataclass(frozen=True)
class ErasePrompts:
    """Prompts to train on, one entry per trajectory in every list.

    Attributes:
        erased: prompt with the concept.
        neutral: what it becomes; empty prompt where the user named nothing.
        owners: number of the concept.
    """

    erased: list[str]
    neutral: list[str]
    owners: list[int]

    @classmethod
    def of(cls, request: EraseRequest, templates: Sequence[str], trajectories: int) -> ErasePrompts:
        """At least ``trajectories`` prompts per concept, and every template with every phrase at least once."""
        found = cls([], [], [])
        for number, concept in enumerate(request.concepts):
            phrases = (concept.text, *concept.prompts)
            once = [template.format(phrase) for template in templates for phrase in phrases]
            count = max(trajectories, len(once))
            found.erased.extend((once * -(-count // len(once)))[:count])
            found.neutral.extend([concept.anchor or ""] * count)
            found.owners.extend([number] * count)
        return found


def preset_names(request: EraseRequest, info: TargetInfo, parameters: str = "lora") -> tuple[str, ...]:
    """Names of the presets that apply, most specific first: kind of model with kind of concept, model, concept.

    Where full weights are trained, presets for them come before all others: of the model, of the concept, any.
    """
    kind = request.concepts[0].kind
    names = (*(f"{model} {kind}" for model in info.profiles), *info.profiles, kind)
    if parameters != FULL:
        return names
    return (*(f"{model} {FULL}" for model in info.profiles), f"{FULL} {kind}", FULL, *names)


def names_of_all(request: EraseRequest, info: TargetInfo) -> tuple[str, ...]:
    """Names of the presets for methods that treat all concepts together: model, then every kind that is asked for."""
    return (*info.profiles, *sorted({concept.kind for concept in request.concepts}))


def resolved(options: type, request: EraseRequest, info: TargetInfo) -> Any:
    """Options of a training method: what was given, then presets, then defaults; ``lr=none`` is as good as not given.

    Raises:
        UnknownName, RequestError: see `erase_plugins.options.resolve`.
    """
    given = {
        name: value for name, value in request.options.items()
        if not (name == "lr" and str(value).lower() in ("none", "auto"))
    }  # fmt: skip
    found = resolve(options, given, preset_names(request, info))
    parameters = getattr(found, "parameters", "")
    return resolve(options, given, preset_names(request, info, parameters)) if parameters == FULL else found


def all_phrases(request: EraseRequest) -> list[str]:
    """Every phrase that stands for an erased concept."""
    return [phrase for concept in request.concepts for phrase in (concept.text, *concept.prompts)]


def check_becomes(request: EraseRequest) -> None:
    """Refuses a concept that would become itself.

    Raises:
        RequestError: names it.
    """
    for concept in request.concepts:
        if (concept.anchor or "").strip().lower() == concept.text.strip().lower():
            raise RequestError(f"'{concept.text}' would become itself; give ", ANOTHER_TO)


def check_no_anchor(request: EraseRequest) -> None:
    """Refuses a guide, for methods that always erase towards the empty prompt.

    Raises:
        RequestError: names the first concept that has one.
    """
    anchored = [concept.text for concept in request.concepts if concept.anchor is not None]
    if anchored:
        raise RequestError(
            f"{request.method} erases towards the empty prompt and takes ",
            Hint("to", before="no"),
            f" ({anchored[0]}); leave it out, or use uce",
        )
