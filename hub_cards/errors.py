"""The client's many errors as one line of ours, free of tokens, links and folders."""

from __future__ import annotations

import logging
import os
import re
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from erase_plugins.errors import EraseError, HubError, HubUnreachable, NotAllowed, PushRefused, RequestError
from erase_plugins.hints import AGAIN, Command, Hint, Sentence

_LINK = re.compile(r"\b[a-z]+://\S+")
_REPO = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}\Z", re.ASCII)
_REVISION = re.compile(r"[^\x00-\x20\x7f\\~^:?*\[%]{1,200}")
_TOKEN = re.compile(r"\bhf_[A-Za-z0-9_-]{4,}")
#: how the client says that the Hub did not accept a page
_BAD_PAGE = "Invalid metadata in README.md."
#: how the Hub says that there is no room; it answers 403 as for a missing right
_FULL = re.compile(r"(?i)\b(storage|quota|disk space)\b")


def check_repo(name: str) -> str:
    """The repository name, if it has the form owner/name.

    Raises:
        RequestError: another form.
    """
    if not isinstance(name, str) or not _REPO.match(name) or ".." in name or "--" in name or name.endswith(".git"):
        raise RequestError(f"{str(name)[:80]!a} is not a repository; write owner/name, for example me/no-pizza")
    return name


def check_destination(repo: str, create_pr: bool, revision: str | None) -> None:
    """Refuses a place that nothing can be published to, before any work.

    Raises:
        RequestError: another form than owner/name, or a pull request from a branch.
    """
    check_repo(repo)
    if create_pr and revision not in (None, "main"):
        raise RequestError(
            "a pull request starts from the main branch; ", Hint("revision", before="leave", after="out")
        )


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


def clean(text: object) -> str:
    """A text of the client on one line, without tokens, links and folders."""
    from erase_plugins.plain_text import one_line, scrub

    plain = _LINK.sub("", _TOKEN.sub("***", str(text)))
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        value = os.getenv(name, "").strip()
        if value:
            plain = plain.replace(value, "***")
    return one_line(scrub(plain))[:300]


@contextmanager
def reaching(what: str, repo: str) -> Iterator[None]:
    """Translates what the client raises inside the with-block.

    Args:
        what: what is being done, for the message: "push to", "pull from".
        repo: name of the repository.

    Raises:
        HubError, NotAllowed: with the reason and what to do.
    """
    try:
        with _RETRIES:
            yield
    except EraseError:
        raise
    except Exception as error:
        made = translate(error, f"{what} {repo}")
        if made is None:
            raise
        raise made from None  # the client's own text may hold signed links


#: names of the client's errors, the more special before the general ones -> ours, and what it says
_LOG_IN = Command("log in", "and you are not logged in")
_SAID: tuple[tuple[str, type[HubError], str], ...] = (
    ("OfflineModeIsEnabled", HubUnreachable, "HF_HUB_OFFLINE is set; unset it"),
    ("429", HubUnreachable, "the Hub answers no more requests for now; try again {when}"),
    ("GatedRepoError", NotAllowed, "access has to be granted on its page first"),
    ("RevisionNotFoundError", HubError, "it has no such revision; leave @revision out or list its tags on its page"),
    ("LocalEntryNotFoundError RevisionResolutionError", HubUnreachable,
     "it is not in the local cache and the Hub did not answer; try again online"),
    ("RepositoryNotFoundError", HubError, Sentence("no such repository, or a private one ", _LOG_IN)),
    ("EntryNotFoundError", HubError, "a file that its manifest lists is missing there; ask its author to push again"),
    ("full", HubError,
     Sentence("there is no room left ({said}); delete files you do not need there, or get more storage on the "
              "Hub's page Billing, then ", AGAIN)),
    ("401 403", NotAllowed, "this account may not; check 'hf auth whoami' and the token's rights{says}"),
    ("409 412", PushRefused,
     Sentence("somebody changed it meanwhile and nothing was overwritten; look at its latest commit, then ", AGAIN)),
    ("page", PushRefused, "{page}"),
    ("400 422", PushRefused, "the Hub refuses it ({reason}); nothing was changed"),
    ("no-xet", HubError, "this server has no xet route; set HF_HUB_DISABLE_XET=1 and try again"),
    ("xet", HubError, "xet did not bring its large files ({tail}); set HF_HUB_DISABLE_XET=1 and try again"),
    ("answered", HubError, "the Hub answered {status}; try again later ({reason})"),
)  # fmt: skip


