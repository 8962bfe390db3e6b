"""The guards of an artifact in front of a model: which stage stands where. Nothing is written to any weight."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from erase_plugins.artifacts.fingerprint import Fingerprint
from erase_plugins.artifacts.manifest import Manifest
from erase_plugins.artifacts.policy import policies
from erase_plugins.errors import BaseMismatch, CorruptArtifact, EraseError, PluginError, UnknownName, Unsupported
from erase_plugins.families.capabilities import DENOISER, LANGUAGE, TEXT, reads_prompts
from erase_plugins.late import FUNCTIONS
from erase_plugins.plain_text import first_line
from erase_plugins.runtime.guardrails.watch import ENCODE, GENERATE, AttachedGuard, Placed, Placing, Quiet, Watch, watch

if TYPE_CHECKING:
    from torch import Tensor


def stages_of(host: Any, name: str = ENCODE) -> tuple[Any, ...]:
    """What stands in front of the prompts of a pipeline and is not switched off, from the outermost inwards.

    Of a language model in front of its questions, with "generate" for ``name``. A model without a host has nothing.
    """
    stages = () if host is None else getattr(vars(host).get(name), "stages", ())
    return tuple(item for item in stages if item.strength != 0.0)


def refused(host: Any, text: str) -> bool:
    """Whether a guard in front of a pipeline would let nothing be drawn of this prompt."""
    return any(stage.looks and stage.refuses(text) for stage in stages_of(host))


def said(host: Any, ids: Tensor, mask: Tensor, make: Callable[[Tensor, Tensor], Tensor]) -> tuple[Tensor, list[bool]]:
    """What a language model says through the guards around its ``generate``, and which answers they refused.

    Args:
        host: the model that guards stand in front of.
        ids, mask: (n, tokens) of the questions, and which of them are no padding.
        make: what it says of ids and mask, which guards may have made longer, with the question in front.

    Returns:
        (n, tokens + more): behind the questions what somebody reads who asks; and one flag for each.
    """
    stages, blocked = stages_of(host, GENERATE), [False] * len(ids)

    def through(place: int, given: dict[str, Any]) -> Tensor:
        if place == len(stages):
            return make(given["input_ids"], given["attention_mask"]).cpu()
        stage = stages[place]
        found: Tensor = stage.after(given, through(place + 1, stage.before(given)))
        for row, hit in enumerate(getattr(stage, "refused", ())):
            blocked[row] |= hit
        return found

    return through(0, {"input_ids": ids, "attention_mask": mask}), blocked


@contextmanager
def carried(host: Any, other: Any) -> Iterator[None]:
    """The guards of a pipeline in front of another one on the same parts too, for the length of a with-block."""
    taken = []
    try:
        for owner, name, stages in _watched(host, other):
            for stage in stages:
                watched = watch(owner, name)
                watched.enter(stage)
                taken.append((watched, stage))
        yield
    finally:
        for watched, stage in reversed(taken):
            watched.leave(stage)


def _watched(host: Any, other: Any) -> list[tuple[Any, str, list[Any]]]:
    """(object, name of its method, stages) in ``other`` for all that stands around functions of ``host`` and its parts.

    What both have in common is guarded already.
    """
    owners = [(host, other), *((part, getattr(other, name, None)) for name, part in vars(host).items())]
    return [
        (mine, name, list(item.stages)) for own, mine in owners if own is not mine and hasattr(own, "__dict__")
        for name, item in vars(own).items() if isinstance(item, Watch) and hasattr(mine, name)
    ]  # fmt: skip


def component_of(target: Any) -> str:
    """The part of a model that a guard is noted on: its denoiser, or the language model itself."""
    role = LANGUAGE if LANGUAGE in target.info.roles else DENOISER
    return str(target.info.components(role)[0])


def attach_guards(
    manifest: Manifest, target: Any, strength: float, key: bytes = b"", any_base: bool = False
) -> list[AttachedGuard]:
    """Puts the guards of a manifest in front of a model; all or none.

    Raises:
        Unsupported: nothing on this model can be guarded so.
        BaseMismatch: the guard was calibrated on another text encoder or language model.
        RequestError: hashed keywords without their key.
        CorruptArtifact: a stage that is damaged, or that nothing installed knows.
        PluginError: a stage of another package failed.
    """
    done: list[AttachedGuard] = []
    try:
        for policy in policies(manifest):
            for stage in policy["stages"]:
                kind = kind_of(stage)
                check_stage(manifest, kind, target, any_base)
                _check_role(kind, target)
                for owner, name, made in _placed(kind, Placing(policy, stage, target, strength, key)):
                    done.append(AttachedGuard(watch(owner, name), made))
    except BaseException:
        for item in reversed(done):
            item.detach()
        raise
    return done


def kind_of(stage: Mapping[str, Any]) -> Any:
    """The registered type of a stage (`erase_plugins.protocols.GuardStage`).

    Raises:
        CorruptArtifact: nothing installed knows it.
    """
    try:
        return FUNCTIONS["guard_stage"](stage["type"])
    except UnknownName as error:
        raise CorruptArtifact(
            f"the guard has a stage '{stage['type'][:40]}' that nothing installed knows; install the package that "
            "brings it, or update this one"
        ) from error


def _check_role(kind: Any, target: Any) -> None:
    speaks = LANGUAGE in target.info.roles
    if speaks and LANGUAGE not in kind.roles:
        raise Unsupported(f"the guard '{kind.id}' acts on pictures, and this is a language model; use keyword-guard")
    if not speaks and (TEXT not in target.info.roles or not hasattr(target.host, ENCODE)):
        raise Unsupported(f"{target.info.model} has no prompts that the guard '{kind.id}' could look at")
    if not speaks and TEXT not in kind.roles:
        raise Unsupported(f"the guard '{kind.id}' speaks to a language model, and this draws; use keyword-guard")


def _placed(kind: Any, placing: Placing) -> list[Placed]:
    found: list[Placed] = []
    try:
        with blamed(kind):
            found += kind.attach(placing)
            for owner, name, made in found:
                if not (callable(getattr(owner, name)) and isinstance(made, Quiet)):
                    raise TypeError(f"{type(made).__name__} around {name} is no stage around a function")
    except PluginError:
        for item in found:
            if isinstance(item, tuple) and isinstance(item[-1], Quiet):
                item[-1].detach()
        raise
    return found


@contextmanager
def blamed(kind: Any) -> Iterator[None]:
    """What a type of stage raises inside of the with-block is told as its fault.

    Raises:
        PluginError: names it.
    """
    try:
        yield
    except EraseError:
        raise
    except Exception as error:
        raise PluginError(f"the guard stage '{kind.id}' failed: {first_line(error)}") from error


def check_stage(manifest: Manifest, kind: Any, target: Any, any_base: bool) -> None:
    """Refuses a stage that was made with the numbers of another text encoder or language model.

    Raises:
        BaseMismatch: names it.
    """
    if not getattr(kind, "measured", False):
        return
    stored, found = manifest.base.get("fingerprint") or {}, target.fingerprint()
    for component in target.info.components(reads_prompts(target.info)):
        if component not in stored or component not in found:
            continue
        result = Fingerprint.from_dict(stored[component]).compare(found[component], None)
        if result.verdict != "same" and not (result.verdict == "weights" and any_base):
            raise BaseMismatch(
                f"the guard '{manifest.name}' was calibrated on another {component} than this model's ({result}); "
                "make it again on this model; nothing was changed"
            )
