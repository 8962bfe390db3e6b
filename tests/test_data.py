"""Data by reference: read when it is asked for, hashed in one pass, refused when it changed."""

from __future__ import annotations

import hashlib
import json
import os
import sys

import pytest

from erase_plugins.data import DataRef
from erase_plugins.errors import MissingExtra, RequestError


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    for name, text in (("b/2.png", "two"), ("a/1.png", "one"), ("a/.hidden", "x"), ("top.png", "")):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


@pytest.fixture
def lines(tmp_path):
    path = tmp_path / "facts.jsonl"
    path.write_text('{"text": "a", "label": 1}\n\n{"text": "b"}\n')
    return path


def sha(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


def test_nothing_is_read_before_it_is_asked_for():
    assert DataRef("/nowhere/at/all").name == "all"


def test_the_hash_of_a_folder_by_its_definition(photos):
    parts = [(b"a/1.png", "one"), (b"b/2.png", "two"), (b"top.png", "")]
    expected = hashlib.sha256(b"".join(name + b"\0" + sha(text) + b"\0" for name, text in parts))
    assert DataRef(str(photos)).digest() == expected.hexdigest()


def test_the_hash_depends_on_names_and_contents_only(photos, tmp_path):
    before = DataRef(str(photos)).digest()
    copy = tmp_path / "other name"
    for path in sorted(photos.rglob("*.png"), reverse=True):
        place = copy / path.relative_to(photos)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(path.read_bytes())
        os.utime(place, (1, 1))
    assert DataRef(str(copy)).digest() == before
    (copy / "a" / "1.png").rename(copy / "a" / "3.png")
    assert DataRef(str(copy)).digest() != before


def test_rows_of_a_folder_are_paths_with_labels(photos):
    rows = list(DataRef(str(photos)).rows())
    assert [(row["path"].name, row["label"]) for row in rows] == [("1.png", "a"), ("2.png", "b"), ("top.png", "")]


def test_what_a_file_manager_leaves_in_a_folder_is_no_data(photos):
    """A folder that was looked at on Windows was refused: Thumbs.db is no picture."""
    before = DataRef(str(photos)).digest()
    for name in ("Thumbs.db", "a/desktop.ini", "a/.DS_Store"):
        (photos / name).write_text("x")
    assert DataRef(str(photos)).digest() == before
    assert len(list(DataRef(str(photos)).rows())) == 3


def test_a_split_of_a_folder_is_a_subfolder(photos):
    assert [row["path"].name for row in DataRef(str(photos), "a").rows()] == ["1.png"]


def test_lines_are_read_one_by_one(lines):
    with lines.open("a") as file:
        file.write("broken")
    rows = DataRef(str(lines)).rows()
    assert next(rows) == {"text": "a", "label": 1}
    assert next(rows) == {"text": "b"}
    with pytest.raises(RequestError, match=r"data 'facts.jsonl', line 4 is not a JSON object"):
        next(rows)


def test_the_hash_of_a_file_is_that_of_its_bytes(lines):
    assert DataRef(str(lines)).digest() == hashlib.sha256(lines.read_bytes()).hexdigest()


def test_fields_are_chosen_and_missed_ones_named(lines):
    assert next(DataRef(str(lines), fields=("label",)).rows()) == {"label": 1}
    with pytest.raises(RequestError, match=r"data 'facts.jsonl', row 2 has no field 'label'; it has text"):
        list(DataRef(str(lines), fields=("label",)).rows())


def test_changed_data_is_refused_before_the_first_row(lines):
    pinned = DataRef(str(lines)).pinned()
    assert len(list(pinned.rows())) == 2
    assert pinned.pinned() == pinned
    lines.write_text('{"text": "other"}\n')
    with pytest.raises(RequestError, match=r"data 'facts.jsonl' changed: its hash was [0-9a-f]{12}, now it is"):
        next(pinned.rows())


def test_manifests_do_not_get_the_folders_of_the_user():
    assert DataRef("/home/ada/photos", "train").public().uri == "photos"
    assert DataRef("datasets:/home/ada/cifar").public().uri == "cifar"
    assert DataRef("datasets:ada/cifar").public().uri == "datasets:ada/cifar"
    assert DataRef("C:\\\\ada\\photos").public().uri == "photos"


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda at: at / "missing", "no data at 'missing'; give a folder, a .jsonl file or datasets:NAME"),
        (lambda at: (at / "empty").mkdir(), "data 'empty' is empty: no files in the folder"),
        (lambda at: (at / "empty.jsonl").write_text(" \n"), "data 'empty.jsonl' is empty: no line in the file"),
        (lambda at: (at / "x.jsonl").write_bytes(b'{"a": "\xff"}'), "data 'x.jsonl' is not UTF-8 text"),
        (lambda at: (at / "x.csv").write_text("a,b"), "data 'x.csv' is neither a folder nor a .jsonl file"),
    ],
    ids=["missing", "empty folder", "empty file", "not text", "another format"],
)
def test_bad_data_is_named_in_one_line(make, words, tmp_path):
    make(tmp_path)
    place = next(tmp_path.iterdir(), tmp_path / "missing")
    with pytest.raises(RequestError, match=words) as caught:
        list(DataRef(str(place)).pinned().rows())
    assert "\n" not in str(caught.value)
    assert str(tmp_path) not in str(caught.value)


