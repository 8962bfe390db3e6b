"""The Hub's own collections: lists of repositories on their owner's page."""

from __future__ import annotations

from huggingface_hub import HfApi

from hub_cards.errors import reaching


def put(repo: str, title: str, private: bool = False) -> str:
    """Puts a repository on a list of its owner, which is made if there is none of that title.

    Args:
        repo: "owner/name".
        title: of the list.
        private: of a new list.

    Returns:
        The list's address.

    Raises:
        HubError, NotAllowed: as for `hub_cards.push`; the repository is published all the same.
    """

    api, owner = HfApi(), repo.split("/")[0]
    with reaching("list on the Hub", repo):
        made = api.create_collection(title, namespace=owner, private=private, exists_ok=True)
        api.add_collection_item(made.slug, repo, "model", exists_ok=True)
    return str(made.url)
