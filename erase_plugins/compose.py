"""Algebra of artifacts: merge, add a concept, revoke a concept. Nothing is ever edited twice.

Closed-form artifacts are solved again from their statistics, so the result is the joint solution; everything else is
summed exactly. Gated artifacts hold one memory per concept, which are added and taken away as they are.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from itertools import combinations
from types import SimpleNamespace
from typing import Any

from erase_plugins.artifacts.absent import absent
from erase_plugins.artifacts.artifact import Artifact
from erase_plugins.artifacts.edit import Edit
from erase_plugins.artifacts.gated import is_gated, without
from erase_plugins.artifacts.lineage import CHAIN, together
from erase_plugins.artifacts.lowrank import total
from erase_plugins.artifacts.manifest import Manifest, slug
from erase_plugins.artifacts.overlap import in_both
from erase_plugins.artifacts.policy import policies
from erase_plugins.artifacts.solved import DENOISER, statistics_of
from erase_plugins.artifacts.statistics import Member, Statistics
from erase_plugins.artifacts.store import lower_for
from erase_plugins.errors import ArtifactError, BaseMismatch, PluginAbsent, RequestError, UnknownName
from erase_plugins.given import checked
from erase_plugins.hints import Hint, stored
from erase_plugins.manager import get_manager
from erase_plugins.plain_text import whole_words
from erase_plugins.types import Concept
from erase_plugins.workflow.artifacts import load_artifact

MODES = ("auto", "joint", "sum")
#: so many notes and so many warnings of what was merged are kept
_MOST_TEXTS = 24


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
            return _summed(loaded, factors, target, note)
    return _summed(loaded, factors, target, "summed as asked")


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
    _method(first.manifest.method["id"], first.manifest)
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
        both = _summed([first, second], [1.0, 1.0], target, "one gated memory per concept, side by side", "add")
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
    return _solved(_without_notes(loaded.manifest, names), statistics, remaining, kept, entry)


def _ungated(artifact: Artifact, names: Sequence[str]) -> Artifact:
    """A gated artifact without the memories of some concepts; nothing of the others changes."""
    edit = without(artifact.edit, names, artifact.name)
    remaining = tuple(item for item in artifact.manifest.concepts if item.text not in names)
    entry = {"action": "revoke", "concepts": list(names), "at": now()}
    return Artifact(
        _without_notes(artifact.manifest, names).changed(
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
    recipe = _recipe(artifact)
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


def _refuse_forms(artifacts: Sequence[Artifact], edits: Sequence[Edit]) -> None:
    """Refuses an artifact beside a file of its own in another layout."""
    from erase_plugins.runtime.twice import same_change

    for (first, one), (second, other) in combinations(zip(artifacts, edits, strict=True), 2):
        if same_change(one, other):
            raise RequestError(
                f"'{second.name}' is '{first.name}' in another form, and its change would act twice; give it once"
            )


def same_base(artifacts: Sequence[Artifact]) -> None:
    """Refuses artifacts of different bases.

    Raises:
        BaseMismatch: names both.
    """
    from erase_plugins.artifacts.fingerprint import base_difference

    first = artifacts[0].manifest
    for item in artifacts[1:]:
        difference = base_difference(first.base, item.manifest.base)
        if difference:
            raise BaseMismatch(f"'{first.name}' and '{item.name}' were made for different bases: {difference}")


def joint(
    artifacts: Sequence[Artifact],
    strengths: Sequence[float] | None = None,
    target: Any = None,
    *,
    encode: bool = False,
    action: str = "merge",
) -> Artifact:
    """The joint solution of closed-form artifacts.

    Args:
        artifacts: of one method, settings and base.
        strengths: how far each is moved to what it becomes; 1 if None.
        target: solve on its effective weights, LoRAs included; None uses what was stored.
        encode: also encode all phrases again with the target's text encoder.
        action: word for the history.

    Raises:
        ArtifactError: no statistics, or settings differ.
    """
    parts = [statistics_of(item.edit, item.name) for item in artifacts]
    if target is not None:
        from erase_plugins.engine.collect import refresh

        recipes = [_recipe(item) if encode else None for item in artifacts]
        parts = [
            _renewed(refresh(part, target, recipe), target, item.manifest)
            for part, recipe, item in zip(parts, recipes, artifacts, strict=True)
        ]
    factors = [1.0] * len(parts) if strengths is None else strengths
    parts = [part.at(float(factor)) for part, factor in zip(parts, factors, strict=True)]
    statistics = parts[0].joined(parts[1:])
    # of a concept that several erase, the first one's rows hold
    table = {concept.text: concept for item in reversed(artifacts) for concept in item.manifest.concepts}
    concepts = tuple(table[name] for name in statistics.members)
    kept = tuple(sorted({text for item in artifacts for text in item.manifest.preserve} - set(table)))
    entry = {"action": action, "members": sorted(item.name for item in artifacts)}
    manifest = _of_all(artifacts, action)
    told = tuple(
        f"'{name}' was erased otherwise in '{item.name}', which does not count: the first one's holds"
        for name, item in _otherwise(artifacts, parts)
    )
    return _solved(replace(manifest, warnings=(*told, *manifest.warnings)), statistics, concepts, kept, entry)


def _otherwise(artifacts: Sequence[Artifact], parts: Sequence[Statistics]) -> Iterator[tuple[str, Artifact]]:
    """Concepts, with the artifact, that an earlier one erases with another guide, weight or phrases."""
    first: dict[str, Member] = {}
    for artifact, part in zip(artifacts, parts, strict=True):
        for name, member in part.members.items():
            if not first.setdefault(name, member).same(member):
                yield name, artifact


def _of_all(artifacts: Sequence[Artifact], action: str) -> Manifest:
    """The first one's manifest with the notes and warnings of all, as far as somebody would read them."""
    found: dict[str, Any] = {}
    erased = {concept.text for item in artifacts for concept in item.manifest.concepts}
    kept = sorted({text for item in artifacts for text in item.manifest.preserve} & erased)
    own = {"notes": [], "warnings": [f"'{text}' is erased, although one of the parts was to keep it" for text in kept]}
    for name in ("notes", "warnings"):
        first = own[name] if action == "merge" else []  # who adds a concept by name means it
        texts = list(dict.fromkeys([*first, *(text for item in artifacts for text in getattr(item.manifest, name))]))
        more = [f"{len(texts) - _MOST_TEXTS} more {name} stand in what was merged"] if len(texts) > _MOST_TEXTS else []
        found[name] = (*texts[:_MOST_TEXTS], *more)
    return replace(artifacts[0].manifest, **found)