def test_links_that_leave_the_folder_are_refused(photos, tmp_path):
    (tmp_path / "secret.txt").write_text("secret")
    link = photos / "a" / "link.png"
    link.symlink_to(photos / "top.png")
    assert len(list(DataRef(str(photos)).rows())) == 4
    link.unlink()
    link.symlink_to(tmp_path / "secret.txt")
    with pytest.raises(RequestError, match=r"link.png is a link that leaves the folder"):
        DataRef(str(photos)).digest()
    link.unlink()
    link.symlink_to(photos / "b")
    with pytest.raises(RequestError, match=r"link.png is a link to a folder"):
        DataRef(str(photos)).digest()
    link.unlink()
    link.symlink_to(photos / "gone")
    with pytest.raises(RequestError, match=r"link.png is no file"):
        DataRef(str(photos)).digest()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"split": "train"}, r"has no split 'train'; there are a, b"),
        ({"split": ".."}, r"has no split '..'"),
        ({"fields": ("text",)}, "is a folder of files, which have no fields"),
    ],
)
def test_a_folder_has_no_such_part(arguments, words, photos):
    with pytest.raises(RequestError, match=words):
        DataRef(str(photos), **arguments).digest()


def test_a_file_has_no_splits(lines):
    with pytest.raises(RequestError, match="is one file without splits"):
        DataRef(str(lines), "train").digest()


@pytest.mark.parametrize(
    "arguments",
    [{"uri": ""}, {"uri": "datasets:"}, {"uri": 3}, {"uri": "a", "sha256": "abc"}, {"uri": "a", "fields": (1,)}],
)
def test_a_reference_of_the_wrong_form_is_refused(arguments):
    with pytest.raises(RequestError):
        DataRef(**arguments)


def test_a_dataset_needs_its_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(MissingExtra, match=r"data 'datasets:cifar10' needs an optional package: .*\[data\]"):
        DataRef("datasets:cifar10").digest()


def test_a_dataset_on_disk(tmp_path):
    datasets = pytest.importorskip("datasets", reason="datasets comes with the extra data")
    table = {"text": ["a", "b"], "label": [0, 1]}
    datasets.DatasetDict(train=datasets.Dataset.from_dict(table)).save_to_disk(tmp_path / "cards")
    datasets.Dataset.from_dict(table).save_to_disk(tmp_path / "one")
    several, one = DataRef(f"datasets:{tmp_path}/cards", "train"), DataRef(str(tmp_path / "one"))
    assert list(several.rows()) == list(one.rows()) == [{"text": "a", "label": 0}, {"text": "b", "label": 1}]
    rows = [json.dumps({"label": n, "text": text}) for n, text in enumerate("ab")]
    assert several.digest() == one.digest() == hashlib.sha256(b"".join(map(sha, rows))).hexdigest()
    with pytest.raises(RequestError, match=r"data 'cards \(test\)' has no split 'test'; there are train"):
        DataRef(f"datasets:{tmp_path}/cards", "test").digest()
    with pytest.raises(RequestError, match=r"has no split 'test'; it is one table"):
        DataRef(str(tmp_path / "one"), "test").digest()
