"""The built-in types of stages: what each of them puts in front of a model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from erase_plugins.artifacts.policy import numbers
from erase_plugins.errors import CorruptArtifact, Unsupported
from erase_plugins.families.capabilities import DENOISER, LANGUAGE, TEXT
from erase_plugins.families.model import CROSS_ATTENTION
from erase_plugins.hookspecs import hookimpl
from erase_plugins.runtime.guardrails.watch import DONE, ENCODE, GENERATE, End, Placed, Placing

if TYPE_CHECKING:
    from erase_plugins.runtime.guardrails.looking import Looker


class Looking:
    """A type of stage that looks at prompts, and at the answers of language models.

    ``looker`` gives what looks at one text (`erase_plugins.runtime.guardrails.looking.Looker`) for a `Placing`.
    """

    roles = frozenset({TEXT, LANGUAGE})

    def __init__(
        self, id_: str, title: str, looker: Callable[[Placing], Looker], measured: bool = False
    ) -> None:  # fmt: skip
        self.id, self.title, self.looker, self.measured = id_, title, looker, measured

    def attach(self, placing: Placing) -> list[Placed]:
        """In front of the prompts of a pipeline, or around what a language model says."""
        from erase_plugins.runtime.guardrails.language import Answers
        from erase_plugins.runtime.guardrails.looking import PromptStage

        seer, host = self.looker(placing), placing.target.host
        if LANGUAGE in placing.target.info.roles:
            answers = Answers(placing.policy, seer, placing.target.tokenizer, placing.strength)
            return [(host, GENERATE, answers)]
        return [(host, ENCODE, PromptStage(placing.policy, seer, placing.strength))]


class Refusing:
    """A text in front of every question to a language model."""

    id, title, roles = "refusal-prompt", "A request to refuse, in front of every question", frozenset({LANGUAGE})

    def attach(self, placing: Placing) -> list[Placed]:
        """Around what the model says."""
        from erase_plugins.runtime.guardrails.language import Prefix

        made = Prefix(text_of(placing.stage), placing.target.tokenizer, placing.strength)
        return [(placing.target.host, GENERATE, made)]


class Negative:
    """The concept in every negative prompt."""

    id, title, roles = "negative-prompt", "The concept in every negative prompt", frozenset({TEXT})

    def attach(self, placing: Placing) -> list[Placed]:
        """In front of the prompts of a pipeline."""
        from erase_plugins.runtime.guardrails.steering import NegativePrompt

        return [(placing.target.host, ENCODE, NegativePrompt(text_of(placing.stage), placing.strength))]


class Steering:
    """A type of stage that steers a picture in the making, and is told when that is done."""

    roles = frozenset({TEXT})

    def __init__(self, id_: str, title: str, make: Callable[[Placing], Any], alone: bool = True) -> None:
        self.id, self.title, self.make, self.alone = id_, title, make, alone

    def attach(self, placing: Placing) -> list[Placed]:
        """In front of the prompts of a pipeline, and of its end.

        Raises:
            Unsupported: one that has to be alone is there already.
        """
        host, made = placing.target.host, self.make(placing)
        found = getattr(vars(host).get(ENCODE), "stages", ())
        if self.alone and any(type(item) is type(made) for item in found):
            made.detach()
            raise Unsupported(f"one guard '{self.id}' is in force already; make one for all concepts together")
        return [(host, ENCODE, made), (host, DONE, End(made.end))]


def _keyword(placing: Placing) -> Looker:
    from erase_plugins.runtime.guardrails.looking import by_keyword

    return by_keyword(placing.policy, placing.stage, placing.key)


def _embedding(placing: Placing) -> Looker:
    from erase_plugins.runtime.guardrails.looking import ByEmbedding

    return ByEmbedding(placing.policy, placing.stage, placing.target)


def _sld(placing: Placing) -> Any:
    from erase_plugins.runtime.guardrails.steering import SafeLatentDiffusion, SafetySettings

    warmup, *settings = numbers(placing.stage, ("warmup", "scale", "threshold", "momentum", "decay"))
    chosen, target = SafetySettings(int(warmup), *settings), placing.target
    return SafeLatentDiffusion(text_of(placing.stage), chosen, target, target.network(DENOISER), placing.strength)


def _safree(placing: Placing) -> Any:
    from erase_plugins.runtime.guardrails.safree import CURVES, Safree

    stage, target = placing.stage, placing.target
    encoders = target.info.components(TEXT)
    if tuple(encoders) != ("text_encoder",):
        raise Unsupported(f"the guard 'safree' knows models with one text encoder; this one has {len(encoders)}")
    phrases, alpha, curve = stage.get("phrases"), stage.get("alpha"), CURVES.get(str(stage.get("curve")))
    if not (isinstance(phrases, list) and phrases and isinstance(alpha, float) and curve):
        raise CorruptArtifact("the guard 'safree' has no usable phrases or settings")
    return Safree([str(text) for text in phrases], alpha, curve, target, target.network(DENOISER), placing.strength)


def _nag(placing: Placing) -> Any:
    from erase_plugins.runtime.guardrails.attention import NormalisedGuidance, NormalisedSettings

    settings = NormalisedSettings(*numbers(placing.stage, ("scale", "tau", "alpha")))
    return NormalisedGuidance(text_of(placing.stage), settings, _attending(placing), placing.strength)


def _negpip(placing: Placing) -> Any:
    from erase_plugins.runtime.guardrails.attention import NegativeInPrompt

    (weight,) = numbers(placing.stage, ("weight",))
    return NegativeInPrompt(text_of(placing.stage), weight, _attending(placing), placing.strength)


def _attending(placing: Placing) -> Any:
    if not placing.target.info.supports(CROSS_ATTENTION):
        raise Unsupported(
            f"the guard '{placing.stage['type']}' acts on cross-attention, and {placing.target.info.model} has none of "
            "its own"
        )
    return placing.target


def text_of(stage: Mapping[str, Any]) -> str:
    """The field ``text`` of a stage.

    Raises:
        CorruptArtifact: it has none.
    """
    value = stage.get("text")
    if not isinstance(value, str) or not value:
        raise CorruptArtifact(f"the guard '{stage['type']}' has no text")
    return value


@hookimpl
def erase_guard_stages() -> list[Any]:
    return [
        Looking("keyword", "Looks for words in other spellings", _keyword),
        Looking("embedding", "Looks at the meaning that the model gives a text", _embedding, measured=True),
        Refusing(),
        Negative(),
        Steering("sld", "Safe latent diffusion", _sld),
        Steering("safree", "SAFREE: cleaned rows in the first steps", _safree, alone=False),
        Steering("nag", "Normalised attention guidance", _nag),
        Steering("negpip", "Negative weights in the prompt", _negpip),
    ]
