"""What a reference to something published says: repository, revision, members of a collection."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import urlsplit, urlunsplit

from huggingface_hub import constants

from erase_plugins.artifacts.reference import of_page
from erase_plugins.errors import RequestError
from erase_plugins.hints import Command
from hub_cards.errors import check_repo, check_revision

#: how references to published artifacts begin
SCHEME = "hub:"
_PUBLIC = "https://huggingface.co/"


@dataclass(frozen=True)
class Source:
    """What a reference names: repository, revision, and members of a collection."""

    repo: str
    revision: str | None = None
    names: tuple[str, ...] = ()


def address(path: str) -> str:
    """The address of something on the Hub that the client talks to (``HF_ENDPOINT``), for a page that others read.

    A name and a password that stand in the setting are left out.
    """
    place = urlsplit(constants.ENDPOINT)
    host = place.netloc.rpartition("@")[2]
    return f"{urlunsplit((place.scheme, host, place.path.rstrip('/'), '', ''))}/{path}"


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
