"""A filter of finished pictures, as an outside package would bring one along: any image classifier, any pipeline.

The last resort of guards: whatever words were used, the picture itself is looked at before anybody sees it. It needs a
classifier that knows the concept, costs its passes, and is as right as it is. Nothing is removed from the weights.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from erase_plugins.errors import RequestError, Unsupported


@dataclass
class ImageFilter:
    """What is looked for.

    Attributes:
        score: pictures (PIL) -> how surely each shows the concept, 0..1.
        threshold: from which score a picture is not shown.
        seen: scores of all pictures so far.
    """

    score: Callable[[Sequence[Any]], Sequence[float]]
    threshold: float = 0.5
    seen: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        if not 0.0 < self.threshold <= 1.0:
            raise RequestError(f"the threshold of a picture filter is above 0 and at most 1, not {self.threshold:g}")

    def shown(self, pictures: Sequence[Any]) -> list[Any]:
        """The pictures, black ones of the same size in the place of those that are hit."""
        from PIL import Image

        scores = [float(value) for value in self.score(pictures)]
        if len(scores) != len(pictures):
            raise RequestError(f"the classifier gave {len(scores)} scores for {len(pictures)} pictures")
        self.seen += scores
        return [
            picture if score < self.threshold else Image.new("RGB", picture.size)
            for picture, score in zip(pictures, scores, strict=True)
        ]


@contextmanager
def filtered(pipe: Any, looks: ImageFilter) -> Iterator[ImageFilter]:
    """Inside, no picture of a pipeline of diffusers leaves it that the filter hits; only PIL pictures do at all.

    Raises:
        Unsupported: the pipeline has no image processor; inside, when latents or tensors are asked for.
    """
    processor = getattr(pipe, "image_processor", None)
    if processor is None:
        raise Unsupported("this pipeline has no image processor through which its pictures come")
    own, before = processor.postprocess, vars(processor).get("postprocess")

    def postprocess(image: Any, output_type: str = "pil", *arguments: Any, **options: Any) -> list[Any]:
        if output_type != "pil":
            raise Unsupported(f"a filter looks at pictures, not at output_type='{output_type}'; ask for 'pil'")
        return looks.shown(own(image, "pil", *arguments, **options))

    processor.postprocess = postprocess
    try:
        yield looks
    finally:
        if before is None:
            del processor.postprocess
        else:
            processor.postprocess = before
