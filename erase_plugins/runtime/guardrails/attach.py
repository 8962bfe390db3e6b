"""The guards of an artifact in front of a model: which stage stands where. Nothing is written to any weight."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from erase_plugins.artifacts.fingerprint import Fingerprint
from erase_plugins.artifacts.manifest import Manifest
from erase_plugins.artifacts.policy import numbers, policies
from erase_plugins.errors import BaseMismatch, CorruptArtifact, Unsupported
from erase_plugins.families.capabilities import DENOISER, LANGUAGE, TEXT, reads_prompts
from erase_plugins.families.model import CROSS_ATTENTION
from erase_plugins.runtime.guardrails import attention, language, looking, safree, steering
from erase_plugins.runtime.guardrails.watch import AttachedGuard, Quiet, watch

if TYPE_CHECKING:
    from torch import Tensor

ENCODE, GENERATE, DONE = "encode_prompt", "generate", "maybe_free_model_hooks"
#: stages that were made with the model's own numbers
_MEASURED = frozenset({"embedding"})


def stages_of(host: Any, name: str = ENCODE) -> tuple[Any, ...]:
    """What stands in front of the prompts of a pipeline and is not switched off, from the outermost inwards.

    Of a language model in front of its questions, with "generate" for ``name``.
    """
    stages = getattr(vars(host).get(name), "stages", ())
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
        for name in (ENCODE, DONE):
            for stage in getattr(vars(host).get(name), "stages", ()):
                watched = watch(other, name)
                watched.enter(stage)
                taken.append((watched, stage))
        yield
    finally:
        for watched, stage in reversed(taken):
            watched.leave(stage)


class End(Quiet):
    """Tells a stage that the pipeline has finished."""

    def __init__(self, tell: Callable[[], None]) -> None:
        self.tell = tell

    def before(self, given: dict[str, Any]) -> dict[str, Any]:
        """The arguments as they are."""
        self.tell()
        return given


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
        CorruptArtifact: a stage that is unknown or damaged.
    """
    done: list[AttachedGuard] = []
    try:
        for policy in policies(manifest):
            for stage in policy["stages"]:
                check_stage(manifest, stage, target, any_base)
                done += _attached(policy, stage, target, strength, key)
    except BaseException:
        for item in reversed(done):
            item.detach()
        raise
    return done


def _attached(
    policy: Mapping[str, Any], stage: Mapping[str, Any], target: Any, strength: float, key: bytes
) -> list[AttachedGuard]:
    host, kind = target.host, stage["type"]
    if LANGUAGE in target.info.roles:
        tokenizer = target.tokenizer
        if kind == "refusal-prompt":
            made: Any = language.Prefix(_text(stage, "text"), tokenizer, strength)
        elif kind in ("keyword", "embedding"):
            made = language.Answers(policy, looking.looker(policy, stage, target, key), tokenizer, strength)
        else:
            raise Unsupported(f"the guard '{kind}' acts on pictures, and this is a language model; use keyword-guard")
        return [AttachedGuard(watch(host, GENERATE), made)]
    if TEXT not in target.info.roles or not hasattr(host, ENCODE):
        raise Unsupported(f"{target.info.model} has no prompts that the guard '{kind}' could look at")
    if kind in ("keyword", "embedding"):
        made = looking.PromptStage(policy, looking.looker(policy, stage, target, key), strength)
    elif kind == "negative-prompt":
        made = steering.NegativePrompt(_text(stage, "text"), strength)
    elif kind in _STEERING:
        return _steered(kind, stage, target, strength)
    elif kind == "refusal-prompt":
        raise Unsupported("the guard 'refusal-prompt' speaks to a language model, and this draws; use keyword-guard")
    else:
        raise CorruptArtifact(f"the guard has a stage '{kind[:40]}' that this version does not know; update it")
    return [AttachedGuard(watch(host, ENCODE), made)]


def _steered(kind: str, stage: Mapping[str, Any], target: Any, strength: float) -> list[AttachedGuard]:
    host = target.host
    made = _STEERING[kind](stage, target, strength)
    found = getattr(vars(host).get(ENCODE), "stages", ())
    if kind != "safree" and any(type(item) is type(made) for item in found):
        made.detach()
        raise Unsupported(f"one guard '{kind}' is in force already; make one for all concepts together")
    return [AttachedGuard(watch(host, ENCODE), made), AttachedGuard(watch(host, DONE), End(made.end))]


def _sld(stage: Mapping[str, Any], target: Any, strength: float) -> Any:
    warmup, *settings = numbers(stage, ("warmup", "scale", "threshold", "momentum", "decay"))
    chosen = steering.SafetySettings(int(warmup), *settings)
    return steering.SafeLatentDiffusion(_text(stage, "text"), chosen, target, target.network(DENOISER), strength)


def _safree(stage: Mapping[str, Any], target: Any, strength: float) -> Any:
    encoders = target.info.components(TEXT)
    if tuple(encoders) != ("text_encoder",):
        raise Unsupported(f"the guard 'safree' knows models with one text encoder; this one has {len(encoders)}")
    phrases, alpha, curve = stage.get("phrases"), stage.get("alpha"), safree.CURVES.get(str(stage.get("curve")))
    if not (isinstance(phrases, list) and phrases and isinstance(alpha, float) and curve):
        raise CorruptArtifact("the guard 'safree' has no usable phrases or settings")
    return safree.Safree([str(text) for text in phrases], alpha, curve, target, target.network(DENOISER), strength)


def _nag(stage: Mapping[str, Any], target: Any, strength: float) -> Any:
    settings = attention.NormalisedSettings(*numbers(stage, ("scale", "tau", "alpha")))
    return attention.NormalisedGuidance(_text(stage, "text"), settings, _attending(stage, target), strength)


def _negpip(stage: Mapping[str, Any], target: Any, strength: float) -> Any:
    (weight,) = numbers(stage, ("weight",))
    return attention.NegativeInPrompt(_text(stage, "text"), weight, _attending(stage, target), strength)


#: what steers a picture in the making
_STEERING: dict[str, Callable[[Mapping[str, Any], Any, float], Any]] = {
    "sld": _sld, "safree": _safree, "nag": _nag, "negpip": _negpip,
}  # fmt: skip


def _attending(stage: Mapping[str, Any], target: Any) -> Any:
    if not target.info.supports(CROSS_ATTENTION):
        raise Unsupported(
            f"the guard '{stage['type']}' acts on cross-attention, and {target.info.model} has none of its own"
        )
    return target


def _text(stage: Mapping[str, Any], name: str) -> str:
    value = stage.get(name)
    if not isinstance(value, str) or not value:
        raise CorruptArtifact(f"the guard '{stage['type']}' has no text")
    return value


def check_stage(manifest: Manifest, stage: Mapping[str, Any], target: Any, any_base: bool) -> None:
    """Refuses a stage that was made with the numbers of another text encoder or language model.

    Raises:
        BaseMismatch: names it.
    """
    if stage["type"] not in _MEASURED:
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
