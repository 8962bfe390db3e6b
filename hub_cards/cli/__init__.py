"""Commands of the Hub."""

from __future__ import annotations

from erase_plugins.cli.command import quote


def use_it(*artifacts: str, model: str) -> str:
    """The line that draws with published artifacts; ``model`` is what they were made for, empty if nobody says."""
    words = ("erase-plugins", "generate", *artifacts, "--model", model or "MODEL", "--prompt")
    return f"use it: {quote(*words)} ... --out picture.png"
