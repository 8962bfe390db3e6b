"""A card as a web page: Markdown to HTML as the Hub would (HTML allowed), looked at in headless Chromium."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

STYLE = """
body { font: 16px/1.5 "Source Sans 3", "DejaVu Sans", sans-serif; max-width: 820px; margin: 24px auto; color: #1f2328; }
h1, h2 { border-bottom: 1px solid #d8dee4; padding-bottom: 6px; } h2 { margin-top: 28px; }
table { border-collapse: collapse; } th, td { border: 1px solid #d8dee4; padding: 6px 12px; text-align: left; }
tr:nth-child(even) td { background: #f6f8fa; } td img { width: 220px; } p img { max-width: 100%; }
.gallery { display: flex; gap: 12px; overflow: hidden; } .gallery img { height: 256px; }
pre { background: #f6f8fa; padding: 12px; overflow: auto; } code { background: #f6f8fa; font-size: 14px; }
"""
CHROMIUM = Path("/usr/bin/chromium")


def html(card: str) -> str:
    """The body of a card as a page; HTML in the Markdown is let through, the worst case for injection."""
    from huggingface_hub import RepoCard
    from markdown_it import MarkdownIt

    body = card.split("\n---\n", 1)[1]
    shown = RepoCard(card, ignore_metadata_errors=True).data.to_dict().get("widget") or ()
    strip = "".join(f'<img src="{item["output"]["url"]}">' for item in shown)
    body = body.replace("<Gallery />", f'<div class="gallery">{strip}</div>')
    rendered = MarkdownIt("commonmark", {"html": True}).enable("table").render(body)
    return f"<!doctype html><meta charset=utf-8><style>{STYLE}</style><body>{rendered}</body>"


@contextlib.contextmanager
def opened(folder: Path, card: str) -> Any:
    """The card, written as a page into ``folder`` beside its pictures and opened; gives page and events."""
    from playwright.sync_api import sync_playwright

    (folder / "page.html").write_text(html(card), encoding="utf-8")
    events: list[str] = []
    with sync_playwright() as tool:
        browser = tool.chromium.launch(executable_path=str(CHROMIUM), args=["--no-sandbox"])
        try:
            page = browser.new_page(viewport={"width": 900, "height": 900})
            page.on("dialog", lambda dialog: (events.append(f"dialog {dialog.message}"), dialog.dismiss()))
            page.on("pageerror", lambda error: events.append(f"error {error}"))
            page.on("request", lambda request: events.append(request.url))
            page.goto((folder / "page.html").as_uri())
            yield page, events
        finally:
            browser.close()
