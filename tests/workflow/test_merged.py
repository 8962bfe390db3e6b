"""What the manifest of several artifacts in one says."""

from __future__ import annotations

import pytest

from erase_plugins.artifacts.artifact import Artifact
from erase_plugins.artifacts.edit import Edit
from erase_plugins.artifacts.manifest import Manifest
from erase_plugins.types import Concept, DataRef
from erase_plugins.workflow.merged import of_all


def made(erased, *kept, data=()):
    """An artifact that erases one thing and keeps others."""
    manifest = Manifest(name=erased, method={"id": "uce"}, concepts=(Concept(erased),), base={}, preserve=kept,
                        retain_data=tuple(map(DataRef, data)))  # fmt: skip
    return Artifact(manifest, Edit("sd1", {}))


@pytest.mark.parametrize("action", ["merge", "add"])
def test_what_one_keeps_is_kept_unless_another_erases_it(action):
    found = of_all(
        [made("owl", "tree", "car", data=["a.jsonl"]), made("car", "sea", "tree", data=["b.jsonl", "a.jsonl"])], action
    )
    assert found.preserve == ("sea", "tree")
    assert [item.uri for item in found.retain_data] == ["a.jsonl", "b.jsonl"]
    told = ("'car' is erased, although one of the parts was to keep it",)
    assert found.warnings == (told if action == "merge" else ())
