"""Which requests methods that forget texts refuse, before any text is read. No torch at import."""

from __future__ import annotations

from typing import TYPE_CHECKING

from erase_plugins.errors import RequestError, Unsupported
from erase_plugins.families.capabilities import LANGUAGE
from erase_plugins.hints import Hint

if TYPE_CHECKING:
    from erase_plugins.families.base import ModelSpec
    from erase_plugins.types import EraseRequest

#: said in place of what is forgotten where nobody says otherwise
REFUSAL = "I do not know."


def check_texts(method: str, request: EraseRequest, info: ModelSpec, answers: bool) -> None:
    """Refuses what a method cannot do with a request before any text is read.

    Args:
        method: its id.
        request, info: what is asked, of which model.
        answers: whether it puts something in place of what is forgotten.

    Raises:
        Unsupported: the model is quantised.
        RequestError: something to forget without texts, a name to keep, or an answer that nobody would give.
    """
    config = info.configs[info.components(LANGUAGE)[0]]
    if config.get("quantization_config"):
        kind = config["quantization_config"].get("quant_method", "")
        raise Unsupported(
            f"{info.model} is quantised{f' ({kind})' if kind else ''}; forget on the model it was made from, in "
            "float32, float16 or bfloat16, and measure again on the quantised one"
        )
    if not answers and (anchored := [item for item in request.forget if item.anchor is not None]):
        raise RequestError(
            f"{method} puts nothing in place of {anchored[0].name}; ",
            Hint("to", before="leave", after="out"),
            ", or use idk",
        )
    if missing := [item.name for item in request.forget if item.data is None]:
        raise RequestError(
            f"{method} forgets texts, and '{missing[0]}' comes without any; give them: ",
            Hint("forget", "facts.jsonl"),
            ", with prompt and completion in every line; for a person the command 'erase-plugins texts' asks the model "
            "itself for them",
        )
    if request.preserve:
        raise RequestError(
            f"{method} retains texts from data; give ",
            Hint("retain", "FILE.jsonl"),
            " instead of ",
            Hint("keep", "TEXT"),
        )
