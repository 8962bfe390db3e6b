"""Heads with a certificate on the Hub: the folder of a release, with a page that prints the certificate."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from erase_plugins.errors import PushRefused
from erase_plugins.hints import Hint
from erase_plugins.licences import licence_of
from erase_plugins.records.certificate import CERTIFICATE
from erase_plugins.records.release import Release
from hub_cards.bundle import How, PushFile
from hub_cards.kept import Kept
from hub_cards.model_card import head_card
from hub_cards.pushing import Pushed, publish, token_needed


def push_head(folder: str | Path, repo: str, **options: Any) -> Pushed:
    """Publishes the release of a head. It was entered in the ledger when it was written; the place is added to it.

    Args:
        folder: what 'erase-plugins records release' wrote.
        repo: "owner/name"; made if it does not exist.
        options: private, create_pr, revision, message, license, parent, prune, personal, requirement, dry_run, show;
            see `hub_cards.bundle.How`.

    Raises:
        PushRefused: no valid certificate, records were deleted since, or as for `hub_cards.push`.
    """
    how = How.checked(repo, options)
    token_needed(how.dry_run)
    release = Release(folder)
    files = [PushFile(name, release.path / name) for name in release.names]

    def write(kept: Kept) -> str:
        licence = licence_of({}, how.license or kept.licence)
        if licence is None:
            raise PushRefused(
                "the licence of a head is yours to choose; ", Hint("license", "ID", before="name it with")
            )
        return head_card(release, licence, how.requirement or kept.requirement)

    message = f"release {release.certificate['releases']} of a head with a certificate"
    return publish(how.bundle(release, repo, files, message, record=CERTIFICATE), write, how)
