"""Memory of a training step at full shapes, counted with fake tensors: nothing is computed.

    python -m benchmarks.memory [--methods esd,...] [--families sd1,sdxl] [--dtypes float32,bfloat16] [--json]

What is counted is every tensor that is alive at once: weights of all parts, low-rank factors, what the pass keeps for
its way back, gradients, two moments and the stored states. A method's step is taken to be one pass with gradients of as
many samples as `engine.activations.at_once` lets through together, with blocks computed again where the method does so.
Where a text encoder is trained, all prompts of a step go through it first, and gradients through both.
Passes without gradients, of which trajectories are made, are counted too; what takes more decides.
Beside it stands what the plan says.
"""

from __future__ import annotations

import argparse
import json
import weakref
from math import prod
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

GIB = 1 << 30


class Alive(TorchDispatchMode):
    """Bytes of all storages that operations inside the block have made and that are still held, and their peak."""

    def __init__(self, before: Any = ()) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._known: set[int] = {item.untyped_storage()._cdata for item in before}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for item in tree_leaves(out):
            if isinstance(item, torch.Tensor):
                self._note(item.untyped_storage())
        return out

    def _note(self, storage: Any) -> None:
        key = storage._cdata
        if key in self._known:
            return
        size = storage.nbytes()
        self._known.add(key)
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._gone, key, size)

    def _gone(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.now -= size


def unet_step(unet: Any, shape: tuple[int, ...], context: tuple[int, ...], extra: Any, recompute: bool, half: bool,
              train: Any, texts: Any = None) -> tuple[int, int]:  # fmt: skip
    """(bytes of weights, peak of everything that a step adds).

    Args:
        unet: on fake tensors.
        shape, context: of the latents and of the text rows.
        extra: further arguments of the pass.
        recompute: whether blocks are computed again on the way back.
        half: whether the pass runs under bfloat16 autocast.
        train: gives the parameters that are trained, attached.
        texts: `Texts` where text encoders are trained.
    """
    weights = sum(part.numel() * part.element_size() for part in unet.parameters())
    unet.requires_grad_(False)
    alive = Alive([*unet.parameters(), *(texts.weights() if texts else ())])
    with alive:
        parameters = [*train(), *(texts.train() if texts else ())] or [torch.zeros(1, requires_grad=True)]
        moments = [torch.zeros_like(part) for part in parameters for _ in range(2)]
        if recompute:
            unet.enable_gradient_checkpointing()
        live = texts.encode() if texts else torch.empty(context)
        loss = live.float().square().mean()
        if shape[0]:
            with torch.autocast("cpu", torch.bfloat16, enabled=half):
                rows = live[: shape[0]]
                out = unet(torch.empty(shape), torch.empty(shape[0]), rows, return_dict=False, **extra)[0]
            loss = loss + out.float().square().mean()
            del out
        gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
        del loss, live
        kept = (moments, gradients)
        if recompute:
            unet.disable_gradient_checkpointing()
    del kept
    return weights, alive.peak


class WideNorms(TorchFunctionMode):
    """Inside, norms compute in float32, as they do under autocast on an accelerator."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (torch.nn.functional.group_norm, torch.nn.functional.layer_norm):
            args, kwargs = tree_map_only(torch.Tensor, torch.Tensor.float, (args, kwargs or {}))
        return func(*args, **(kwargs or {}))


def looking(family: str, samples: int, dtype: str, precision: str) -> float:
    """GiB that a pass of so many samples without gradients takes beside the weights."""
    from benchmarks.full_size import unet15, unet_xl

    unet = (unet15() if family == "sd1" else unet_xl()).eval()
    with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
        faked(unet, getattr(torch, dtype))
        size, width = (64, 768) if family == "sd1" else (128, 2048)
        extra = {}
        if family == "sdxl":
            extra = {
                "added_cond_kwargs": {"text_embeds": torch.empty(samples, 1280), "time_ids": torch.empty(samples, 6)}
            }
        half = precision == "bfloat16" or dtype != "float32"
        alive = Alive(unet.parameters())
        with WideNorms(), alive, torch.autocast("cpu", torch.bfloat16, enabled=half):
            unet(torch.empty(samples, 4, size, size), torch.empty(samples), torch.empty(samples, 77, width),
                 return_dict=False, **extra)  # fmt: skip
    return alive.peak / GIB


def faked(module: Any, dtype: Any) -> None:
    """Gives a module on meta tensors fake values."""
    for name, parameter in list(module.named_parameters()):
        owner, _, leaf = name.rpartition(".")
        fake = torch.nn.Parameter(torch.empty(parameter.shape, dtype=dtype), requires_grad=False)
        setattr(module.get_submodule(owner), leaf, fake)


def low_rank(unet: Any, modules: Any, rank: int) -> Any:
    """A function that hangs factors of ``rank`` on modules and gives them."""

    def attach() -> list[torch.Tensor]:
        found = []
        for path in modules:
            module = unet.get_submodule(path)
            module = getattr(module, "to_out", [module])[0]  # an eraser stands behind a whole attention
            weight = module.weight
            width = weight[0].numel()
            down = torch.empty(rank, width, requires_grad=True)
            up = torch.empty(weight.shape[0], rank, requires_grad=True)
            found += [down, up]
            module.register_forward_hook(
                lambda layer, args, out, down=down, up=up: out + _product(layer, args[0], down, up)
            )
        return found

    return attach


class Texts:
    """The text encoders of a family on fake tensors, with factors on the layers that are trained.

    Args:
        family: "sd1" or "sdxl".
        dtype: of the weights.
        paths: component -> modules that are trained.
        rank: of the factors.
        count: prompts of a step.
    """

    def __init__(self, family: str, dtype: Any, paths: Any, rank: int, count: int) -> None:
        from benchmarks.full_size import clip_g, clip_l

        made = {"text_encoder": clip_l} if family == "sd1" else {"text_encoder": clip_l, "text_encoder_2": clip_g}
        self.family, self.count = family, count
        self.parts = {name: make().eval() for name, make in made.items()}
        self.paths, self.rank = paths, rank
        for part in self.parts.values():
            faked(part, dtype)
            for name, buffer in list(part.named_buffers()):
                owner, _, leaf = name.rpartition(".")
                part.get_submodule(owner).register_buffer(leaf, torch.empty(buffer.shape, dtype=buffer.dtype), False)

    def weights(self) -> Any:
        """All values that lie there anyway."""
        return [value for part in self.parts.values() for value in (*part.parameters(), *part.buffers())]

    def train(self) -> list[torch.Tensor]:
        """The factors."""
        return [
            value
            for name, part in self.parts.items()
            for value in low_rank(part, [own(part, path) for path in self.paths.get(name, ())], self.rank)()
        ]

    def encode(self) -> torch.Tensor:
        """Rows of all prompts of a step, (count, 77, width)."""
        ids = torch.ones(self.count, 77, dtype=torch.long)
        if self.family == "sd1":
            rows: torch.Tensor = self.parts["text_encoder"](ids)[0]
            return rows
        out = [part(ids, output_hidden_states=True).hidden_states[-2] for part in self.parts.values()]
        return torch.cat(out, dim=-1)


def own(part: Any, path: str) -> str:
    """A module's name in an encoder that may lack the outer level of names."""
    names = {name for name, _ in part.named_modules()}
    return next(name for name in (path, f"text_model.{path}", path.removeprefix("text_model.")) if name in names)


def _product(layer: Any, x: torch.Tensor, down: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    functional = torch.nn.functional
    if isinstance(layer, torch.nn.Conv2d):
        size = layer.weight.shape[1:]
        inner = functional.conv2d(x, down.reshape(len(down), *size), None, layer.stride, layer.padding, layer.dilation)
        return functional.conv2d(inner, up[:, :, None, None])
    return functional.linear(functional.linear(x, down), up)


def measure(
    family: str, paths: Any, rank: int, batch: int, recompute: bool, dtype: str = "float32", precision: str = "float32",
    text_paths: Any = None, prompts: int = 0,
) -> dict[str, Any]:  # fmt: skip
    """One pass; ``dtype`` is that of the weights, ``precision`` "bfloat16" runs it under autocast.

    ``text_paths`` (component -> modules) are trained as well, by a step of so many ``prompts``.
    """
    from benchmarks.full_size import unet15, unet_xl

    unet = (unet15() if family == "sd1" else unet_xl()).eval()
    with FakeTensorMode(allow_non_fake_inputs=True):
        faked(unet, getattr(torch, dtype))
        size, width = (64, 768) if family == "sd1" else (128, 2048)
        extra = {}
        if family == "sdxl":
            extra = {"added_cond_kwargs": {"text_embeds": torch.empty(batch, 1280), "time_ids": torch.empty(batch, 6)}}
        half = precision == "bfloat16" or dtype != "float32"
        texts = Texts(family, getattr(torch, dtype), text_paths, rank, prompts) if text_paths else None
        weights, peak = unet_step(
            unet, (batch, 4, size, size), (max(batch, 1), 77, width), extra, recompute, half,
            low_rank(unet, paths, rank), texts,
        )  # fmt: skip
    return {"family": family, "batch": batch, "recompute": recompute, "dtype": dtype, "precision": precision,
            "weights GiB": weights / GIB, "beyond GiB": peak / GIB}  # fmt: skip


def of_method(method: str, family: str, dtype: str) -> dict[str, Any]:
    """A method's step at its defaults, whole, and what its plan says."""
    from erase_plugins.api import build_request
    from erase_plugins.engine.activations import LARGE, MOST_BYTES, looked_at, per_sample
    from erase_plugins.manager import get_manager

    entry, info = get_manager().method(method), info_of(family)
    request = build_request("pocket", method, "pizza", dtype=dtype, device="cuda")
    plan, options = entry.plan(request, info), entry.resolved(request, info)
    cost, precision = entry.cost(request, options), str(plan.options["precision"])
    denoiser = sum(prod(ref.shape) for ref in info.refs if ref.component == "unet")
    again = entry.recomputes and denoiser >= LARGE
    size = 2 if precision == "bfloat16" or dtype != "float32" else 4
    together = min(cost.batch, max(MOST_BYTES // per_sample(info, again, size), 1))
    refs = entry.modules(info, options)
    paths = [ref.path for ref in refs if ref.component == "unet"]
    text_paths: dict[str, list[str]] = {}
    for ref in refs if cost.texts else ():
        text_paths.setdefault(ref.component, []).append(ref.path)
    rank = 8 if paths or text_paths else 0
    row = measure(family, paths, rank, together, again, dtype, precision, text_paths, cost.texts)
    others = _TEXT[family] * (2 if dtype != "float32" else 4)
    values = entry.values(entry.modules(info, options), request, options)
    stored = 16 * cost.states * prod(info.latent_shape) + max(16 * values - _factors(refs, rank), 0)
    looked = looking(family, looked_at(info.latent_shape), dtype, precision) if cost.forwards else 0.0
    beyond = max(row["beyond GiB"], looked + _factors(refs, rank) / GIB)
    whole = row["weights GiB"] + beyond + (others + stored) / GIB
    return {"method": method, **row, "samples of a step": cost.batch, "looking GiB": looked, "whole GiB": whole,
            "plan GiB": row["weights GiB"] + (others + plan.memory_bytes) / GIB}  # fmt: skip


#: values of the published text encoders and autoencoders
_TEXT = {"sd1": 123_060_480 + 83_653_863, "sdxl": 123_060_480 + 694_659_840 + 83_653_863}


def _factors(refs: Any, rank: int) -> int:
    """Bytes of low-rank factors with gradient and two moments that `measure` has counted."""
    return 16 * rank * sum(ref.shape[0] + prod(ref.shape[1:]) for ref in refs)


def info_of(family: str) -> Any:
    """What is known of the published model without weights."""
    from benchmarks.full_size import clip_g, clip_l, unet15, unet_xl
    from erase_plugins.manager import get_manager

    configs = {
        "unet": dict((unet15() if family == "sd1" else unet_xl()).config),
        "text_encoder": clip_l().config.to_dict(),
    }
    if family == "sdxl":
        configs["text_encoder_2"] = clip_g().config.to_dict()
    return get_manager().family(family).info(family, configs)


#: methods that train; the last three a text encoder
METHODS = (
    "ace", "concept-ablation", "esd", "gem", "leco", "mace", "realera", "receler", "spm", "stereo", "trce",
    "advunlearn", "few-shot", "hirm",
)  # fmt: skip


def main(arguments: list[str] | None = None) -> None:
    """Prints one row for each combination."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--families", default="sd1,sdxl")
    parser.add_argument("--dtypes", default="float32,bfloat16")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args(arguments)
    for family in given.families.split(","):
        for dtype in given.dtypes.split(","):
            for method in given.methods.split(","):
                row = of_method(method, family, dtype)
                print(json.dumps(row) if given.json else row, flush=True)


if __name__ == "__main__":
    main()
