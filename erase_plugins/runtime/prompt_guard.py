"""Guards in front of a pipeline or a language model. Weights are not touched: whoever goes round it meets them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from erase_plugins.artifacts.keyword_guard import KeywordGuard, Verdict
from erase_plugins.errors import RunRefused

_PROMPTS = ("prompt", "prompt_2", "prompt_3")


@dataclass
class Guarded:
    """Something that is called with prompts, behind guards; everything else is that of what stands behind.

    Attributes:
        call: the pipeline, or a function from a prompt to a text.
        guards: all are asked; the strictest wins.
        report: verdicts of the last call.
    """

    call: Callable[..., Any]
    guards: Sequence[KeywordGuard]
    report: list[Verdict] = field(default_factory=list)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.call, name)

    def __call__(self, *words: Any, **options: Any) -> Any:
        """Calls what is guarded.

        Raises:
            RunRefused: a guard that blocks was hit, or cannot read what is given (embeddings in the place of a prompt);
                nothing was called.
        """
        given = dict(zip(_PROMPTS, words, strict=False)) | options
        texts = [text for name in _PROMPTS for text in _texts(given.get(name))]
        blind = any(value is not None for name, value in given.items() if name.startswith("prompt_embeds"))
        self.report = [guard.check(text) for guard in self.guards for text in texts]
        self.report = [verdict for verdict in self.report if verdict.hit]
        if blind:
            self.report += [Verdict(False, guard.concept, guard.action, "not_checkable") for guard in self.guards]
        self._stop()
        found = self.call(*words, **options)
        if isinstance(found, str):  # a language model: the answer often has what the question has not
            asked = "\n".join(texts)
            self.report += [verdict for guard in self.guards for text in (found, f"{asked}\n{found}")
                            if (verdict := guard.check(text)).hit]  # fmt: skip
            self._stop()
        return found

    def _stop(self) -> None:
        for verdict in self.report:
            if verdict.action not in ("", "flag"):
                message = next((guard.message for guard in self.guards if guard.concept == verdict.concept), "")
                raise RunRefused(f"{message} ({verdict.reason})")


def answering(model: Any, tokenizer: Any, **settings: Any) -> Callable[[str], str]:
    """A function from a prompt to the text that a causal language model of transformers adds; guard it with `Guarded`.

    Args:
        model, tokenizer: of transformers.
        settings: for ``model.generate``.
    """

    def answer(prompt: str, **more: Any) -> str:
        inputs: Mapping[str, Any] = tokenizer(prompt, return_tensors="pt").to(model.device)
        made = model.generate(**inputs, **{**settings, **more})
        return str(tokenizer.decode(made[0][inputs["input_ids"].shape[1] :], skip_special_tokens=True))

    return answer


def _texts(value: Any) -> list[str]:
    if value is None:
        return []
    return [value] if isinstance(value, str) else [str(item) for item in value]