def translate(error: BaseException, doing: str) -> HubError | None:
    """Our error for one of the client's; None if the trouble is on this machine."""
    status = _status(error)
    limited = next((item for item in (error, error.__cause__) if _status(item) == 429), None)
    said, text = clean(getattr(error, "server_message", None) or ""), str(error)
    kinds = {item.__name__ for item in type(error).__mro__} | {"429" if limited is not None else str(status)}
    kinds |= {"full"} if status in (402, 403, 413) and _FULL.search(said) else set()
    kinds |= {"page"} if isinstance(error, ValueError) and text.startswith(_BAD_PAGE) else set()
    if re.search("xet|CAS ", text) and isinstance(error, OSError | RuntimeError | ValueError):
        kinds |= {"no-xet" if status == 404 or (status is None and "404" in text) else "xet"}
    kinds |= {"answered"} if status is not None else set()
    for names, ours, told in _SAID:
        if kinds & set(names.split()):
            return ours(f"cannot {doing}: ", Sentence(told).filled(
                when=_wait(getattr(limited, "response", None)), said=said, status=status,
                says=f" (the Hub says: {said})" if said else "",
                reason=said or (status if status in (400, 422) else type(error).__name__),
                page=_refused(text.removeprefix(_BAD_PAGE)), tail=clean(error)[-120:],
            ))  # fmt: skip
    if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.filename is not None):
        return None  # this machine's own trouble: a full disk, missing rights
    if isinstance(error, RuntimeError | ValueError) and error.__cause__ is not None:
        return translate(error.__cause__, doing)
    # the network, not the Hub, is the trouble; the client's HTTP package has changed its name
    lost = bool(kinds & {"TransportError", "ConnectionError", "TimeoutError"})
    reason = f"{type(error).__name__}: {clean(error)}"
    told = f"cannot {doing}: the connection failed or the answer was unusable; try again ({reason})"
    return HubUnreachable(told) if lost else HubError(told)


def _status(error: BaseException | None) -> Any:
    return getattr(getattr(error, "response", None), "status_code", None)


def _wait(response: Any) -> str:
    """When the Hub wants to be asked again, as its headers say it."""
    headers = getattr(response, "headers", {})
    found = re.search(r"\d+", headers.get("Retry-After", "")) or re.search(r"(?<=t=)\d+", headers.get("RateLimit", ""))
    return f"in {found[0]} seconds, or log in, which allows more" if found else "later"


def _refused(said: str) -> str:
    way = "correct the front matter of the published page, or tell the authors of this program"
    if "license" in said.lower():
        way = Sentence(
            Hint("license", "ID", before="name it with"), " as the Hub lists licences, or ", Hint("license", "other")
        )
    return Sentence(f"the Hub refuses the page ({clean(said)}); ", way, "; nothing was changed")


def refused_page(doing: str, said: str) -> PushRefused:
    """The Hub does not accept the page, and says this about it."""
    return PushRefused(f"cannot {doing}: ", _refused(said))


#: tries of one file, with 1, 2 and 4 seconds behind them, after which no file of a push is tried any more
TRIES = 3
#: loggers of the client that say what we say ourselves, or what nobody has to know
_CLIENT = ("huggingface_hub.utils._http", "huggingface_hub._commit_api")


class _Retries(logging.Filter):
    """Keeps the client's two lines per try away while we wait; on a terminal one line says that we do."""

    def __init__(self) -> None:
        super().__init__()
        self._lock, self._open, self._said = threading.Lock(), 0, False
        self._here, self.given_up = threading.local(), ""

    def __enter__(self) -> None:
        with self._lock:
            self._open += 1
            if self._open == 1:
                self._said, self.given_up = False, ""
                for name in _CLIENT:
                    logging.getLogger(name).addFilter(self)

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._open -= 1
            if not self._open:
                for name in _CLIENT:
                    logging.getLogger(name).removeFilter(self)

    def filter(self, record: logging.LogRecord) -> bool:
        text = record.getMessage()
        if "Falling back to HTTP upload" in text:  # as `hub_cards.upload` wants it
            return False
        if "thrown while requesting" not in text and "[Retry " not in text:
            return True
        if "thrown while requesting" in text:
            self._here.reason = text.split(" thrown")[0] if "requesting PUT" in text else ""
        tried, reason = re.search(r"\[Retry (\d+)/", text), str(getattr(self._here, "reason", ""))
        if reason and tried and int(tried[1]) >= TRIES:
            self.given_up = f"given up after {TRIES} tries of a file: {reason}"
        if "[Retry " in text and not self._said and sys.stderr.isatty():
            self._said = True
            sys.stderr.write("the Hub does not answer as it should; trying again for a while\n")
        return False


_RETRIES = _Retries()


def given_up() -> str:
    """Why no file is sent any more, as the client's own words say it; empty while there is hope."""
    return _RETRIES.given_up
