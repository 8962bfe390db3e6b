"""The last layer of a language model of transformers apart from the rest: states in front of it, scores behind it.

What a model does with its scores (Gemma's soft caps, the scales of Cohere and Granite) stays its own: scores of kept
states come from its own ``forward``, with the states in the place of what its body gives.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPastAndCrossAttentions


def head_and_body(network: nn.Module) -> tuple[nn.Module, nn.Module] | None:
    """The model with its last layer, and what stands in front of that; None for others than those of transformers."""
    whole = next((part for part in network.modules() if isinstance(part, PreTrainedModel)), None)
    if whole is None or whole.base_model is whole:
        return None
    return whole, whole.base_model


def last_norm(body: nn.Module) -> nn.Module | None:
    """The norm behind the last block, through which every state is read; None where there is none, or several."""
    found = [part for part in body.children() if "norm" in type(part).__name__.lower()]
    return found[0] if len(found) == 1 else None


@contextmanager
def last_states(body: nn.Module, counted: Tensor) -> Iterator[list[Tensor]]:
    """Keeps the states (m, width) of the counted tokens (n, tokens) that a pass gives, which makes no scores then."""
    found: list[Tensor] = []

    def keep(_body: nn.Module, _given: Any, out: Any) -> Any:
        states = out[0]
        states = states[:, states.shape[1] - counted.shape[1] :]  # learned tokens may stand in front
        found.append(states[counted.to(states.device)])
        return BaseModelOutputWithPastAndCrossAttentions(last_hidden_state=states[:, :0])

    hook = body.register_forward_hook(keep)
    try:
        yield found
    finally:
        hook.remove()


def read_off(whole: nn.Module, body: nn.Module, states: Tensor) -> Tensor:
    """Scores (m, words) that the model gives behind states (m, width), with gradients."""

    def given(*_args: Any, **_more: Any) -> Any:
        return BaseModelOutputWithPastAndCrossAttentions(last_hidden_state=states[None])

    ids = torch.zeros(1, len(states), dtype=torch.long, device=states.device)
    with ExitStack() as stack:
        # what somebody has hung on the body has acted on the states already
        for name, value in (
            ("forward", given),
            ("_forward_hooks", OrderedDict()),
            ("_forward_pre_hooks", OrderedDict()),
        ):
            stack.enter_context(_shadowed(body, name, value))
        found: Tensor = whole(input_ids=ids, use_cache=False).logits[0]
    return found


@contextmanager
def _shadowed(module: nn.Module, name: str, value: Any) -> Iterator[None]:
    there, before = name in vars(module), vars(module).get(name)
    vars(module)[name] = value
    try:
        yield
    finally:
        del vars(module)[name]
        if there:
            vars(module)[name] = before
