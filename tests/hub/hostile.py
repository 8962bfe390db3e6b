"""Hostile repositories: what somebody may publish, put into the test Hub behind the client's back.

Each case changes the files of a sound repository (or of a collection) and may pull in an odd way. None may load, write
outside the cache, change a model, or end in more than one line.
"""

from __future__ import annotations

import io
import json
import pickle
import struct
import sys
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

Files = dict[str, bytes]

WEIGHTS, MANIFEST, INDEX = "edit.safetensors", "erase.json", "collection.json"


@dataclass(frozen=True)
class Hostile:
    """One case: its name, what it does to the files, and what is pulled ("{repo}" stands for the repository)."""

    name: str
    change: Callable[[Files], None] = lambda files: None
    spec: str = "{repo}"
    collection: bool = False
    layouts: tuple[str, ...] = ("all",)


def sealed(files: Files, name: str, data: bytes, folder: str = "") -> None:
    """A file with other bytes, to which the manifest (and the index) is true."""
    import hashlib

    files[folder + name] = data
    manifest = json.loads(files[folder + MANIFEST])
    for row in manifest["files"]:
        if row["name"] == name:
            row.update(bytes=len(data), sha256=hashlib.sha256(data).hexdigest())
    files[folder + MANIFEST] = json.dumps(manifest).encode()
    if folder:
        index = json.loads(files[INDEX])
        index["artifacts"][folder[:-1]]["sha256"] = hashlib.sha256(files[folder + MANIFEST]).hexdigest()
        files[INDEX] = json.dumps(index).encode()


def changed(name: str, edit: Callable[[Any], Any]) -> Callable[[Files], None]:
    """Changes a JSON file."""

    def change(files: Files) -> None:
        data = json.loads(files[name])
        made = edit(data)
        files[name] = json.dumps(data if made is None else made).encode("utf-8", "surrogatepass")

    return change


def put(name: str, data: bytes) -> Callable[[Files], None]:
    """Replaces or adds a file."""
    return lambda files: files.update({name: data})


def field(name: str, value: Any) -> Callable[[Files], None]:
    """A field of the manifest with another value."""
    return changed(MANIFEST, lambda data: data.update({name: value}))


def row(**values: Any) -> Callable[[Files], None]:
    """The first row of the manifest's file list with other values; a file of that name is there."""

    def change(files: Files) -> None:
        old = json.loads(files[MANIFEST])["files"][0]["name"]
        name = values.get("name")
        if isinstance(name, str) and name not in files:
            files[name] = files[old]
        changed(MANIFEST, lambda data: data["files"][0].update(values))(files)

    return change


class _Evil:
    def __reduce__(self) -> Any:
        return (sys.exit, ("a pickle was executed",))


def _zip() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("../../x", bytes(100_000))
    return buffer.getvalue()


def _header(entries: Any, data: bytes = b"") -> bytes:
    text = entries if isinstance(entries, bytes) else json.dumps(entries).encode()
    return struct.pack("<Q", len(text)) + text + data


def _tensor(shape: list[Any], begin: Any, end: Any, dtype: Any = "F32") -> dict[str, Any]:
    return {"unet|context|contextmap|A": {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}}


NAMES = (
    "../up.safetensors", "../../../up.safetensors", "/etc/passwd", "/tmp/abs.safetensors", "a/b/c.safetensors", "..", ".", "",
    "C:\\x.safetensors", "a\\b.safetensors", "..\\..\\x", "~/x", "x\x00y", ".hidden", ".git/config", "con/../../x", "x/../y",
    "./x", "x//y/z", "ünï.safetensors", "x" * 400, "x y", "x\ty", "%2e%2e/x", "-rf", "a:b", "edit.safetensors ", "x|y", "*",
    "$HOME", "x\r", "\u202eevil", 7, None, ["x"], {"a": 1}, True, "refs/../../x", "snapshots/../x", "blobs/..",
    "con.safetensors", "NUL", "a/aux.txt", "edit.safetensors.", "erase.json", "Erase.JSON",
)  # fmt: skip
TEXTS: dict[str, bytes] = {
    "empty": b"", "list": b"[]", "null": b"null", "open brace": b"{", "number": b"1e999", "utf-16": '{"a":1}'.encode("utf-16"),
    "not utf-8": b"\xff\xfe{}", "9 MB": b" " * 9_000_000, "deep lists": b"[" * 100_000 + b"]" * 100_000,
    "deep objects": b'{"a":' * 5000 + b"1" + b"}" * 5000, "html": b"<!doctype html><title>x</title>",
    "many digits": b'{"seed":' + b"9" * 6000 + b"}", "pickle": pickle.dumps(_Evil()), "zip": _zip(),
    "twice the same key": b'{"name":"a","name":"b"}', "NaN": b'{"seed": NaN}',
}  # fmt: skip
FILES: dict[str, bytes] = {
    "empty": b"", "pickle": pickle.dumps(_Evil()), "zip": _zip(), "html": b"<!doctype html>" * 10, "zeros": bytes(5000),
    "huge header": struct.pack("<Q", 2**40) + b"{}", "largest header": struct.pack("<Q", 2**64 - 1) + b"{}",
    "header is a list": _header([]), "header is empty": _header({}), "header is no JSON": _header(b"{"),
    "deep header": _header(b'{"__metadata__":' + b"[" * 50_000 + b"]" * 50_000 + b"}"),
    "negative offset": _header(_tensor([1], -4, 0), bytes(4)), "offsets beyond the end": _header(_tensor([1], 0, 2**60)),
    "overlapping": _header({**_tensor([1], 0, 4), "x": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}, bytes(4)),
    "negative shape": _header(_tensor([-1], 0, 4), bytes(4)), "shape overflows": _header(_tensor([2**62, 4], 0, 4), bytes(4)),
    "shape of texts": _header(_tensor(["x"], 0, 4), bytes(4)), "unknown dtype": _header(_tensor([1], 0, 4, "F9"), bytes(4)),
    "dtype is null": _header(_tensor([1], 0, 4, None), bytes(4)), "a hole": _header(_tensor([1], 4, 8), bytes(8)),
    "tensor is a text": _header({"x": "y"}), "strange names": _header(_tensor([1], 0, 4) | {"\ud800": {}}, bytes(4)),
}  # fmt: skip
REVISIONS = (
    "..", "../..", "a/../b", "../../../../x", "refs/heads/../../x", "/abs", "x/", "a//b", ".hidden", "x.lock", "-x", "x~1", "x^",
    "x:y", "x?y", "x*", "a b", "a\\b", "@{0}", "x\x00y", "a\nb", "%2e%2e", "x" * 300,
)  # fmt: skip
REPOSITORIES = (
    "../x", "a/../b", "a/b/c", "/a/b", "a\\b", "a/b\n", "a/b\x00", "a/.git", "a/b.git", "a--b/c", "ü/x", "a/b c", "a/..",
    "http://a/b", "file:///etc/passwd",
)  # fmt: skip


