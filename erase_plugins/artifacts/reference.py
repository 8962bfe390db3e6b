"""Artifacts that are named instead of being on disk: "scheme:rest", which a plugin resolves to a path.

Those on the Hub are "hub:owner/name@revision#member,member".
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit, urlunsplit

from erase_plugins.errors import RequestError
from erase_plugins.hints import Command

#: how references to artifacts on the Hub begin
SCHEME = "hub:"
#: a repository on the Hub
REPO = r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}"
_REPO = re.compile(rf"{REPO}\Z", re.ASCII)
_REVISION = re.compile(r"[^\x00-\x20\x7f\\~^:?*\[%]{1,200}")
_PUBLIC = "https://huggingface.co/"
#: at least two letters, so that a Windows drive is none
_REFERENCE = re.compile(r"^[a-z][a-z0-9-]+:[^\\]+$")
#: what a browser shows above a page of the Hub: people paste it
_PAGE = re.compile(
    r"^https://(?:huggingface|hf)\.co/(?!datasets/|spaces/|collections/)([^/\s?#]+/[^/\s?#]+)"
    r"(?:/(?:tree|commit|blob|resolve|raw)/([^/\s?#]+))?[^#\s]*"
)


@dataclass(frozen=True)
class Source:
    """What a reference names: repository, revision, and members of a collection."""

    repo: str
    revision: str | None = None
    names: tuple[str, ...] = ()


def is_reference(path: object) -> bool:
    """Whether this is a reference; an existing file of that name is not."""
    return isinstance(path, str) and bool(_REFERENCE.match(path)) and not Path(path).exists()


def of_page(text: str) -> str:
    """owner/name, or owner/name@revision, of the address of a model's page on the Hub; any other text as it is."""
    return _PAGE.sub(lambda found: "@".join(unquote(part) for part in found.groups() if part), text, count=1)


def address(path: str) -> str:
    """The address of something on the Hub that the client talks to (``HF_ENDPOINT``), for a page that others read.

    A name and a password that stand in the setting are left out.
    """
    from huggingface_hub import constants

    place = urlsplit(constants.ENDPOINT)
    host = place.netloc.rpartition("@")[2]
    return f"{urlunsplit((place.scheme, host, place.path.rstrip('/'), '', ''))}/{path}"


def check_repo(name: str) -> str:
    """The repository name, if it has the form owner/name.

    Raises:
        RequestError: another form.
    """
    if not isinstance(name, str) or not _REPO.match(name) or ".." in name or "--" in name or name.endswith(".git"):
        raise RequestError(f"{str(name)[:80]!a} is not a repository; write owner/name, for example me/no-pizza")
    return name


def check_revision(name: str) -> str:
    """The name of a branch, tag, pull request or commit, if git allows it.

    Raises:
        RequestError: another form; it becomes a part of addresses and of places in the cache.
    """
    parts = name.split("/")
    odd = any(not part or part.startswith((".", "-")) or part.endswith((".", ".lock")) for part in parts)
    if odd or ".." in name or "@{" in name or not _REVISION.fullmatch(name):
        raise RequestError(f"{name[:80]!a} is not a revision; name a branch, a tag or a commit")
    return name


def split(spec: str) -> tuple[str, str | None]:
    """Repository and revision of "owner/name", "owner/name@revision", with or without "hub:" before.

    Raises:
        RequestError: another form.
    """
    source = parse(spec)
    if source.names:
        raise RequestError(
            f"{spec[:80]!a} names artifacts of a collection; ",
            Command("collection pull for them", "use 'collection pull' for them"),
        )
    return source.repo, source.revision


def parse(spec: str) -> Source:
    """The parts of "owner/name@revision#member,member"; all but the first are optional. The address of a page will do.

    Raises:
        RequestError: another form.
    """
    text, here = spec.removeprefix(SCHEME), address("")
    if text.startswith(here):  # pages of a mirror have the addresses of the public Hub
        text = _PUBLIC + text.removeprefix(here)
    place, hash_sign, members = of_page(text).partition("#")
    repo, sign, revision = place.partition("@")
    names = tuple(name.strip() for name in members.split(",") if name.strip())
    if sign and not revision.strip():
        raise RequestError(f"{spec[:80]!a} has no revision after '@'; name a branch, a tag or a commit")
    if hash_sign and not names:
        raise RequestError(f"{spec[:80]!a} has no name after '#'; name artifacts of the collection")
    return Source(check_repo(repo), check_revision(revision.strip()) if sign else None, names)
