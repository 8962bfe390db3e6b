"""Causal language models of transformers: Llama, Qwen, Gemma, Mistral, Phi, GPT-2 and their kin."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from erase_plugins.families.loading import DTYPES
from erase_plugins.families.model import TRANSPOSED, ModuleRef
from erase_plugins.families.source import MODEL, POCKET_LM
from erase_plugins.families.transformers_family import TransformersFamily
from erase_plugins.hookspecs import hookimpl

#: bytes of a model in float32 (268 million weights) up to which it is never loaded in less
SMALL = 2**30
#: blocks are numbered; what stands outside of them (embeddings, the head) is shared by all words and no linear map here
_ATTENTION = re.compile(r".*\.\d+\.(self_attn|attn|attention)\..+")
_MLP = re.compile(r".*\.\d+\.mlp\..+")
#: the last map of a block's MLP, which writes what the block adds
_OUT = re.compile(r".*\.\d+\.mlp\.(down_proj|c_proj|fc2|dense_4h_to_h)")


def _in(pattern: re.Pattern[str], ref: ModuleRef) -> bool:
    return ref.kind in ("linear", TRANSPOSED) and pattern.fullmatch(ref.path) is not None


class CausalLanguageModels(TransformersFamily):
    """Causal language models; LoRA goes to the linear maps of their blocks, fused and transposed ones included."""

    id, title = "causal-lm", "Causal language model (transformers)"
    architectures = (
        "LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM", "GemmaForCausalLM",
        "Gemma2ForCausalLM", "Gemma3ForCausalLM", "PhiForCausalLM", "Phi3ForCausalLM", "GPT2LMHeadModel",
        "GPTNeoXForCausalLM", "OlmoForCausalLM", "Olmo2ForCausalLM", "SmolLM3ForCausalLM",
    )  # fmt: skip
    roles: Mapping[str, Any] = MappingProxyType({"language": MODEL})
    presets = (POCKET_LM,)
    #: Conv1D of GPT-2; no other architecture above has modules of these names
    transposed = frozenset({"c_attn", "c_proj", "c_fc", "q_attn"})
    groups: Mapping[str, Any] = MappingProxyType({
        "attention": lambda ref: _in(_ATTENTION, ref),
        "mlp": lambda ref: _in(_MLP, ref),
        "mlp_out": lambda ref: _in(_OUT, ref),
        "linear": lambda ref: _in(_ATTENTION, ref) or _in(_MLP, ref),
    })  # fmt: skip

    def precision(self, configs: Mapping[str, Mapping[str, Any]], adapted: bool = False) -> str:
        """That of its files, as its configuration tells: nothing is lost, and it was made to be run so.

        float32 where all weights in it take no more than `SMALL`: what half of that saves is not worth sums and small
        gradients in half precision.
        """
        config = configs[MODEL]
        if 4 * sum(math.prod(ref.shape) for ref in self.info("", configs).refs) <= SMALL:
            return "float32"
        said = str(config.get("dtype") or config.get("torch_dtype")).removeprefix("torch.")
        return said if said in DTYPES else "float32"

    def profiles(self, configs: Mapping[str, Mapping[str, Any]]) -> tuple[str, ...]:
        shape = tuple(configs[MODEL].get(name) for name in ("vocab_size", "hidden_size", "num_hidden_layers"))
        return (POCKET_LM,) if shape == (1280, 128, 4) else ()


@hookimpl
def erase_families() -> list[CausalLanguageModels]:
    return [CausalLanguageModels()]
