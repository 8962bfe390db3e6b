"""The chain of lines: what is written is read, every changed byte is found, and lines are complete or absent."""

from __future__ import annotations

import hashlib
import json

import pytest

from erase_plugins.artifacts import chain
from erase_plugins.errors import CorruptArtifact

BODIES = [{"event": "open", "n": 1.5}, {"event": "no", "text": "ü\n"}, {"event": "end", "list": [1, None, True]}]


def test_a_line_holds_the_hash_of_its_body_and_of_the_line_before():
    entries = chain.linked(BODIES)
    head = "0" * 64
    for body, entry in zip(BODIES, entries, strict=True):
        text = json.dumps(body, sort_keys=True, separators=(",", ":"))
        wanted = hashlib.sha256(f"{head}\n{text}".encode()).hexdigest()
        assert entry == {**body, "prev": head, "hash": wanted}
        head = wanted
    assert chain.head_of(entries) == head
    assert chain.head_of([]) == chain.START


def test_what_is_written_is_read_and_goes_on(tmp_path):
    path = tmp_path / "lines.jsonl"
    assert chain.read(path) == []
    chain.write(path, chain.linked(BODIES[:2]))
    first = chain.read(path)
    chain.write(path, [*first, *chain.linked(BODIES[2:], chain.head_of(first))])
    assert chain.read(path) == chain.linked(BODIES)
    assert [item.name for item in tmp_path.iterdir()] == ["lines.jsonl"]


def test_every_changed_byte_is_found():
    content = chain.text(chain.linked(BODIES)).encode()
    for place in range(len(content)):
        for flip in (1, 4, 128):
            changed = content[:place] + bytes([content[place] ^ flip]) + content[place + 1 :]
            with pytest.raises(CorruptArtifact):
                chain.parsed(changed)
    for cut in range(1, len(content)):
        if content[cut - 1 : cut] != b"\n":
            with pytest.raises(CorruptArtifact, match="no end"):
                chain.parsed(content[:cut])


def test_numbers_that_are_none_are_not_written():
    with pytest.raises(ValueError, match="JSON"):
        chain.linked([{"x": float("nan")}])


def test_a_folder_is_no_chain(tmp_path):
    with pytest.raises(CorruptArtifact, match="cannot be read"):
        chain.read(tmp_path)