def _without_notes(manifest: Manifest, gone: Sequence[str]) -> Manifest:
    """The manifest without the notes and warnings that name what is gone and nothing that stays."""
    stays = [item.text for item in manifest.concepts if item.text not in gone]

    def holds(text: str) -> bool:
        return _names(text, stays) or not _names(text, gone)

    return replace(
        manifest, notes=tuple(filter(holds, manifest.notes)), warnings=tuple(filter(holds, manifest.warnings))
    )


def _names(text: str, concepts: Sequence[str]) -> bool:
    return any(re.search(whole_words(name), text) for name in concepts if name.strip())


def _method(name: Any, manifest: Manifest) -> Any:
    """The method that an artifact needs to be solved again.

    Raises:
        PluginAbsent: nobody here has it; names the package.
    """
    try:
        return get_manager().method(str(name))
    except UnknownName as error:
        raise absent(manifest.name, "method", str(name), manifest) from error


def _renewed(statistics: Statistics, target: Any, manifest: Manifest) -> Statistics:
    """What a method keeps of the model's weights, read off ``target``; `renew` is optional."""
    renew = getattr(_method(statistics.solver["method"], manifest), "renew", None)
    found: Statistics = statistics if renew is None else renew(statistics, target)
    return found


def _recipe(artifact: Artifact) -> Any:
    method = _method(artifact.manifest.method["id"], artifact.manifest)
    return method.Options(**artifact.manifest.options).recipe()