def _member(name: str) -> Callable[[Files], None]:
    """An index that gives a member another name; its files are there under it."""

    def change(files: Files) -> None:
        files.update(
            {f"{name}/{key.split('/')[1]}": data for key, data in list(files.items()) if key.startswith("pizza/")}
        )
        changed(INDEX, lambda data: data["artifacts"].update({name: data["artifacts"].pop("pizza")}))(files)

    return change


def cases() -> Iterator[Hostile]:
    """All of them."""
    for name in NAMES:
        yield Hostile(f"file name {ascii(name)[:40]}", row(name=name))
    for name, text in TEXTS.items():
        yield Hostile(f"manifest: {name}", put(MANIFEST, text))
    for name, data in FILES.items():
        yield Hostile(f"weights: {name}", lambda files, data=data: sealed(files, WEIGHTS, data))
    for name in REVISIONS:
        yield Hostile(f"revision {ascii(name)[:40]}", spec="{repo}@" + name)
    for name in REPOSITORIES:
        yield Hostile(f"repository {name!a}", spec=name)
    for name, text in TEXTS.items():
        yield Hostile(f"index: {name}", put(INDEX, text), collection=True)
    for name in ("..", "../x", "/x", "a/b", "x\n", ".x", "", "x" * 300, "a\\b", "x\x00"):
        yield Hostile(f"member {ascii(name)[:40]}", _member(name), collection=True)
    yield Hostile("weights changed", lambda files: files.update({WEIGHTS: files[WEIGHTS][:-1] + b"?"}))
    yield Hostile("weights of another size", lambda files: files.update({WEIGHTS: files[WEIGHTS] + b"?"}))
    yield Hostile("weights missing", lambda files: files.pop(WEIGHTS) and None)
    yield Hostile("no files", field("files", []))
    yield Hostile("files are a text", field("files", "x"))
    yield Hostile("101 files", changed(MANIFEST, lambda data: data.update(files=_many(data, 101))))
    yield Hostile("names that differ in case", changed(MANIFEST, lambda data: data["files"].append(
        {**data["files"][0], "name": data["files"][0]["name"].upper()})))  # fmt: skip
    yield Hostile("a file twice", changed(MANIFEST, lambda data: data["files"].append(data["files"][0])))
    yield Hostile("bytes below zero", row(bytes=-1))
    yield Hostile("bytes as text", row(bytes="1"))
    yield Hostile("bytes of an exabyte", row(bytes=2**60))
    yield Hostile("hash of another file", row(sha256="0" * 64))
    yield Hostile("hash is empty", row(sha256=""))
    yield Hostile(
        "unknown layout", changed(MANIFEST, lambda data: [item.update(layout="x") for item in data["files"]] and None)
    )
    yield Hostile("unknown family", changed(MANIFEST, lambda data: data["base"].update(family="x")))
    yield Hostile("no method", field("method", {}))
    yield Hostile("concepts are numbers", field("concepts", [1, 2]))
    yield Hostile("name with a folder", field("name", "../x"))
    yield Hostile("seed is a list", field("seed", []))
    yield Hostile("strength is huge", field("strength", {"recommended": 1e300}))
    yield Hostile("another member's manifest", lambda files: files.update({f"pizza/{MANIFEST}": files[f"hamburger/{MANIFEST}"]}),
                  collection=True)  # fmt: skip
    yield Hostile("schema of the future", changed(INDEX, lambda data: data.update(schema=99)), collection=True)
    # the four that passed
    yield Hostile("10,000 files", changed(MANIFEST, lambda data: data.update(files=_many(data, 10_000))))
    yield Hostile("file name with a line end", row(name="edit2.safetensors\n"))
    yield Hostile("name with a line end", field("name", "erase_pizza\n"))


def _many(data: Any, count: int) -> list[Any]:
    first = data["files"][0]
    return [{**first, "name": f"f{number}.safetensors"} for number in range(count)]
