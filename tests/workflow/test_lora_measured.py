"""What a base does without any LoRA is measured once per question, and never told of another base."""

from __future__ import annotations

from erase_plugins.workflow.lora_measured import BareBase


def test_a_question_is_asked_once_of_a_base_and_again_of_another():
    base, asked, first, second = BareBase(), [], object(), object()

    def look(name):
        return lambda: asked.append(name) or name

    assert base.answer(first, ("owl", 0), look("one")) == "one"
    assert base.answer(first, ("owl", 0), look("two")) == "one"
    assert base.answer(first, ("owl", 1), look("three")) == "three"
    assert base.answer(second, ("owl", 0), look("four")) == "four"
    assert base.answer(first, ("owl", 0), look("five")) == "five"  # only one base is remembered
    assert asked == ["one", "three", "four", "five"]
