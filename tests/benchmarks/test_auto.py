"""Who is better than `auto`, and when that is known without a picture."""

from __future__ import annotations

from argparse import Namespace
from types import SimpleNamespace

import pytest

from benchmarks import auto


def item(change: float, values: list[float]) -> dict[str, object]:
    return {"label": "one", "seconds": 1.0, "change": change, "values": values, "parts": {"name": 0.1}}


def test_better_is_clearly_less_left_at_equal_change() -> None:
    taken = item(0.01, [0.5, 0.6, 0.7, 0.8])
    assert auto.beats(item(0.01, [0.1, 0.2, 0.3, 0.4]), taken)
    assert auto.beats(item(0.014, [0.1, 0.2, 0.3, 0.4]), taken)  # 0.005 more counts as equal
    assert not auto.beats(item(0.016, [0.1, 0.2, 0.3, 0.4]), taken)
    assert not auto.beats(item(0.0, [0.5, 0.6, 0.9, 0.6]), taken)  # luck tells these apart
    assert not auto.beats(item(0.016, []), taken)


@pytest.mark.parametrize(("most", "drawn"), [(0.1, 0), (0.3, 1)])
def test_no_picture_of_a_method_that_changes_too_much(most, drawn, tmp_path, monkeypatch) -> None:
    looked = []

    class Stick:
        base = {"name": 0.5}

        def change(self, artifact):
            return 0.2

        def measure(self, artifact):
            looked.append(artifact)
            return SimpleNamespace(left=0.5, parts={"name": 0.25}, values=(0.5, 0.5))

    monkeypatch.setattr(auto, "made", lambda *_: ("edit", 3.0, ""))
    monkeypatch.setattr(auto, "yardstick", lambda *_: Stick())
    found = auto.row(tmp_path, "owl", "uce", {}, Namespace(minutes=5.0, images=2), most)
    assert len(looked) == drawn
    assert found["values"] == [0.5, 0.5] * drawn
    assert "0.200" in auto.table("owl", [item(0.0, [0.1, 0.2]), found])
    assert auto.row(tmp_path, "owl", "uce", {}, Namespace(minutes=5.0, images=2), most) == found
    assert len(looked) == drawn  # read again