def _solved(
    manifest: Manifest,
    statistics: Statistics,
    concepts: tuple[Concept, ...],
    preserve: tuple[str, ...],
    entry: dict[str, Any],
) -> Artifact:
    edit = _method(statistics.solver["method"], manifest).solve(statistics, _family(manifest.family))
    return Artifact(
        manifest.changed(
            name=merged_name(concepts), concepts=concepts, preserve=preserve, kinds=tuple(sorted(edit.kinds)),
            rank=edit.rank, created=now(), history=(*manifest.history, {**entry, "at": now()}),
        ),
        edit,
    )  # fmt: skip


def _family(name: str) -> Any:
    """A family by its id; its name and the usual denoiser where it is not installed here."""
    try:
        return get_manager().family(name)
    except UnknownName:
        return SimpleNamespace(id=name, denoiser=DENOISER)


def _summed(
    artifacts: Sequence[Artifact], factors: Sequence[float], target: Any, note: str, action: str = "merge"
) -> Artifact:
    edits = [item.edit for item in artifacts]
    mixed = any("contextmap" in edit.kinds for edit in edits) and any(edit.kinds - {"contextmap"} for edit in edits)
    if mixed:
        if target is None:
            raise ArtifactError(
                "context maps and weight changes can be summed only with the base model; ", Hint("model", before="give")
            )
        edits = [lower_for(edit, target) for edit in edits]
    _refuse_forms(artifacts, edits)
    edit = total(list(zip(edits, factors, strict=True)))
    proven = next((item.manifest.certificate for item in artifacts if item.manifest.certificate), None)
    first = replace(_of_all(artifacts, action), certificate=proven)  # so that its loss is told
    table = {concept.name: concept for item in artifacts for concept in item.manifest.concepts}
    concepts = tuple(table[name] for name in sorted(table))
    kept = tuple(sorted({text for item in artifacts for text in item.manifest.preserve} - set(table)))
    methods = sorted({str(item.manifest.method["id"]) for item in artifacts})
    entry = {"action": action, "members": [item.name for item in artifacts], "weights": list(factors), "at": now()}
    chain, orphans = together(artifacts)
    first = replace(first, warnings=(*_counted_twice(artifacts), *first.warnings))
    if orphans:
        note = f"{note}; {', '.join(orphans)} was trained on top of others that are not in it"
    if chain is not None:
        first = replace(first, extra={**first.extra, CHAIN: chain})
    manifest = first.changed(
        name=merged_name(concepts), concepts=concepts, preserve=kept, method={**first.method, "id": "+".join(methods)},
        kinds=tuple(sorted(edit.kinds)), rank=edit.rank, created=now(), notes=(*first.notes, note),
        history=(*first.history, entry),
    )  # fmt: skip
    return Artifact(manifest, edit)


def _counted_twice(artifacts: Sequence[Artifact]) -> Iterator[str]:
    """What a sum holds twice, though it was meant once."""
    for first, second in combinations(artifacts, 2):
        if set(first.manifest.erased) & set(second.manifest.erased) and (both := in_both(first, second)):
            yield f"'{first.name}' and '{second.name}' both hold {', '.join(both)}, which counts twice in their sum"


def merged_name(concepts: Sequence[Concept]) -> str:
    """Name of an artifact that erases these concepts."""
    texts = [concept.name for concept in concepts]
    if len(texts) > 3:
        return slug(f"erase_{texts[0]}_and_{len(texts) - 1}_more")
    return slug("erase_" + "_".join(texts))


def now() -> str:
    """UTC time for manifests."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
