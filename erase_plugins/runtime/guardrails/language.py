"""Guards around ``generate``: what is asked and what is answered is looked at, a system message is set before."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from erase_plugins.errors import RunRefused, Unsupported
from erase_plugins.runtime.guardrails.looking import Looker, remembering
from erase_plugins.runtime.guardrails.watch import Quiet

_WHOLE = (
    "a guard looks at whole answers, so this model cannot stream or return a dictionary while it is in force; leave "
    "streamer and return_dict_in_generate out"
)


def asked(given: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
    """Token numbers and mask of a call of ``generate``.

    Raises:
        RunRefused: there are none (embeddings in their place), so no guard can read them.
        Unsupported: a form of answer that a guard cannot look at before it is given.
    """
    ids = given.get("input_ids")
    ids = given.get("inputs") if ids is None else ids
    if ids is None or given.get("inputs_embeds") is not None:
        raise RunRefused("a guard cannot read inputs_embeds; give token numbers (input_ids)")
    config = given.get("generation_config")
    told = given.get("return_dict_in_generate", getattr(config, "return_dict_in_generate", False))
    if given.get("streamer") is not None or told:
        raise Unsupported(_WHOLE)
    mask = given.get("attention_mask")
    return ids, torch.ones_like(ids) if mask is None else mask


class Answers(Quiet):
    """Looks at questions and answers before anybody reads the answer; where one is hit a refusal takes its place.

    Attributes:
        refused: for each answer of the last call whether it was.
    """

    looks = True

    def __init__(self, policy: Mapping[str, Any], seer: Looker, tokenizer: Any, strength: float) -> None:
        self.policy, self.seer, self.tokenizer, self.strength = policy, seer, tokenizer, strength
        self.refused: list[bool] = []

    def before(self, given: dict[str, Any]) -> dict[str, Any]:
        """The arguments as they are; those that cannot be read are refused."""
        asked(given)
        return given

    def after(self, given: dict[str, Any], result: Tensor) -> Tensor:
        """The answers; where question or answer is hit the message of the policy."""
        ids, mask = asked(given)
        if not isinstance(result, Tensor):  # the model's own settings may ask for a dictionary
            raise Unsupported(_WHOLE)
        each = len(result) // len(ids)
        answers = result[:, ids.shape[1] :]
        rows, self.refused, seer = [], [], remembering(self.seer)
        for place, answer in enumerate(answers):
            question = self._text(ids[place // each][mask[place // each].bool()])
            text = self._text(answer)
            verdicts = (seer.check(item) for item in (question, text, f"{question}\n{text}"))
            found = next((item for item in verdicts if item.hit), None)  # what is behind a hit is not looked at
            if found is not None and self.policy["action"] == "flag":
                warnings.warn(f"a guard was hit: {found.reason}", stacklevel=4)
            blocked = found is not None and self.policy["action"] != "flag"
            self.refused.append(blocked)
            rows.append(self._refusal(answer) if blocked else answer)
        if not any(self.refused):
            return result
        kept = result[:, : ids.shape[1]]
        return torch.cat([kept, padded(rows, self._pad(), left=False)[0]], dim=1)

    def _text(self, ids: Tensor) -> str:
        return str(self.tokenizer.decode(ids, skip_special_tokens=True))

    def _refusal(self, like: Tensor) -> Tensor:
        ids = self.tokenizer(self.policy["message"], add_special_tokens=False)["input_ids"]
        end = self.tokenizer.eos_token_id
        return torch.tensor(ids if end is None else [*ids, end]).to(like)

    def _pad(self) -> int:
        return pad_of(self.tokenizer)


class Prefix(Quiet):
    """A system message before every question, by the chat template where there is one; it is not in what comes back.

    Raises:
        Unsupported: the chat template takes no system message.
    """

    def __init__(self, text: str, tokenizer: Any, strength: float) -> None:
        self.tokenizer, self.strength = tokenizer, strength
        if tokenizer.chat_template:
            try:
                text = tokenizer.apply_chat_template([{"role": "system", "content": text}], tokenize=False)
            except Exception as error:  # templates raise errors of their own
                raise Unsupported(
                    "the chat template of this model takes no system message; use keyword-guard"
                ) from error
        else:
            text += "\n"
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        self.ids = ids[1:] if ids[:1] == [tokenizer.bos_token_id] else ids

    def before(self, given: dict[str, Any]) -> dict[str, Any]:
        """The arguments with the message before every question."""
        ids, mask = asked(given)
        rows = [self._with(row[keep.bool()]) for row, keep in zip(ids, mask, strict=True)]
        wide, seen = padded(rows, pad_of(self.tokenizer), left=True)
        longer = {name: given[name] + wide.shape[1] - ids.shape[1] for name in ("max_length",) if given.get(name)}
        if "inputs" in given:
            longer["inputs"] = None
        return {**given, "input_ids": wide, "attention_mask": seen, **longer}

    def _with(self, row: Tensor) -> Tensor:
        first = row[:1] if len(row) and int(row[0]) == self.tokenizer.bos_token_id else row[:0]
        return torch.cat([first, torch.tensor(self.ids).to(row), row[len(first) :]])

    def after(self, given: dict[str, Any], result: Tensor) -> Tensor:
        """The answers behind the questions as they were asked."""
        ids, wide = asked(given)[0], self.before(given)["input_ids"].shape[1]
        kept = ids.repeat_interleave(len(result) // len(ids), 0).to(result)
        return torch.cat([kept, result[:, wide:]], dim=1)


def pad_of(tokenizer: Any) -> int:
    """The number that fills rows up."""
    return int(next((n for n in (tokenizer.pad_token_id, tokenizer.eos_token_id) if n is not None), 0))


def padded(rows: Sequence[Tensor], pad: int, *, left: bool) -> tuple[Tensor, Tensor]:
    """Rows of one length, and which of it is no padding."""
    length = max(map(len, rows))
    ids = torch.full((len(rows), length), pad).to(rows[0])
    mask = torch.zeros_like(ids)
    for place, row in enumerate(rows):
        part = slice(length - len(row), length) if left else slice(0, len(row))
        ids[place, part], mask[place, part] = row, 1
    return ids, mask
