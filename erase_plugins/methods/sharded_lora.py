"""Sharded adapters: forgetting by leaving out (after SISA, Bourtoule et al., IEEE S&P 2021, arXiv 1912.03817).

The rows that stay (``--retain``) are split into shards by a hash of their subject, each shard trains a LoRA of its own
on the base alone, and the result is their sum. A person is forgotten exactly, as far as these rows go: take the rows
out and run again. Only the shard that held them differs; with ``--set store=FOLDER`` all others are read from there,
and adapters of shards that no longer exist are deleted.

Exact for what was learned here, and nothing is said of what the base has read.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from erase_plugins.errors import RequestError
from erase_plugins.hookspecs import hookimpl
from erase_plugins.options import as_dict, option
from erase_plugins.training import TrainingRun
from erase_plugins.training.asked import ask
from erase_plugins.training.learned import LearnedMethod, LearnedOptions

if TYPE_CHECKING:
    from collections.abc import Sequence

    from erase_plugins.artifacts.edit import Edit, LowRank
    from erase_plugins.families.texts import Pair

_CITATION = """\
@inproceedings{bourtoule2021machine,
  title = {Machine Unlearning},
  author = {Bourtoule, Lucas and Chandrasekaran, Varun and Choquette-Choo, Christopher A. and Jia, Hengrui and
            Travers, Adelin and Zhang, Baiwu and Lie, David and Papernot, Nicolas},
  booktitle = {IEEE Symposium on Security and Privacy},
  year = {2021}
}"""
_FILE = "erase-plugins-shard-{}.safetensors"
#: options that no shard depends on
_OTHER = ("store", "weight", "recompute")


@dataclass(frozen=True)
class ShardedOptions(LearnedOptions):
    """Options of sharded adapters."""

    shards: int = option(4, "number of adapters", low=1, high=1024)
    weight: float = option(1.0, "of each adapter in the sum", low=0.0, high=10.0)
    store: str = option("", "private folder where trained shards are kept for the next run; empty: nowhere",
                        place=True)  # fmt: skip


class ShardedLora(LearnedMethod):
    """One adapter per shard of people."""

    id = "sharded-lora"
    title = "Sharded LoRA (exact by leaving out)"
    paper = "https://arxiv.org/abs/1912.03817"
    citation = _CITATION
    summary = "trains one adapter per shard of the texts that stay; who is left out later is gone from it exactly"
    Options = ShardedOptions

    def train(self, run: TrainingRun) -> Edit:
        from erase_plugins.artifacts.edit import Edit

        options, people = run.options, self.people(run.request)
        shards: list[list[Pair]] = [[] for _ in range(options.shards)]
        for name, rows in zip(people.names, people.pairs, strict=True):
            shards[_shard(name, options.shards)] += rows
        used, trained, parts = set(), 0, []
        run.ctx.start(run.plan.steps * sum(map(bool, shards)))
        for number, pairs in enumerate(shards):
            if not pairs:
                continue
            place = self._place(run, number, pairs)
            used.add(place)
            if place is not None and place.is_file():
                parts.append(_read(place))
                continue
            parts.append(self._shard(run, number, pairs, trained))
            trained += 1
            if place is not None:
                _write(place, parts[-1])
        for old in Path(options.store).expanduser().glob(_FILE.format("*")) if options.store else ():
            if old not in used:
                old.unlink()
        run.ctx.numbers |= {"shards_trained": trained, "shards": len(parts), "people": len(people.names)}
        run.ctx.note(f"{trained} of {len(parts)} shards were trained; the others are as they were")
        deltas: dict[str, dict[str, Any]] = {}
        for ref in run.refs:
            found = [part[f"{ref.component}:{ref.weight}"] for part in parts]
            deltas.setdefault(ref.component, {})[ref.weight] = _sum(found, options.weight)
        return Edit(run.target.family.id, deltas)

    def _shard(self, run: TrainingRun, number: int, pairs: Sequence[Pair], before: int) -> dict[str, LowRank]:
        """The adapter of a shard, which depends on its rows, the base and the options only."""

        from erase_plugins.engine.adapters import Adapters
        from erase_plugins.engine.loop import Scale, gradients, shuffled
        from erase_plugins.engine.optimizers import make_optimizer

        options, steps = run.options, run.plan.steps
        adapters = Adapters(run.target, run.refs, options.rank, options.scale, run.ctx.generator(f"shard:{number}"))
        with adapters, self.spare(run):
            texts, parameters, scale = self.texts(run, list(pairs)), adapters.parameters(), Scale.of(run.target)
            optimizer = make_optimizer(options.optimizer, parameters, options.lr, options.weight_decay)
            for step in range(steps):
                rows = shuffled(run.ctx, f"rows:{number}", len(texts), min(options.batch, len(texts)), step)
                loss = ask(run.target, texts[rows.to(texts.ids.device)]).mean
                for part, grad in zip(parameters, gradients(loss, parameters, scale), strict=True):
                    part.grad = grad
                optimizer.step()
                run.ctx.step(before * steps + step + 1, steps * options.shards, loss=float(loss.detach()))
            edit = adapters.edit()
        return {f"{component}:{key}": delta for component, key, delta in edit.items()}  # type: ignore[misc]

    def _place(self, run: TrainingRun, number: int, pairs: Sequence[Pair]) -> Path | None:
        """File of a shard with exactly these rows, None where nothing is kept."""
        if not run.options.store:
            return None
        folder = Path(run.options.store).expanduser()
        if folder.exists() and not folder.is_dir():
            raise RequestError(f"store '{folder.name}' is no folder; give one that only you can read")
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        options = {name: value for name, value in as_dict(run.options).items() if name not in _OTHER}
        base = {name: part.to_dict() for name, part in run.target.fingerprint().items()}
        rows = [(pair.prompt, pair.completion, pair.question) for pair in pairs]
        facts = [number, options, run.ctx.seed, base, rows]
        key = hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()
        return folder / _FILE.format(key[:32])


def _shard(name: str, count: int) -> int:
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") % count


def _sum(parts: Sequence[LowRank], weight: float) -> LowRank:
    """The sum of low-rank changes, rank by rank."""
    import torch

    from erase_plugins.artifacts.edit import LowRank

    return LowRank(torch.cat([part.A for part in parts]), weight * torch.cat([part.B for part in parts], 1))


def _write(place: Path, part: dict[str, LowRank]) -> None:
    import os

    from erase_plugins.artifacts.tensors import write_tensors

    tensors = {f"{key}:{name}": value for key, delta in part.items() for name, value in delta.tensors().items()}
    fresh = place.with_name(f".{place.name}.{os.getpid()}")
    write_tensors(fresh, tensors, {"format": "erase-plugins-shard"})
    fresh.replace(place)


def _read(place: Path) -> dict[str, LowRank]:
    from safetensors.torch import load_file

    from erase_plugins.artifacts.edit import LowRank

    tensors = load_file(place)
    keys = sorted({name.rpartition(":")[0] for name in tensors})
    return {key: LowRank(tensors[f"{key}:A"], tensors[f"{key}:B"]) for key in keys}


@hookimpl
def erase_methods() -> list[ShardedLora]:
    return [ShardedLora()]
