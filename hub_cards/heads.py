"""Heads with a certificate on the Hub: the folder of a release, with a page that prints the certificate."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from erase_plugins.errors import PushRefused
from erase_plugins.records.certificate import CERTIFICATE
from erase_plugins.records.release import Release, section
from hub_cards.bundle import Bundle, PushFile
from hub_cards.errors import check_destination
from hub_cards.escape import front_matter, prose
from hub_cards.kept import Kept
from hub_cards.licences import Licence, licence_of
from hub_cards.model_card import USER, USER_END
from hub_cards.package import pinned
from hub_cards.pushing import Pushed, publish, token_needed
from hub_cards.usage import install

_USE = """```python
from erase_plugins.records.head import Head

Head.read("FOLDER").predict(features)  # features of the frozen model, one row per record
```"""


def push_head(
    folder: str | Path,
    repo: str,
    *,
    private: bool = False,
    create_pr: bool = False,
    revision: str | None = None,
    message: str | None = None,
    license: str | None = None,
    parent: str | None = None,
    prune: bool = False,
    personal: bool = False,
    requirement: str | None = None,
    dry_run: bool = False,
    show: Callable[[Bundle], None] | None = None,
) -> Pushed:
    """Publishes the release of a head. It was entered in the ledger when it was written; the place is added to it.

    Args:
        folder: what 'erase-plugins records release' wrote.
        repo: "owner/name"; made if it does not exist.
        private, create_pr, revision, message, license, parent, prune, personal, requirement, dry_run, show: as for
            `hub_cards.push`.

    Raises:
        PushRefused: no valid certificate, records were deleted since, or as for `hub_cards.push`.
    """
    check_destination(repo, create_pr, revision)
    token_needed(dry_run)
    line = None if requirement is None else pinned(requirement)
    release = Release(folder)
    files = [PushFile(name, release.path / name) for name in release.names]

    def write(kept: Kept) -> str:
        licence = licence_of({}, license or kept.licence)
        if licence is None:
            raise PushRefused("the licence of a head is yours to choose; name it with --license ID")
        return page(release, licence, line or kept.requirement)

    bundle = Bundle(
        release, repo, tuple(files), private=private, revision=revision, create_pr=create_pr, record=CERTIFICATE,
        message=message or f"release {release.certificate['releases']} of a head with a certificate",
    )  # fmt: skip
    return publish(bundle, write, parent=parent, prune=prune, personal=personal, dry_run=dry_run, show=show)


def page(release: Release, licence: Licence, requirement: str | None) -> str:
    """The text of README.md."""
    data = release.certificate
    base = prose(str(release.opened["base"]))
    meta = {
        "library_name": "erase-plugins", **licence.metadata(), "tags": ["machine-unlearning", "erase-plugins"],
        "erasure": {"method": "noisy-gd", **({} if requirement is None else {"requirement": requirement})},
    }  # fmt: skip
    parts = [
        f"# A head with deleted training records ({len(data['records'])})",
        f"A small head ({release.opened['loss']}) on the features of a frozen model ({base}), learned by noisy "
        "gradient descent so that training records can be deleted from it and the deletion can be checked.",
        section(data),
        f"## How to use it\n\n{install(requirement)}\n\n{_USE}",
        f"{USER}\n{USER_END}",
    ]
    return front_matter(meta) + "\n" + "\n\n".join(parts) + "\n"
