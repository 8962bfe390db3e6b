"""The client's many errors as one line of ours, free of tokens, links and folders."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from erase_plugins import errors
from erase_plugins.errors import EraseError, HubError, HubUnreachable
from erase_plugins.families.notices import quiet_hub
from erase_plugins.hints import AGAIN, AnyHint, Command, Hint, Sentence
from erase_plugins.secret_texts import clean

#: how the client says that the Hub did not accept a page
BAD_PAGE = "Invalid metadata in README.md."
#: how the Hub says that there is no room; it answers 403 as for a missing right
_FULL = re.compile(r"(?i)\b(storage|quota|disk space)\b")


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
        with quiet_hub():
            yield
    except EraseError:
        raise
    except Exception as error:
        made = translate(error, f"{what} {repo}")
        if made is None:
            raise
        raise made from None  # the client's own text may hold signed links


@cache
def _rows() -> list[dict[str, Any]]:
    """What the client's errors mean; the more special ones come first."""
    rows: list[dict[str, Any]] = tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))["row"]
    return rows


#: what the sentences of errors.toml advise, by the names that stand for it there
_ADVICE: dict[str, AnyHint] = {
    "again": AGAIN,
    "log_in": Command("log in", "and you are not logged in"),
    "name_licence": Hint("license", "ID", before="name it with"),
    "other_licence": Hint("license", "other:NAME"),
}


def translate(error: BaseException, doing: str) -> HubError | None:
    """Our error for one of the client's; None if the trouble is on this machine."""
    status = _status(error)
    limited = next((item for item in (error, error.__cause__) if _status(item) == 429), None)
    said, text = clean(getattr(error, "server_message", None) or ""), str(error)
    kinds = {item.__name__ for item in type(error).__mro__} | {"429" if limited is not None else str(status)}
    kinds |= {"full"} if status in (402, 403, 413) and _FULL.search(said) else set()
    if isinstance(error, ValueError) and text.startswith(BAD_PAGE):
        kinds |= {"page about its licence" if "license" in text.lower() else "page"}
    if re.search("xet|CAS ", text) and isinstance(error, OSError | RuntimeError | ValueError):
        kinds |= {"no xet" if status == 404 or (status is None and "404" in text) else "xet"}
    kinds |= {"answered"} if status is not None else set()
    for row in _rows():
        if kinds.intersection(row["kinds"]):
            ours: type[HubError] = getattr(errors, row["error"])
            return ours(f"cannot {doing}: ", Sentence(row["said"]).filled(**_ADVICE,
                when=_wait(getattr(limited, "response", None)), said=said, status=status,
                says=f" (the Hub says: {said})" if said else "",
                reason=said or (status if status in (400, 422) else type(error).__name__),
                page=clean(text.removeprefix(BAD_PAGE)), tail=clean(error)[-120:],
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
