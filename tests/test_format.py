"""docs/format.md describes what is written, field by field."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import pytest

from erase_plugins.artifacts import store
from erase_plugins.artifacts.edit import DELTA_TYPES
from erase_plugins.artifacts.manifest import ArtifactFile, Manifest
from erase_plugins.types import Certificate, DataRef, ForgetItem

PAGE = (Path(__file__).parent.parent / "docs" / "format.md").read_text(encoding="utf-8")
RECORDS = (Manifest, ForgetItem, DataRef, Certificate, ArtifactFile)
#: words of the page for the annotations of the code
TYPES = {
    "str": "text", "int": "integer", "float": "number", "bool": "true or false", "str | None": "text or null",
    "float | None": "number or null", "int | str | None": "integer or text", "tuple[str, ...]": "list of texts",
    "Mapping[str, Any]": "object", "Mapping[str, str]": "object", "Mapping[str, float]": "object",
    "tuple[Mapping[str, Any], ...]": "list of objects", "tuple[tuple[str, float], ...]": "list of [text, number]",
    "DataRef | None": "DataRef", "Certificate | None": "Certificate", "tuple[ForgetItem, ...]": "list of ForgetItem",
    "tuple[DataRef, ...]": "list of DataRef", "tuple[ArtifactFile, ...]": "list of ArtifactFile",
}  # fmt: skip


def table(title: str) -> dict[str, list[str]]:
    """Field -> further cells of the table under a heading."""
    part = PAGE.split(f"### {title}\n")[1].split("\n## ")[0].split("\n### ")[0]
    rows = [
        [cell.strip() for cell in line.strip("|").split(" | ")] for line in part.splitlines() if line.startswith("| `")
    ]
    return {row[0].strip("` "): row[1:] for row in rows}


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: record.__name__)
def test_the_page_has_every_field_with_its_type(record):
    fields = {item.name: TYPES[item.type] for item in dataclasses.fields(record) if item.name != "extra"}
    found = table(record.__name__)
    assert {name: cells[0] for name, cells in found.items()} == {"schema": "integer", **fields}
    assert found["schema"][2] == str(record.schema)
    assert all(len(cells) == 3 and cells[2] for cells in found.values())


def test_fields_of_later_releases_are_sparse_and_the_others_are_in_the_first_files():
    frozen = json.loads((Path(__file__).parent / "artifacts/frozen/closed-form/erase.json").read_text())
    for record, data in ((Manifest, frozen), (ForgetItem, frozen["concepts"][0]), (ArtifactFile, frozen["files"][0])):
        first = {name for name, cells in table(record.__name__).items() if cells[1] == "0.1"}
        assert first == set(data) - {"numbers"}
        later = {item.name for item in dataclasses.fields(record) if item.metadata.get("sparse")}
        assert later == set(table(record.__name__)) - first


def test_the_page_has_every_kind_of_change_with_its_tensors():
    kinds = dict(re.findall(r"^\| `(\w+)` \| ([^|]+) \| ", PAGE[PAGE.index("| KIND |") :], re.MULTILINE))
    assert set(kinds) == {*DELTA_TYPES, "addon", "bias"}
    for name, cls in DELTA_TYPES.items():
        fields = [item.name for item in dataclasses.fields(cls) if item.name != "kind"]
        assert re.findall(r"`(\w+)`", kinds[name]) == fields


def test_the_limits_on_the_page_are_those_of_the_code():
    assert f"at most {store.MOST_MANIFEST_BYTES // 1_000_000} MB, that lists at most {store.MOST_FILES} files" in PAGE


def test_unknown_fields_are_kept_and_written_back():
    text = (Path(__file__).parent / "artifacts/frozen/gated/erase.json").read_text()
    data = {**json.loads(text), "of_next_year": {"a": [1]}}
    data["concepts"][0]["colour"] = "red"
    assert json.loads(Manifest.from_json(json.dumps(data)).to_json()) == data
