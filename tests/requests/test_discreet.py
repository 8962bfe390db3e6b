"""Names of a request are found in whatever script they are written; the whole way: `tests/workflow/test_requests.py`."""

from __future__ import annotations

import pytest

from erase_plugins.requests.discreet import SUBJECT, Discretion


@pytest.mark.parametrize(
    ("name", "text", "left"),
    [
        ("Ann Lee", "told ann-lee, Hannah Leeson", f"told {SUBJECT}, Hannah Leeson"),
        ("张伟", "张伟住在北京", f"{SUBJECT}住在北京"),
        ("田中 花子", "きのう田中花子さん、田中・花子です", f"きのう{SUBJECT}さん、{SUBJECT}です"),
        ("김철수", "김철수는 학생이다", f"{SUBJECT}는 학생이다"),
        ("สมชาย", "นายสมชายเป็นครู", f"นาย{SUBJECT}เป็นครู"),
        ("Tanaka", "Tanakaさんの家", f"{SUBJECT}さんの家"),
    ],
)
def test_names_inside_a_sentence_without_spaces(name, text, left):
    assert Discretion([name]).scrub(text) == left
