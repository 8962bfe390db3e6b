"""A card as people see it: rendered, opened in a browser, with nothing in it that acts or leads elsewhere."""

from __future__ import annotations

import pytest

import hub_cards
from erase_plugins import Concept
from erase_plugins.testing.models import shared_pipeline
from erase_plugins.workflow.pairs import Gallery, Pair, draw_pairs, names
from tests.hub.conftest import REPO
from tests.hub.page import CHROMIUM, html, opened
from tests.hub.test_card import EVIL, attack, report

pytest.importorskip("markdown_it")


def spoiled(artifact, text):
    """An artifact in which everything that a stranger could have written is ``text``."""
    return artifact.with_manifest(
        concepts=(Concept(text, anchor=text, prompts=(text,)),), preserve=(text,), warnings=(text,),
        base={**artifact.manifest.base, "model": text, "revision": text}, options={text: text},
        method={"id": text, "title": text, "paper": text, "version": text, "package": text},
        versions={text: text}, created=text,
    )  # fmt: skip


def pages(artifact):
    for text in EVIL:
        gallery = Gallery((Pair(text, 1, *names(1)),), {})
        yield (
            text,
            hub_cards.card(spoiled(artifact, text), report(artifact, warnings=(text,)), repo=REPO, gallery=gallery),
        )


def test_injection_reaches_no_tag(pizza):
    """Every tag of the page is one that a harmless card has too, with the same attributes."""
    from html.parser import HTMLParser

    class Tags(HTMLParser):
        def __init__(self) -> None:
            super().__init__()
            self.found: set[tuple[str, tuple[str, ...]]] = set()

        def handle_starttag(self, tag, attrs):
            links = tuple(f"{key}={value}" for key, value in attrs if key in ("href", "src"))
            self.found.add((tag, links or tuple(key for key, _ in attrs)))

    def tags(card):
        parser = Tags()
        parser.feed(html(card))
        return parser.found

    gallery = Gallery((Pair("x", 1, *names(1)),), {})
    harmless = tags(hub_cards.card(spoiled(pizza, "x"), report(pizza, warnings=("x",)), repo=REPO, gallery=gallery))
    assert {tag for tag, _ in harmless} >= {"h1", "h2", "table", "img", "pre", "code"}
    for text, card in pages(pizza):
        assert tags(card) - harmless == set(), text


def first(pizza, drawn):
    attacks = [attack(pizza, "concept-inversion", 1.0, 0.9, 0.3)]
    return hub_cards.card(pizza, report(pizza), repo=REPO, gallery=drawn, attacks=attacks)


@pytest.mark.skipif(not CHROMIUM.exists(), reason="needs Chromium")
def test_the_page_in_a_browser(pizza, tmp_path):
    pytest.importorskip("playwright")
    drawn = draw_pairs(pizza, model=shared_pipeline("tiny_sd1"), prompts=["a pizza", "a plate"], steps=2)
    for name, data in drawn.files().items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(data)
    with opened(tmp_path, first(pizza, drawn)) as (page, events):
        assert page.locator("h1").inner_text() == "Erased: pizza"
        assert page.locator("h2").count() == 12
        sizes = page.evaluate("[...document.images].map(item => item.naturalWidth)")
        assert len(sizes) == 8, "the strip of the first screen, and the folded pairs"
        assert min(sizes) >= 256, "a picture of the page does not load"
        assert page.evaluate("document.body.scrollWidth <= window.innerWidth"), "the page is wider than the window"
        assert page.locator("table").count() == 6
        page.set_viewport_size({"width": 1280, "height": 800})
        for what in (".gallery img >> nth=0", "pre >> nth=0", "text=1 of 1 attacks", "text=Try it"):
            box = page.locator(what).bounding_box()
            assert box and box["y"] + box["height"] <= 800, f"{what} is below the first screen"
        assert page.screenshot(full_page=True).startswith(b"\x89PNG")
        assert all(event.startswith("file:") for event in events), events
    everything = "\n".join(card.split("\n---\n", 1)[1] for _, card in pages(pizza))
    with opened(tmp_path, f"---\n---\n{everything}") as (page, events):
        page.wait_for_timeout(200)
        assert all(event.startswith("file:") for event in events), events
        assert page.locator("script, iframe, form, object, svg, [onload], [onerror]").count() == 0
        assert "<script>alert(1)</script>" in page.locator("body").inner_text(), "shown as text"
