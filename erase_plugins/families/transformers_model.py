"""Transformers models behind the capabilities ``classifier`` and ``language``."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from erase_plugins.artifacts.names import canonical
from erase_plugins.errors import Unsupported
from erase_plugins.families.capabilities import CLASSIFIER, LANGUAGE, CausalLM, Classifier
from erase_plugins.families.heads import head_and_body, last_norm, last_states, read_off
from erase_plugins.families.hosted import HostedModel
from erase_plugins.families.source import MODEL

if TYPE_CHECKING:
    from erase_plugins.families.model import ModuleRef

#: tokens from which reading a common beginning once is worth a pass of its own
_WORTH = 32


class HostedClassifier(HostedModel, Classifier):
    """An image classifier of transformers: takes ``pixel_values``, gives ``logits``."""

    @property
    def labels(self) -> tuple[str, ...]:
        names = self.info.configs[MODEL].get("id2label") or {}
        return tuple(str(names[number]) for number in sorted(names, key=int))

    @property
    def input_shape(self) -> tuple[int, ...]:
        config = self.info.configs[MODEL]
        size = config.get("image_size", 224)
        height, width = (size, size) if isinstance(size, int) else size
        return int(config.get("num_channels", 3)), int(height), int(width)

    def _heads(self) -> list[ModuleRef]:
        """Linear layers with a score for every label."""
        count = len(self.labels)
        return [ref for ref in self.info.refs if ref.kind == "linear" and ref.shape[0] == count]

    def logits(self, batch: Tensor) -> Tensor:
        found: Tensor = self.network(CLASSIFIER)(batch.to(self.device, self.dtype)).logits
        return found

    def features(self, batch: Tensor) -> Tensor:
        """Input of the last linear layer that the model calls."""
        return self.read(batch)[0]

    def read(self, batch: Tensor) -> tuple[Tensor, Tensor]:
        heads = self._heads()
        if not heads:
            return Classifier.features(self, batch), self.logits(batch)
        seen: list[Tensor] = []
        hook = self.module(heads[-1]).register_forward_pre_hook(lambda _module, args: seen.append(args[0]))
        try:
            logits = self.logits(batch)
        finally:
            hook.remove()
        return seen[-1], logits

    def longest(self) -> float:
        """Behind a LayerNorm of width d no row is longer than sqrt(d) max|weight| + |bias|."""
        seen: list[nn.LayerNorm] = []
        hooks = [
            module.register_forward_hook(lambda found, _args, _out: seen.append(found))
            for module in self.network(CLASSIFIER).modules() if isinstance(module, nn.LayerNorm)
        ]  # fmt: skip
        heads = self._heads()
        ends: list[bool] = []
        kinds = (nn.Linear, nn.Conv2d, nn.LayerNorm, nn.BatchNorm2d)
        watched = [
            module.register_forward_hook(lambda found, _args, _out: ends.append(isinstance(found, nn.LayerNorm)))
            for module in self.network(CLASSIFIER).modules() if isinstance(module, kinds)
        ]  # fmt: skip
        try:
            with torch.no_grad():
                self.logits(torch.zeros(1, *self.input_shape))
        finally:
            for hook in (*hooks, *watched):
                hook.remove()
        if not heads or len(ends) < 2 or not ends[-2]:  # the layer before the head
            return super().longest()
        last, width = seen[-1], float(math.prod(seen[-1].normalized_shape))
        largest = 1.0 if last.weight is None else float(last.weight.detach().double().abs().max())
        shift = 0.0 if last.bias is None else float(last.bias.detach().double().norm())
        return width**0.5 * largest + shift

    def fresh(self, seed: int) -> Mapping[str, Tensor]:
        network: Any = self.network(CLASSIFIER)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            made = type(network)(network.config)
        return {canonical(MODEL, name): part.detach() for name, part in made.named_parameters()}


class HostedCausalLM(HostedModel, CausalLM):
    """A causal language model of transformers.

    Its tokenizer is looked for where the model was loaded from.
    """

    @property
    def words(self) -> int:
        return int(self.info.configs[MODEL]["vocab_size"])

    @cached_property
    def tokenizer(self) -> Any:
        from transformers import AutoTokenizer

        place = str(getattr(self.host, "name_or_path", "") or "")
        try:
            return AutoTokenizer.from_pretrained(place, local_files_only=True)
        except (OSError, ValueError) as error:
            raise Unsupported(f"no tokenizer lies beside {self.info.model}; give token numbers") from error

    def embeddings(self) -> Tensor:
        network: Any = self.network(LANGUAGE)
        found: Tensor = network.get_input_embeddings().weight.detach()
        return found

    def logits(
        self, ids: Tensor, mask: Tensor | None = None, first: int = 0, begun: _Begun | None = None
    ) -> Tensor:  # fmt: skip
        if begun is None and first and not torch.is_grad_enabled():
            begun = self._shared(ids, mask, first)
        count = ids.shape[1] - first
        found: Tensor = self._ask(ids, mask, count, begun).logits
        return found[:, found.shape[1] - count :]

    def states(
        self, ids: Tensor, mask: Tensor | None, counted: Tensor, first: int = 0, begun: _Begun | None = None
    ) -> Tensor:  # fmt: skip
        if self._parts is None:
            return super().states(ids, mask, counted, first, begun)
        if begun is None and first and not torch.is_grad_enabled():
            begun = self._shared(ids, mask, first)
        counted = counted[:, 0 if begun is None else begun.count :]
        with last_states(self._parts[1], counted) as found:
            self._ask(ids, mask, 0, begun)
        return found[0]

    def scored(self, states: Tensor) -> Tensor:
        return states if self._parts is None else read_off(*self._parts, states)

    @property
    def _parts(self) -> tuple[nn.Module, nn.Module] | None:
        return head_and_body(self.network(LANGUAGE))

    @torch.no_grad()
    def begin(self, ids: Tensor) -> _Begun:
        from transformers import DynamicCache

        # transformers 5.24 gave the argument another name
        name = self._takes("cache") or "past_key_values"
        begun = _Begun(name, DynamicCache(config=self.network(LANGUAGE).config))
        if ids.shape[1]:
            self._ask(ids, None, 1, begun)
        return begun

    def hidden(self, ids: Tensor, layer: int, mask: Tensor | None = None) -> Tensor:
        found: Tensor = self._ask(ids, mask, output_hidden_states=True).hidden_states[layer]
        return found

    def depths(self, ids: Tensor, counted: Tensor) -> Tensor:
        norm = None if self._parts is None else last_norm(self._parts[1])
        if norm is None:
            return super().depths(ids, counted)
        *inner, last = self._ask(ids, None, 1, output_hidden_states=True).hidden_states[1:]  # the last one is normed
        place = last.device
        rows = [norm(states.to(place)[counted.to(place)]) for states in inner]
        return torch.stack([*rows, last[counted.to(place)]])

    def _ask(self, ids: Tensor, mask: Tensor | None, ends: int = 0, begun: _Begun | None = None, **more: Any) -> Any:
        """Asks the model, for the scores of the last ``ends`` tokens only where it can do that; 0: of all."""
        mask = None if mask is None else mask.to(self.device)
        if begun is not None:
            more[begun.name] = begun.cache
        model: nn.Module = self.network(LANGUAGE)
        ids = ids[:, 0 if begun is None else begun.count :].to(self.device)
        if ends and self._takes("logits_to_keep"):  # numbers, as a slice is no block of memory, which slows products
            more["logits_to_keep"] = torch.arange(ids.shape[1] - ends, ids.shape[1], device=self.device)
        return model(input_ids=ids, attention_mask=mask, use_cache=begun is not None, **more)

    def _takes(self, name: str) -> str:
        """The name, if the model calls an argument so, or nothing."""
        return name if name in inspect.signature(self.network(LANGUAGE).forward).parameters else ""

    def _shared(self, ids: Tensor, mask: Tensor | None, most: int) -> _Begun | None:
        """The beginning that all rows have in common, at most ``most`` tokens of it, where that saves work."""
        same = (ids == ids[:1]).all(0)
        same = same if mask is None else same & (mask > 0).all(0).to(same.device)
        count = min(int(same.cumprod(0).sum()), most)
        if count * (len(ids) - 1) < _WORTH:
            return None
        return self.begin(ids[:1, :count]).of(torch.zeros(len(ids), dtype=torch.long, device=self.device))

    @torch.no_grad()
    def generate(self, ids: Tensor, count: int, mask: Tensor | None = None) -> Tensor:
        ids, begun = ids.to(self.device), self.begin(ids[:, :0])
        for _ in range(count):
            more = {}
            if mask is not None and self._takes("position_ids"):  # the first word stands at place 0, behind padding too
                places = (mask.cumsum(1) - 1).clamp_min(0)[:, begun.count :]
                more["position_ids"] = places.to(self.device)
            ids = torch.cat([ids, self._ask(ids, mask, 1, begun, **more).logits[:, -1:].argmax(-1)], dim=1)
            mask = None if mask is None else torch.cat([mask, torch.ones_like(mask[:, :1])], dim=1)
        return ids

    @torch.no_grad()
    def sample(self, ids: Tensor, count: int, generator: Any, end: int | Sequence[int] | None = None) -> Tensor:
        ids = ids.to(self.device)
        ends = ids.new_tensor([] if end is None else [end] if isinstance(end, int) else list(end))
        begun = self._shared(ids, None, ids.shape[1] - 1) or self.begin(ids[:, :0])
        whole = ids.new_full((len(ids), ids.shape[1] + count), int(ends[0]) if len(ends) else 0)
        live = torch.arange(len(ids), device=self.device)
        for _ in range(count):
            logits = self._ask(ids, None, 1, begun).logits[:, -1]
            drawn = (
                logits.argmax(-1, keepdim=True) if generator is None
                else torch.multinomial(logits.float().softmax(-1).cpu(), 1, generator=generator)
            )  # fmt: skip
            ids = torch.cat([ids, drawn.to(self.device)], dim=1)
            whole[live, : ids.shape[1]] = ids
            going = (~torch.isin(ids[:, -1], ends)).nonzero()[:, 0]
            if not len(going):
                break
            if len(going) < len(live):  # what is at its end is read no more
                ids, live = ids[going], live[going]
                begun.cache.batch_select_indices(going)
        return whole


@dataclass
class _Begun:
    """What a model keeps of the tokens that it read, under the name of the argument that takes it."""

    name: str
    cache: Any

    @property
    def count(self) -> int:
        """Tokens read."""
        return int(self.cache.get_seq_length())

    def of(self, rows: Tensor) -> _Begun:
        cache = deepcopy(self.cache)
        cache.batch_select_indices(rows)
        return _Begun(self.name, cache)
