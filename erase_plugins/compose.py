"""Algebra of artifacts: merge, add a concept, revoke a concept. Nothing is ever edited twice.

Closed-form artifacts are solved again from their statistics, so the result is the joint solution; everything else is
summed exactly. Gated artifacts hold one memory per concept, which are added and taken away as they are.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from erase_plugins.artifacts.artifact import Artifact
from erase_plugins.artifacts.gated import is_gated, without
from erase_plugins.artifacts.policy import policies
from erase_plugins.artifacts.solved import statistics_of
from erase_plugins.artifacts.statistics import Statistics
from erase_plugins.errors import ArtifactError, PluginAbsent, RequestError
from erase_plugins.given import checked
from erase_plugins.hints import stored
from erase_plugins.types import Concept
from erase_plugins.workflow.artifacts import load_artifact
from erase_plugins.workflow.joint_solution import joint, method_of, recipe_of, solved
from erase_plugins.workflow.merged import merged_name, now, same_base, without_notes
from erase_plugins.workflow.summing import summed

MODES = ("auto", "joint", "sum")


@checked
def merge(
    artifacts: Sequence[Artifact | str | Any],
    weights: Sequence[float] | None = None,
    mode: str = "auto",
    target: Any = None,
) -> Artifact:
    """One artifact from several, in memory.

    Args:
        artifacts: artifacts or their paths, made for the same base.
        weights: strength of each (mode "sum" only); 1 if None.
        mode: "joint" solves all concepts together (closed-form artifacts of one method and settings), "sum" adds the
            changes, "auto" takes joint where possible.
        target: base model, loaded or by name; needed to sum context maps with other changes.

    Raises:
        RequestError: fewer than two, the same one twice, wrong number of weights, weights with mode joint.
        ArtifactError: a joint solution is impossible; says why.
        BaseMismatch: made for different bases.
    """
    from erase_plugins.workflow.models import as_target

    loaded, target = [load_artifact(item) for item in artifacts], None if target is None else as_target(target)
    if len(loaded) < 2:
        raise RequestError("merging needs at least two artifacts")
    if mode not in MODES:
        raise RequestError(f"unknown mode '{mode}'; choose one of {', '.join(MODES)}")
    factors = [1.0] * len(loaded) if weights is None else [float(item) for item in weights]
    if len(factors) != len(loaded):
        raise RequestError(f"{len(loaded)} artifacts but {len(factors)} weights")
    for factor in factors:
        if not math.isfinite(factor):
            raise RequestError(f"weight {factor} is not a number that can be used; 1 is the evaluated edit")
    same_base(loaded)
    _refuse_twice(loaded)
    if still := [item.name for item in loaded if not len(item.edit) and policies(item.manifest)]:
        raise ArtifactError(f"'{still[0]}' is a guard and changes no weights; apply it beside the others instead")
    plain = all(factor == 1.0 for factor in factors)
    if mode == "joint" and not plain:
        raise RequestError("mode joint has no weights; use mode sum, or set the strength when applying")
    if mode == "joint" or (mode == "auto" and plain):
        try:
            return joint(loaded)
        except ArtifactError as error:
            if mode == "joint" or isinstance(error, PluginAbsent):
                raise
            note = f"summed, not solved jointly: {stored(error)}"
            return summed(loaded, factors, target, note)
    return summed(loaded, factors, target, "summed as asked")


@checked
def add(
    artifact: Artifact | str | Any, concepts: Sequence[str | Concept] | str, target: Any, keep: Sequence[str] = (),
    preset: Any = None,
) -> Artifact:  # fmt: skip
    """The artifact with more concepts erased.

    Closed-form artifacts become exactly what erasing all of them together gives; gated ones hold the memories of both.

    Args:
        artifact: closed-form or gated artifact or its path.
        concepts: what to erase as well.
        target: its base model, loaded or by name (rows of the new phrases come from its text encoder).
        keep: further prompts to keep.
        preset: option values for the new concepts, as for `erase_plugins.erase`; where it says nothing, those of the
            artifact hold.

    Raises:
        ArtifactError: no statistics, a concept is in it already, or the preset changes settings that both must share.
    """
    from erase_plugins.engine.own_preset import KEY, over_stored
    from erase_plugins.runtime.guard import check_base
    from erase_plugins.types import EraseRequest
    from erase_plugins.workflow.models import as_target
    from erase_plugins.workflow.run import make_plan, run_plan

    first, target = load_artifact(artifact), as_target(target)
    method_of(first.manifest.method["id"], first.manifest)
    gated = is_gated(first.edit)
    if not gated:
        statistics_of(first.edit, first.name)
    check_base(first.manifest, target, edit=first.edit)
    items = [concepts] if isinstance(concepts, str | Concept) else list(concepts)
    new = tuple(item if isinstance(item, Concept) else Concept(item) for item in items)
    twice = [item.text for item in new if item.text in first.manifest.erased]
    if twice:
        raise ArtifactError(f"'{twice[0]}' is erased by this artifact already")
    preserve = [text for text in first.manifest.preserve if text not in {item.text for item in new}]
    request = EraseRequest(
        model=str(first.manifest.base.get("model", "")), concepts=new, method=str(first.manifest.method["id"]),
        options=dict(first.manifest.options), preserve=tuple(dict.fromkeys([*preserve, *keep])),
        seed=first.manifest.seed,
    )  # fmt: skip
    if preset is not None:
        request = over_stored(request, preset, target.info)
    plan = make_plan(request, target.info)
    second = run_plan(plan, target)
    if gated:
        both = summed([first, second], [1.0, 1.0], target, "one gated memory per concept, side by side", "add")
    else:
        both = joint([first, second], action="add")
    if KEY not in plan.request.extra:
        return both
    *earlier, entry = both.manifest.history
    history = (*earlier, {**entry, KEY: plan.request.extra[KEY]})
    return Artifact(replace(both.manifest, history=history), both.edit)


@checked
def revoke(
    artifact: Artifact | str | Any, concepts: Sequence[str] | str, *, forget: bool = False, target: Any = None
) -> Artifact:
    """The artifact without some concepts, solved again from its statistics or without their gates; needs no model.

    Args:
        artifact: closed-form or gated artifact or its path.
        concepts: texts of erased concepts to bring back.
        forget: as if they had never been erased. By default their rows are kept from now on, so that the remaining
            concepts do not disturb them.
        target: base model, loaded or by name; needed only for files of very many concepts, which keep no single rows.

    Raises:
        RequestError: no concept was named.
        ArtifactError: no statistics, not a member, or nothing would remain.
    """
    from erase_plugins.workflow.models import as_target

    loaded, target = load_artifact(artifact), None if target is None else as_target(target)
    names = [concepts] if isinstance(concepts, str) else list(concepts)
    if not names:
        raise RequestError("nothing to revoke was named; name at least one erased concept")
    if is_gated(loaded.edit):
        return _ungated(loaded, names)
    statistics = _with_rows(loaded, statistics_of(loaded.edit, loaded.name), names, target)
    statistics = statistics.without(names, keep_them=not forget)
    remaining = tuple(item for item in loaded.manifest.concepts if item.text not in names)
    kept = loaded.manifest.preserve if forget else tuple(dict.fromkeys([*loaded.manifest.preserve, *names]))
    entry = {"action": "revoke", "concepts": names, "kept": not forget}
    return solved(without_notes(loaded.manifest, names), statistics, remaining, kept, entry)


def _ungated(artifact: Artifact, names: Sequence[str]) -> Artifact:
    """A gated artifact without the memories of some concepts; nothing of the others changes."""
    edit = without(artifact.edit, names, artifact.name)
    remaining = tuple(item for item in artifact.manifest.concepts if item.text not in names)
    entry = {"action": "revoke", "concepts": list(names), "at": now()}
    return Artifact(
        without_notes(artifact.manifest, names).changed(
            name=merged_name(remaining), concepts=remaining, rank=edit.rank, modules=len(edit), created=now(),
            history=(*artifact.manifest.history, entry),
        ),
        edit,
    )  # fmt: skip


def _with_rows(artifact: Artifact, statistics: Statistics, names: Sequence[str], target: Any) -> Statistics:
    """Rows of some members encoded again where the file keeps sums only and the base model is at hand."""
    missing = [name for name in names if name in statistics.members and statistics.members[name].rows is None]
    if not missing or target is None:
        return statistics
    from erase_plugins.engine.collect import encode_member
    from erase_plugins.runtime.guard import check_base

    check_base(artifact.manifest, target, edit=artifact.edit)
    recipe = recipe_of(artifact)
    table = {concept.text: concept for concept in artifact.manifest.concepts}
    again = {}
    for name in missing:
        old = statistics.members[name]
        phrases = [*old.facts.get("phrases", [name]), *old.facts.get("aliases", [])]
        rows, guides = encode_member(phrases, str(old.facts["guide"]), table[name].kind, recipe, target)
        again[name] = replace(old, rows=rows, guides=guides)
    return statistics.with_rows(again)


def _refuse_twice(artifacts: Sequence[Artifact]) -> None:
    """Refuses a change that is given twice: their sum would act twice."""
    from erase_plugins.runtime.twice import mark, same_edit

    seen: dict[Any, list[Artifact]] = {}
    for item in artifacts:
        alike = seen.setdefault(mark(item.edit), [])
        if len(item.edit) and any(same_edit(item.edit, other.edit) for other in alike):
            raise RequestError(
                f"'{item.name}' is given twice, and its change would act twice; give it once (to make it stronger, set "
                "the strength when applying)"
            )
        alike.append(item)
