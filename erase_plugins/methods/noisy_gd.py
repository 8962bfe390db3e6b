"""Noisy gradient descent on the head of a classifier: training records are deleted, with a certificate.

Chourasia and Shah, ICML 2023, arXiv 2210.08911; the proof, the accountant and the ledger are `erase_plugins.records`.
Features of the frozen model are rows of a convex softmax problem in B, scores (W + b) + B A h with the model's own head
W, b below it and A fixed, random and drawn before any record is looked at. B is learned by full-batch descent with
Gaussian noise in every step; records to forget are taken out, and a few more noisy steps follow. Only B is learned, so
the file is a LoRA of the head.

What is forgotten are records, not a class: data without a label (rows ``{"row": NUMBER}`` of the pictures beside the
model, or pictures with labels). ``ledger`` is the private folder of the head: where it does not exist yet, the head is
learned from all pictures first. Without it, head and ledger end with the run, and what is published is the end of it.
The file of a run counts as one release; beyond the budget the run is refused. The model must never have seen these
records: the certificate takes that for granted.

Differs from the paper: the accountant (half the noise, a quarter of the steps, see docs/records.md), and A, so that
fewer numbers are learned with noise.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from erase_plugins.engine.erasing import resolved
from erase_plugins.errors import RequestError
from erase_plugins.families.capabilities import CLASSIFIER
from erase_plugins.families.labelled import Labelled
from erase_plugins.families.labelled_data import both_sets, stored
from erase_plugins.families.labels import head_of, is_single, labels_of
from erase_plugins.hints import Hint
from erase_plugins.hookspecs import hookimpl
from erase_plugins.options import as_dict, option
from erase_plugins.types import EditPlan, EraseRequest, RunResult

if TYPE_CHECKING:
    from erase_plugins.artifacts.edit import Edit
    from erase_plugins.engine.context import RunContext
    from erase_plugins.families.base import Model, ModelSpec
    from erase_plugins.records.options import HeadOptions
    from erase_plugins.records.store import Records

_CITATION = """\
@inproceedings{chourasia2023forget,
  title = {Forget Unlearning: Towards True Data-Deletion in Machine Learning},
  author = {Chourasia, Rishav and Shah, Neil},
  booktitle = {International Conference on Machine Learning},
  year = {2023}
}"""


@dataclass(frozen=True)
class NoisyGDOptions:
    """Options of noisy gradient descent, chosen without looking at the data."""

    ledger: str | None = option(
        None, "private folder of the head, made where there is none; none: it ends with the run", place=True
    )
    rank: int = option(16, "numbers learned for each label", low=1, high=100_000)
    lam: float = option(0.01, "weight decay; larger: less noise, faster deletion, more bias", low=1e-9, high=1e6)
    rho_dp: float = option(0.5, "what one published model may tell about a record", low=1e-9, high=1e6)
    rho_dd: float | None = option(
        None, "what a deleted record may tell if nothing was published; none: rho_dp / 100", low=1e-12, high=1e6
    )
    max_releases: int = option(4, "models that may be published", low=1, high=10_000)
    group: int = option(1, "most records of one person", low=1, high=100_000)
    delta: float = option(1e-5, "of the epsilon in the certificate", low=1e-15, high=0.5)
    scale: float | None = option(
        None, "public bound of the length of features; none: that of the model's last LayerNorm", low=1e-9, high=1e9
    )
    steps: int | None = option(None, "steps of learning; none: a worst case", low=1, high=10_000_000)
    mode: str = option("auto", "after a deletion go on, learn anew, or the shorter", choices=("auto", "warm", "fresh"))
    test_seed: int | None = option(None, "noise that can be drawn again, for tests: no certificate, no push", low=0)

    def head(self, classes: int, scale: float, base: str) -> HeadOptions:
        """Options of the head."""
        from erase_plugins.records.options import HeadOptions

        return HeadOptions(
            classes=classes, lam=self.lam, rho_dp=self.rho_dp, rho_dd=self.rho_dd, max_releases=self.max_releases,
            group=self.group, delta=self.delta, scale=scale, bias=False, rank=self.rank, learn_steps=self.steps,
            mode=self.mode, base=base, test_seed=self.test_seed,
        )  # fmt: skip


class NoisyGD:
    """Certified deletion of training records from a head."""

    id = "noisy-gd"
    title = "Noisy gradient descent (certified deletion of records)"
    paper = "https://arxiv.org/abs/2210.08911"
    citation = _CITATION
    summary = "deletes training records from the head of a classifier, with a certificate; LoRA on the head"
    needs: frozenset[str] = frozenset({CLASSIFIER})
    packages: frozenset[str] = frozenset({"transformers"})
    kinds: frozenset[str] = frozenset({"record", "samples"})
    produces: frozenset[str] = frozenset({"lowrank"})
    reads_data = True
    Options: type = NoisyGDOptions
    contract_options: ClassVar[dict[str, Any]] = {"test_seed": 1, "steps": 20, "rank": 4, "lam": 0.1}

    def plan(self, request: EraseRequest, info: ModelSpec) -> EditPlan:
        """The plan from configuration alone; the number of steps is known once the pictures are counted."""
        options = resolved(NoisyGDOptions, request, info)  # type: ignore[arg-type]  # a classifier has no latents
        named = [item.name for item in request.forget if not is_single(item)]
        if named:
            raise RequestError(
                f"noisy-gd deletes training records, and '{named[0]}' is none; give data without a label (",
                Hint("forget", "rows.jsonl"),
                "), or forget a class with gs-lora",
            )
        if bare := [item for item in request.forget if item.data is None]:
            raise RequestError(
                f"'{bare[0].name}' names no records; give their data, such as ", Hint("forget", "rows.jsonl")
            )
        if options.rho_dd is not None and options.rho_dd > options.rho_dp:
            raise RequestError(f"rho_dd={options.rho_dd:g} is above rho_dp={options.rho_dp:g}; take a smaller one")
        head, classes = head_of(info), len(labels_of(info))
        if options.rank > head.shape[1]:
            raise RequestError(f"rank={options.rank} is above the {head.shape[1]} features of {info.model}; take fewer")
        values = options.rank * (classes + head.shape[1])
        notes = [] if options.test_seed is None else ["the noise can be drawn again: no certificate, no push"]
        return EditPlan(
            request=request, options=as_dict(options), modules=(f"{head.component}.{head.path}",), steps=1,
            seconds=10.0, memory_bytes=64 * values, file_bytes=8 * values, notes=tuple(notes),
        )  # fmt: skip

    def run(self, plan: EditPlan, target: Model, ctx: RunContext) -> RunResult:
        """Learns, deletes and releases the head; see the module."""
        options = NoisyGDOptions(**plan.options)
        ctx.start(plan.steps)
        forget, retain = both_sets(target, plan.request, 1.0, ctx.generator("records"))
        everything = Labelled.joined([forget, retain])
        rows, labels = features_of(target, everything), everything.labels.numpy()
        gone = slice(0, len(forget))
        with private(options.ledger) as folder:
            records = opened(folder, rows, labels, options, target, ctx)
            ids = records.find(rows[gone], labels[gone])
            records.delete(ids, lambda done, total: ctx.step(done, total))
            entries, state = records.release()
            result = self._result(target, entries, state)
        ctx.numbers["deleted"] = len(ids)
        if (held := stored(target, "test")) is not None:
            ctx.numbers |= accuracies(target, held, result.edit)
        return result

    def _result(self, target: Model, entries: Sequence[Mapping[str, Any]], state: Any) -> RunResult:
        import torch

        from erase_plugins.artifacts.edit import Edit, LowRank
        from erase_plugins.records.release import stated

        head = head_of(target.info)
        scale = entries[0]["scale"]
        delta = LowRank(torch.from_numpy(state.fixed / scale), torch.from_numpy(state.weights.copy()))
        edit: Edit = Edit(target.family.id, {head.component: {head.weight: delta}})
        proven = stated(entries)
        return RunResult(edit, certificate=proven, records=tuple(entries) if proven.certified else ())


def features_of(target: Model, part: Labelled) -> Any:
    """Features (n, dim) of pictures by the frozen model, float64 numpy."""
    import numpy as np
    import torch

    with torch.no_grad():
        seen = [target.classifier.features(part.pictures[rows]) for rows in torch.arange(len(part)).split(256)]
    return torch.cat(seen).cpu().double().numpy().astype(np.float64)


def accuracies(target: Model, held: Labelled, edit: Edit) -> dict[str, float]:
    """Accuracy on held-out pictures without and with the edit of the head."""
    import torch

    ((_, _, delta),) = edit.items()
    change = delta.dense()  # type: ignore[attr-defined]
    with torch.no_grad():
        seen = [target.classifier.read(held.pictures[rows]) for rows in torch.arange(len(held)).split(256)]
    features, before = (torch.cat([pair[place] for pair in seen]).float().cpu() for place in (0, 1))
    scores = {"accuracy_before": before, "accuracy_after": before + features @ change.T}
    return {name: float((part.argmax(-1) == held.labels).double().mean()) for name, part in scores.items()}


@contextmanager
def private(place: str | None) -> Iterator[Path]:
    """The folder of the head; a temporary one, private to this user, if none is named."""
    if place is not None:
        yield Path(place)
        return
    with tempfile.TemporaryDirectory(prefix="erase-plugins-records-") as folder:
        yield Path(folder) / "head"


def opened(folder: Path, rows: Any, labels: Any, options: NoisyGDOptions, target: Model, ctx: RunContext) -> Records:
    """The head in a folder, learned from these records where there is none yet.

    Raises:
        RequestError: an existing head was made with other options.
    """
    from erase_plugins.records.events import is_name
    from erase_plugins.records.state import STATE
    from erase_plugins.records.store import Records

    classes, head = len(target.classifier.labels), head_of(target.info)
    scale = options.scale if options.scale is not None else math.nextafter(target.classifier.longest(), math.inf)
    wanted = options.head(classes, scale, target.info.model if is_name(target.info.model) else "model")
    if not (folder / STATE).is_file():
        start = target.weight(head).cpu().double().numpy()
        return Records.create(folder, rows, labels, wanted, start=start,
                              progress=lambda done, total: ctx.step(done, total))[0]  # fmt: skip
    found = Records.open(folder, options.test_seed)
    there, asked = found.account().opened, wanted.opening(found.account().opened["n"], rows.shape[1])
    odd = [name for name in ("rank", "dim", "outputs", "lam", "rho_dp", "rho_dd", "scale", "group", "noise")
           if there[name] != asked[name]]  # fmt: skip
    if odd:
        raise RequestError(
            f"the head in '{folder.name}' was made with {odd[0]} {there[odd[0]]}, now it is {asked[odd[0]]}; options "
            "are fixed from the first record on"
        )
    return found


@hookimpl
def erase_methods() -> list[NoisyGD]:
    return [NoisyGD()]
