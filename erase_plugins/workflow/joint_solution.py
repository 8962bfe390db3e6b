"""The joint solution of closed-form artifacts, from their statistics."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

from erase_plugins.artifacts.absent import absent
from erase_plugins.artifacts.artifact import Artifact
from erase_plugins.artifacts.manifest import Manifest
from erase_plugins.artifacts.solved import DENOISER, statistics_of
from erase_plugins.artifacts.statistics import Member, Statistics
from erase_plugins.errors import UnknownName
from erase_plugins.manager import get_manager
from erase_plugins.types import Concept
from erase_plugins.workflow.merged import merged_name, now, of_all


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

        recipes = [recipe_of(item) if encode else None for item in artifacts]
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
    entry = {"action": action, "members": sorted(item.name for item in artifacts)}
    manifest = of_all(artifacts, action)
    told = tuple(
        f"'{name}' was erased otherwise in '{item.name}', which does not count: the first one's holds"
        for name, item in _otherwise(artifacts, parts)
    )
    manifest = replace(manifest, warnings=(*told, *manifest.warnings))
    return solved(manifest, statistics, concepts, manifest.preserve, entry)


def _otherwise(artifacts: Sequence[Artifact], parts: Sequence[Statistics]) -> Iterator[tuple[str, Artifact]]:
    """Concepts, with the artifact, that an earlier one erases with another guide, weight or phrases."""
    first: dict[str, Member] = {}
    for artifact, part in zip(artifacts, parts, strict=True):
        for name, member in part.members.items():
            if not first.setdefault(name, member).same(member):
                yield name, artifact


def method_of(name: Any, manifest: Manifest) -> Any:
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
    renew = getattr(method_of(statistics.solver["method"], manifest), "renew", None)
    found: Statistics = statistics if renew is None else renew(statistics, target)
    return found


def recipe_of(artifact: Artifact) -> Any:
    """How the rows of an artifact were collected, from its options."""
    method = method_of(artifact.manifest.method["id"], artifact.manifest)
    return method.Options(**artifact.manifest.options).recipe()


def solved(
    manifest: Manifest,
    statistics: Statistics,
    concepts: tuple[Concept, ...],
    preserve: tuple[str, ...],
    entry: dict[str, Any],
) -> Artifact:
    """The artifact that its method solves from these statistics; ``entry`` goes into its history."""
    edit = method_of(statistics.solver["method"], manifest).solve(statistics, _family(manifest.family))
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
