"""Sizes, JSON text."""

from __future__ import annotations

import json

import pytest

from erase_plugins.cli.command import parse_settings, quote
from erase_plugins.cli.console import dump, human_bytes, human_seconds
from erase_plugins.errors import RequestError
from erase_plugins.plain_text import one_line


def test_numbers_for_people():
    assert [human_bytes(size) for size in (None, 12, 1500, 7_500_000, 2e9)] == [
        "unknown", "12 bytes", "1.5 kB", "7.5 MB", "2.0 GB",
    ]  # fmt: skip
    assert [human_seconds(value) for value in (None, 1.25, 90, 7200)] == ["unknown", "1.2 s", "1.5 min", "2.0 h"]


def test_json_has_no_nan():
    assert json.loads(dump({"a": float("nan"), "b": [float("inf"), 1.5], "c": ("x",)})) == {
        "a": None, "b": [None, 1.5], "c": ["x"],
    }  # fmt: skip


def test_settings():
    assert parse_settings(["lam=0.5", "keep-scale = 2", "mode=a=b"]) == {"lam": "0.5", "keep_scale": "2", "mode": "a=b"}
    for wrong in (["lam"], ["=1"], ["a=1", "a=2"]):
        with pytest.raises(RequestError):
            parse_settings(wrong)


def test_quote_and_one_line():
    assert quote("a", "b c") == "a 'b c'"
    assert one_line("a\n  b\tc") == "a b c"
