"""How a reader gets this package, which is on no index: whoever registers its name there would run code everywhere.

So a page names a pinned source, or none; and a Space has the package in itself (`erase_plugins.page.package`).
"""

from __future__ import annotations

import re

from erase_plugins.errors import RequestError

NAME = "erase-plugins"
_GIT = re.compile(r"git\+https://[^\s@#]+@[0-9a-f]{40}(#subdirectory=[\w./-]+)?")
_WHEEL = re.compile(r"https://[^\s@#]+\.(whl|zip|tar\.gz)#sha256=[0-9a-f]{64}")


def pinned(line: str) -> str:
    """A line for pip that can only bring what it brings today.

    Args:
        line: "erase-plugins @ git+https://HOST/OWNER/NAME@COMMIT" with all 40 digits of the commit, or "erase-plugins @
            https://HOST/FILE.whl#sha256=HASH".

    Raises:
        RequestError: a name that an index would be asked for, a branch or tag, a login in the address.
    """
    name, _, place = " ".join(str(line).split()).partition(" @ ")
    if name != NAME or not (_GIT.fullmatch(place) or _WHEEL.fullmatch(place)):
        raise RequestError(
            f"'{str(line)[:80]}' is not pinned, and {NAME} is on no index: a package of that name there would be "
            f"somebody else's; write '{NAME} @ git+https://HOST/OWNER/NAME@COMMIT' with the commit's 40 digits"
        )
    return f"{name} @ {place}"
