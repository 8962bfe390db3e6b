"""Artifacts that are named instead of being on disk: "scheme:rest", which a plugin resolves to a path."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import unquote

#: at least two letters, so that a Windows drive is none
_REFERENCE = re.compile(r"^[a-z][a-z0-9-]+:[^\\]+$")
#: what a browser shows above a page of the Hub: people paste it
_PAGE = re.compile(
    r"^https://(?:huggingface|hf)\.co/(?!datasets/|spaces/|collections/)([^/\s?#]+/[^/\s?#]+)"
    r"(?:/(?:tree|commit|blob|resolve|raw)/([^/\s?#]+))?[^#\s]*"
)


def is_reference(path: object) -> bool:
    """Whether this is a reference; an existing file of that name is not."""
    return isinstance(path, str) and bool(_REFERENCE.match(path)) and not Path(path).exists()


def of_page(text: str) -> str:
    """owner/name, or owner/name@revision, of the address of a model's page on the Hub; any other text as it is."""
    return _PAGE.sub(lambda found: "@".join(unquote(part) for part in found.groups() if part), text, count=1)
