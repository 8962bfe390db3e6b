"""Sizes, JSON text."""

from __future__ import annotations

import json
import warnings

import pytest

from erase_plugins.cli import console
from erase_plugins.cli.command import parse_settings, quiet_libraries, quote
from erase_plugins.cli.console import dump, human_bytes, human_seconds, table
from erase_plugins.errors import RequestError
from erase_plugins.plain_text import one_line


def test_numbers_for_people():
    assert [human_bytes(size) for size in (None, 12, 1500, 7_500_000, 2e9)] == [
        "unknown", "12 bytes", "1.5 kB", "7.5 MB", "2.0 GB",
    ]  # fmt: skip
    assert [human_seconds(value) for value in (None, 1.25, 90, 7200)] == ["unknown", "1.2 s", "1.5 min", "2.0 h"]


def test_a_log_gets_a_line_per_tenth_of_what_takes_long(capsys, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(console.time, "monotonic", lambda: clock[0])
    with console.progress() as bar:
        for step in range(401):
            bar.update("esd", step, 400, {"loss": 0.5})
            clock[0] += 0.5
        for step in range(101):
            bar.update("drawing", step, 100)
            clock[0] += 0.01
    said = capsys.readouterr().err.splitlines()
    assert [line.partition(",")[0] for line in said] == [f"esd: {step} of 400" for step in range(40, 400, 40)]
    assert said[0] == "esd: 40 of 400, about 3.0 min left (loss 0.5)"
    with console.progress() as bar:
        bar.update("esd", 0, 0)
        bar.update("esd", 3, 0)
    assert capsys.readouterr().err == ""


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


@pytest.mark.parametrize(("width", "side_by_side"), [(60, False), (120, True)])
def test_a_terminal_too_narrow_for_the_columns_gets_the_rows_one_below_the_other(
    capsys, monkeypatch, width, side_by_side
):
    """Columns of four letters broke every word."""
    monkeypatch.setenv("COLUMNS", str(width))
    columns = ("option", "type", "default", "allowed", "status", "help")
    table("options", columns, [
        ("alias_threshold", "float", "0.9", "0..1", "", "closeness from which a word of the vocabulary counts"),
        ("vocabulary", "int", "", "0..50000", "ok", "common words that are kept automatically"),
    ])  # fmt: skip
    lines = capsys.readouterr().out.splitlines()
    assert all(len(line) <= width for line in lines)
    assert any(line.split()[:4] == ["alias_threshold", "float", "0.9", "0..1"] for line in lines) == side_by_side
    if not side_by_side:
        assert lines[:4] == ["options", "alias_threshold", "  type: float", "  default: 0.9"]
        assert "  help: closeness from which a word of the vocabulary counts" in lines
        assert not [line for line in lines if line.endswith(": ")], "empty cells are left out"


def test_our_warnings_are_lines_without_a_place_in_the_source(capsys, monkeypatch):
    others = []
    monkeypatch.setattr(
        "erase_plugins.cli.command._python_shows", lambda _message, category, *_place, **_more: others.append(category)
    )
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        quiet_libraries()
        warnings.warn("46% of the way is left", stacklevel=1)
        assert capsys.readouterr().err == "warning: 46% of the way is left\n"
        warnings.warn("odd numbers", RuntimeWarning, stacklevel=1)
        assert others == [RuntimeWarning]
