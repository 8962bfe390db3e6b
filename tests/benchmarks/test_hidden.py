"""Prompts that hide a concept among words, and the table of them."""

from __future__ import annotations

from benchmarks.hidden import BASE, KINDS, LENGTHS, captions, nameless, read, table


def test_captions_name_the_concept_and_fill_5_to_60_tokens():
    others = ["dog", "tree"]
    for kind in KINDS:
        texts = captions("pizza", kind, 36, others, lambda text: len(text.replace(",", " ,").split()), 75)
        assert texts == captions("pizza", kind, 36, others, lambda text: len(text.replace(",", " ,").split()), 75)
        sizes = [len(text.replace(",", " ,").split()) for text in texts]
        for place, (text, size) in enumerate(zip(texts, sizes, strict=True)):
            length = LENGTHS[place % len(LENGTHS)]
            assert length - 9 < size <= length
            assert text.split(", ").count("a pizza") == 1
        spots = {text.split(", ").index("a pizza") / max(text.count(", "), 1) for text in texts if len(text) > 40}
        assert {0.0, 1.0} < spots
        named = [text for text in texts if "dog" in text or "tree" in text]
        assert bool(named) is (kind == "things")
    assert max(len(text.split()) for text in captions("pizza", "words", 12, others, lambda t: len(t.split()), 10)) <= 10


def test_a_method_is_measured_on_what_the_base_draws(tmp_path):
    base = {"concept": "owl", "method": BASE, "words": [1, 1, 0, 1], "things": [0, 0, 1, 0]}
    rows = [
        base,
        {"concept": "owl", "method": "uce", "words": [0, 0, 1, 0], "things": [0, 0, 1, 1]},
        {"concept": "owl", "method": "esd", "error": "no"},
    ]
    lines = table(rows).splitlines()
    assert lines[2] == "| base | 3 of 4 pictures | 1 of 4 pictures |"
    assert lines[3].startswith("| `uce` | 0% (0..")
    assert "| 100% (" in lines[3]
    assert lines[4] == "| `esd` | no | |"
    assert read(tmp_path, 4) is None


def test_a_caption_loses_the_part_that_names_the_concept_only():
    assert nameless("in spring, a cat, beside a catfish", "cat") == "in spring, beside a catfish"
    assert nameless("a cat", "cat") == ""
