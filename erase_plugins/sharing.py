"""Publishing and fetching, for Python. The work is done by a plugin package (hub_cards), which may be missing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from erase_plugins.errors import MissingPlugin
from erase_plugins.given import checked
from erase_plugins.types import EvalReport

#: public name -> package that offers it in this project; any plugin may
PACKAGES = {"push": "hub_cards", "pull": "hub_cards", "search": "hub_cards", "card": "hub_cards"}


def _offered(name: str) -> Any:
    """The plugin's function.

    Raises:
        MissingPlugin: no plugin offers it.
    """
    from erase_plugins.manager import get_manager

    function = get_manager().function(name)
    if function is None:
        raise MissingPlugin(f"erase_plugins.{name}", PACKAGES[name])
    return function


@checked
def push(artifact: Any, repo: str, **options: Any) -> Any:
    """Publishes an artifact folder on the Hub in one commit, with its card.

    Args:
        artifact: an `Artifact` with a path, or the path.
        repo: "owner/name"; made if it does not exist.
        options: report, private, create_pr, revision, message, license, parent, dry_run and more; see `hub_cards.push`.

    Returns:
        `hub_cards.sending.Pushed`: what was sent, and the commit.

    Raises:
        MissingPlugin: the package is not installed.
        HubError: refused or not reachable; the repository holds its old state.
    """
    return _offered("push")(artifact, repo, **options)


@checked
def pull(spec: str, into: str | Path | None = None, **options: Any) -> Any:
    """Fetches a published artifact and verifies it.

    Args:
        spec: "owner/name" or "owner/name@revision".
        into: copy it into this new folder; None leaves it in the client's cache.
        options: model, layouts, force, offline; see `hub_cards.pull`.

    Returns:
        The `Artifact`.

    Raises:
        MissingPlugin: the package is not installed.
        HubError: not there, not reachable, or damaged.
    """
    return _offered("pull")(spec, into, **options)


@checked
def search(query: str = "", **options: Any) -> list[Any]:
    """Published artifacts and collections that fit.

    Args:
        query: words that occur in the repository's name or in an erased concept.
        options: base_model, concept, tags, limit, endpoint; see `hub_cards.search`.

    Returns:
        A list of `hub_cards.searching.Found`.

    Raises:
        MissingPlugin: the package is not installed.
        HubError: not reachable.
    """
    return _offered("search")(query, **options)


@checked
def card(artifact: Any, report: EvalReport | str | Path | None = None, **options: Any) -> str:
    """The model card of an artifact as Markdown; without a report it says "not measured".

    Args:
        artifact: an `Artifact` or its path.
        report: its evaluation.
        options: repo, license and more; see `hub_cards.card`.

    Raises:
        MissingPlugin: the package is not installed.
    """
    return _offered("card")(artifact, report, **options)
