"""A package of somebody else: a family of causal language models, and a method that unlearns a text with LoRA."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import erase_plugins
from erase_plugins.families.transformers_family import TransformersFamily
from erase_plugins.options import as_dict, option, resolve
from erase_plugins.types import EditPlan, EraseRequest

WORDS = 64


def build(seed: int = 0) -> Any:
    """A tiny Llama with random weights; its words are bytes modulo `WORDS`."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=WORDS, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=64, initializer_range=0.12, tie_word_embeddings=True,
        pad_token_id=0, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval()


def read(text: str) -> Any:
    """Token numbers (1, tokens) of a text."""
    import torch

    return torch.tensor([[byte % WORDS for byte in text.encode()]])


class TinyLlama(TransformersFamily):
    """Causal language models of the Llama kind."""

    id, title, architectures = "llama", "Llama", ("LlamaForCausalLM",)
    roles: ClassVar[Any] = {"language": "model"}
    groups: ClassVar[Any] = {
        "mlp": lambda ref: ".mlp." in ref.path,
        "attn": lambda ref: ".self_attn." in ref.path,
    }


@dataclass(frozen=True)
class Options:
    """Options of the method."""

    rank: int = option(2, "rank of the LoRA", low=1, high=64)
    steps: int = option(20, "gradient steps", low=1, high=10000)
    rate: float = option(0.05, "learning rate", low=0.0, high=1.0)


class Ascent:
    """Gradient ascent on the text that is to go, held by the divergence from the base on the texts that stay."""

    id, title, paper, summary = "ascent", "Gradient ascent", "https://example.org/ascent", "LoRA away from a text"
    needs, kinds, produces = frozenset({"language"}), frozenset({"fact", "object"}), frozenset({"lowrank"})
    Options = Options

    def plan(self, request: EraseRequest, info: Any) -> EditPlan:
        options = as_dict(resolve(Options, request.options, info.profiles))
        refs = (*info.modules("attn"), *info.modules("mlp"))
        return EditPlan(request, options, tuple(f"{ref.component}.{ref.path}" for ref in refs), steps=options["steps"])

    def run(self, plan: EditPlan, target: Any, ctx: Any) -> Any:
        import torch
        from torch.nn import functional

        from erase_plugins.engine.adapters import Adapters

        model, options = target.language, plan.options
        gone = [read(item.text) for item in plan.request.concepts]
        kept = [read(text) for text in (*plan.request.preserve, "the quick brown fox")]
        with torch.no_grad():
            before = [functional.log_softmax(model.logits(ids), -1) for ids in kept]
        refs = (*target.modules("attn"), *target.modules("mlp"))
        adapters = Adapters(target, refs, options["rank"], generator=ctx.generator("lora"))
        optimizer = torch.optim.Adam(adapters.parameters(), options["rate"])
        with adapters:
            for step in range(options["steps"]):
                loss = -sum(
                    functional.cross_entropy(model.logits(ids)[0, :-1], ids[0, 1:]).clamp(max=8) for ids in gone
                )
                for ids, was in zip(kept, before, strict=True):
                    now = functional.log_softmax(model.logits(ids), -1)
                    loss = loss + functional.kl_div(now, was, log_target=True, reduction="batchmean")
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                ctx.step(step + 1, options["steps"], loss=float(loss.detach()))
        return adapters.edit()


erase_families = erase_plugins.hookimpl(lambda: [TinyLlama()], specname="erase_families")
erase_methods = erase_plugins.hookimpl(lambda: [Ascent()], specname="erase_methods")
