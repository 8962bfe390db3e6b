"""A pipeline whose erase adapter is raised by the guard: off for ordinary prompts, on for those that hold a concept."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from erase_assoc_memory.guard import Encoder, Guard, GuardResult
from erase_plugins import apply
from erase_plugins.errors import RequestError


class GuardedPipeline:
    """Draws with a pipeline; the artifact has ``strength`` when the guard flags a prompt, and 0 otherwise.

    Use as a context manager; afterwards the pipeline is as it was, to the last bit.

    Args:
        pipe: diffusers pipeline.
        artifact: what erases; an artifact or its path.
        guard, encoder: see `guard.Guard`.
        strength: when flagged.

    Attributes:
        results: what the guard said of the last prompts.
    """

    def __init__(self, pipe: Any, artifact: Any, guard: Guard, encoder: Encoder, strength: float = 1.0) -> None:
        self.pipe, self.guard, self.encoder, self.strength = pipe, guard, encoder, strength
        self.results: list[GuardResult] = []
        self._applied = apply(pipe, artifact, 0.0)

    def __call__(self, prompt: str | Sequence[str], **options: Any) -> Any:
        """Calls the pipeline. A batch is drawn with the erasure if any of its prompts is flagged.

        Raises:
            RequestError: embeddings instead of a prompt, which the guard cannot read.
        """
        if options.get("prompt_embeds") is not None or prompt is None:
            raise RequestError("the guard reads text; give the prompt, not its embeddings")
        self.results = self.guard.check(self.encoder, [prompt] if isinstance(prompt, str) else list(prompt))
        self._applied.set_strength(self.strength if any(item.flagged for item in self.results) else 0.0)
        return self.pipe(prompt, **options)

    def close(self) -> None:
        """Takes the artifact off."""
        self._applied.remove()

    def __enter__(self) -> GuardedPipeline:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()
