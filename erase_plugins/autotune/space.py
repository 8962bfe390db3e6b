"""What may be searched: methods that fit the request, and those of their options that are declared with ``searched=``.

Nothing here knows a method by name: a method of an outside package joins by the same declaration, and one that declares
nothing takes part with its defaults.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import prod
from typing import Any

from erase_plugins.errors import EraseError, RequestError, Unsupported
from erase_plugins.hints import Sentence, joined, sentence_of
from erase_plugins.manager import get_manager
from erase_plugins.needs import changes_weights, lacks
from erase_plugins.options import OptionInfo, describe
from erase_plugins.types import Concept, EditPlan, EraseRequest
from erase_plugins.workflow.run import check_layouts, make_plan

#: what a concept may become besides the method's own choice, by kind
ANCHORS: Mapping[str, tuple[str, ...]] = {
    "object": ("", "object"), "style": ("", "art"), "person": ("", "person"), "explicit": ("", "a dressed person"),
}  # fmt: skip
#: how far a trained edit is weakened or strengthened
STRENGTHS = (0.6, 1.6)
#: a choice among options makes a start of its own if it is this much shorter than the defaults
_SHORTER = 3.0
#: names of what is searched besides options
METHOD, ANCHOR, ALSO, STRENGTH = "method", "anchor", "also", "strength"


@dataclass(frozen=True)
class Settings:
    """One point of the search.

    Attributes:
        method: its id.
        options: of the method, where they were searched.
        anchor: what the concept becomes; None lets the method decide.
        also: whether the method is told the other words for the concept that the user gave.
        strength: of the finished edit.
    """

    method: str
    options: Mapping[str, Any] = field(default_factory=dict)
    anchor: str | None = None
    also: bool = False
    strength: float = 1.0

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "method": self.method, "options": dict(self.options), "anchor": self.anchor, "also": self.also,
            "strength": self.strength,
        }  # fmt: skip

    def label(self, defaults: Mapping[str, Any]) -> str:
        """For people: the method, and what differs from these defaults of its options."""
        told = {name: value for name, value in self.options.items() if name not in defaults or value != defaults[name]}
        parts = [f"{name}={value:.3g}" if isinstance(value, float) else f"{name}={value}"
                 for name, value in told.items()]  # fmt: skip
        parts += [] if self.anchor is None else [f"to '{self.anchor}'"]
        parts += ["other words given"] if self.also else []
        parts += [] if self.strength == 1.0 else [f"strength {self.strength:g}"]
        return " ".join([self.method, *parts])


@dataclass(frozen=True)
class Start:
    """Where the search begins: a method's defaults, or a much shorter variant of it.

    Attributes:
        method: id of the method.
        fixed: options that make the variant; they stay as they are.
        defaults: values of all that is searched, name -> value.
        searched: descriptions of the searched options that are not fixed.
        anchors: that the method takes, its own choice (None) first.
        seconds: what the method says that it takes.
        also: whether the user gave other words that the method may be told.
        scales: whether the finished edit may be weakened or strengthened.
        steps: how many the method says that it does for the concept; 1 solves, more train.
    """

    method: str
    fixed: Mapping[str, Any]
    defaults: Mapping[str, Any]
    searched: tuple[OptionInfo, ...]
    anchors: tuple[str | None, ...]
    seconds: float
    also: bool = False
    scales: bool = False
    steps: int = 1

    @property
    def order(self) -> tuple[bool, float]:
        """Sorts what is solved before what trains, and the shorter one before the longer."""
        return self.steps > 1, self.seconds

    @property
    def name(self) -> str:
        """Method, and what is fixed."""
        return " ".join([self.method, *(f"{name}={value}" for name, value in self.fixed.items())])

    def label(self, settings: Settings) -> str:
        """For people: what of the settings differs from the method's defaults."""
        return settings.label(self.defaults)

    def suggest(self, trial: Any) -> Settings:
        """Settings that an Optuna trial proposes for this start."""
        options = dict(self.fixed)
        for item in self.searched:
            options[item.name] = _ask(trial, f"{self.method}.{item.name}", item, self.defaults[item.name])
        anchor, also, strength = None, False, 1.0
        if len(self.anchors) > 1:
            anchor = trial.suggest_categorical(f"{self.method}.{ANCHOR}", self.anchors)
        if self.also:
            also = trial.suggest_categorical(f"{self.method}.{ALSO}", (False, True))
        if self.scales:
            strength = trial.suggest_float(f"{self.method}.{STRENGTH}", *STRENGTHS, step=0.1)
        return Settings(self.method, options, anchor, also, round(strength, 3))

    def first_params(self) -> dict[str, Any]:
        """What its first trial tries, as parameters of an Optuna trial: the defaults."""
        found = {f"{self.method}.{name}": self.defaults[name] for name in (item.name for item in self.searched)}
        return {
            METHOD: self.method, **found, f"{self.method}.{ANCHOR}": None, f"{self.method}.{ALSO}": False,
            f"{self.method}.{STRENGTH}": 1.0,
        }  # fmt: skip


def _ask(trial: Any, name: str, item: OptionInfo, default: Any) -> Any:
    """A value of an option; two numbers of a number's option are a range, widened to hold the default."""
    if not is_range(item):
        return trial.suggest_categorical(name, tuple(dict.fromkeys((default, *item.searched))))
    low, high = (edge(*item.searched, default) for edge in (min, max))
    log = low > 0 and high / low >= 10
    if item.type.startswith("int"):
        return trial.suggest_int(name, int(low), int(high), log=log)
    return trial.suggest_float(name, float(low), float(high), log=log)


