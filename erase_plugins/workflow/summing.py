"""The exact sum of artifacts of any kind."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import combinations
from typing import Any

from erase_plugins.artifacts.artifact import Artifact
from erase_plugins.artifacts.edit import Edit
from erase_plugins.artifacts.lineage import CHAIN, together
from erase_plugins.artifacts.lowrank import total
from erase_plugins.artifacts.overlap import MEMBERS, in_both, member_marks
from erase_plugins.artifacts.store import lower_for
from erase_plugins.errors import ArtifactError, RequestError
from erase_plugins.hints import Hint
from erase_plugins.workflow.merged import merged_name, now, of_all


def summed(
    artifacts: Sequence[Artifact], factors: Sequence[float], target: Any, note: str, action: str = "merge"
) -> Artifact:
    """All changes together, each times its factor; ``note`` and ``action`` say in the manifest how it came about.

    Raises:
        ArtifactError: context maps beside other changes, and no base model to turn them into weights.
        RequestError: one of them is another in another form.
    """
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
    first = replace(of_all(artifacts, action), certificate=proven)  # so that its loss is told
    table = {concept.name: concept for item in artifacts for concept in item.manifest.concepts}
    concepts = tuple(table[name] for name in sorted(table))
    methods = sorted({str(item.manifest.method["id"]) for item in artifacts})
    entry = {"action": action, "members": [item.name for item in artifacts], "weights": list(factors), "at": now()}
    chain, orphans = together(artifacts)
    first = replace(first, warnings=(*_counted_twice(artifacts), *first.warnings))
    if orphans:
        note = f"{note}; {', '.join(orphans)} was trained on top of others that are not in it"
    marks = {name: mark for item in artifacts if MEMBERS in item.manifest.extra
             for name, mark in member_marks(item).items()}  # fmt: skip
    more = {**({MEMBERS: marks} if marks else {}), **({} if chain is None else {CHAIN: chain})}
    first = replace(first, extra={**first.extra, **more})
    manifest = first.changed(
        name=merged_name(concepts), concepts=concepts, method={**first.method, "id": "+".join(methods)},
        kinds=tuple(sorted(edit.kinds)), rank=edit.rank, created=now(), notes=(*first.notes, note),
        history=(*first.history, entry),
    )  # fmt: skip
    return Artifact(manifest, edit)


def _refuse_forms(artifacts: Sequence[Artifact], edits: Sequence[Edit]) -> None:
    """Refuses an artifact beside a file of its own in another layout."""
    from erase_plugins.runtime.twice import same_change

    for first, second in combinations(zip(artifacts, edits, strict=True), 2):
        if same_change(first, second):
            raise RequestError(
                f"'{second[0].name}' is '{first[0].name}' in another form, and its change would act twice; give it once"
            )


def _counted_twice(artifacts: Sequence[Artifact]) -> Iterator[str]:
    """What a sum holds twice, though it was meant once."""
    for first, second in combinations(artifacts, 2):
        if set(first.manifest.erased) & set(second.manifest.erased) and (both := in_both(first, second)):
            yield f"'{first.name}' and '{second.name}' both hold {', '.join(both)}, which counts twice in their sum"