def is_range(item: OptionInfo) -> bool:
    """Whether what is searched is everything between two numbers."""
    numbers = [value for value in item.searched if isinstance(value, int | float) and not isinstance(value, bool)]
    return len(item.searched) == len(numbers) == 2 and item.type.split()[0] in ("int", "float")


def request_of(base: EraseRequest, settings: Settings, also: Sequence[str]) -> EraseRequest:
    """The request that a point of the search stands for."""
    (concept,) = base.concepts
    anchor = concept.anchor if settings.anchor is None else settings.anchor
    item: Concept = replace(concept, anchor=anchor, prompts=tuple(also) if settings.also else concept.prompts)
    return replace(base, forget=(item,), method=settings.method, options=dict(settings.options))


def find_starts(
    base: EraseRequest, info: Any, methods: Sequence[str], anchors: Sequence[str], also: Sequence[str],
    layouts: Sequence[str] = (), room: int | None = None,
) -> tuple[list[Start], dict[str, str]]:  # fmt: skip
    """All starts in the order in which they are tried, and why other methods cannot take part; loads no weights.

    Args:
        base: model, concept, what is kept, seed; the method in it does not matter.
        info: what is known of the model.
        methods: ids to search among; if empty all registered ones but guards, which remove nothing.
        anchors: what the concept may become; the user's words, or `ANCHORS` of its kind.
        also: other words for the concept.
        layouts: file layouts that each have to hold the edit.
        room: bytes of the device beside the model, as `room_of` gives them; None if there is no telling.

    Raises:
        UnknownName: a method that is not registered.
        RequestError: no method fits.
    """
    manager = get_manager()
    wanted = [manager.method(name) for name in methods] or [entry.item for entry in manager.methods()]
    starts: list[Start] = []
    reasons: dict[str, str] = {}
    for method in dict.fromkeys(wanted):
        if base.concepts[0].kind not in method.kinds:
            reasons[method.id] = f"does not claim concepts of the kind {base.concepts[0].kind}"
            continue
        if missing := lacks(method, info):
            reasons[method.id] = f"needs {', '.join(missing)}"
            continue
        if not (methods or changes_weights(method)):  # a refused prompt would look like the best erasure of all
            reasons[method.id] = "a guard, removes nothing; searched where 'methods' names it"
            continue
        try:
            starts += _starts_of(method, base, info, anchors, also, layouts, room)
        except EraseError as error:
            reasons[method.id] = sentence_of(error)
    if not starts:
        told = joined("; ", [Sentence(f"{name}: ", text) for name, text in reasons.items()])
        raise RequestError(f"no method can be searched for '{base.concepts[0].text}' on {info.model}: ", told)
    return sorted(starts, key=lambda item: item.order), reasons


def _starts_of(
    method: Any, base: EraseRequest, info: Any, anchors: Sequence[str], also: Sequence[str], layouts: Sequence[str],
    room: int | None = None,
) -> list[Start]:  # fmt: skip
    def planned(options: Mapping[str, Any], anchor: str | None = None) -> EditPlan:
        plan = make_plan(request_of(base, Settings(method.id, options, anchor), ()), info)
        for name in layouts:
            check_layouts(plan, [name], info.family)
        return plan

    usual = planned({})
    if base.concepts[0].anchor is not None:  # the user has said what it becomes
        anchors = ()
    taken = [None, *(anchor for anchor in anchors if _works(planned, anchor))]
    searched = [item for item in describe(method.Options) if item.searched]
    variants: list[tuple[dict[str, Any], EditPlan]] = [({}, usual)]
    for item in searched:
        for value in () if is_range(item) else item.searched:
            if value == usual.options[item.name]:
                continue
            other = planned({item.name: value})
            if _SHORTER * _length(other) < _length(usual):
                variants[0][0][item.name] = usual.options[item.name]
                variants.append(({item.name: value}, other))
    fitting = [(fixed, plan) for fixed, plan in variants if room is None or (plan.memory_bytes or 0) <= room]
    if not fitting:
        raise Unsupported(
            f"needs about {(usual.memory_bytes or 0) / 2**30:.1f} GiB beside the model, and {base.device} has about "
            f"{max(room or 0, 0) / 2**30:.1f}"
        )
    return [
        Start(
            method.id, fixed, {item.name: plan.options[item.name] for item in searched if item.name not in fixed},
            tuple(item for item in searched if item.name not in fixed), tuple(taken), plan.seconds or 0.0, bool(also),
            # what is solved together with others later stays as it was solved; its own scales are among its options
            "contextmap" not in method.produces, plan.steps or 1,
        )
        for fixed, plan in fitting
    ]  # fmt: skip


def room_of(base: EraseRequest, info: Any) -> int | None:
    """Bytes that an accelerator has beside the model's weights; None where nothing tells how much memory there is."""
    import torch

    if not (base.device.startswith("cuda") and torch.cuda.is_available()):
        return None
    total = torch.cuda.get_device_properties(torch.device(base.device)).total_memory
    each = torch.empty((), dtype=getattr(torch, base.dtype, torch.float32)).element_size()
    return int(total) - each * (sum(prod(ref.shape) for ref in info.refs) + info.family.other_values(info))


def _length(plan: EditPlan) -> float:
    """Steps, which are the same on every machine, or seconds where a method names none."""
    return plan.steps or plan.seconds or 0.0


def _works(planned: Any, anchor: str) -> bool:
    try:
        planned({}, anchor)
    except EraseError:
        return False
    return True
