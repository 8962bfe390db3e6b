"""``erase-plugins verify-certificate``: anybody's check of a ledger, without the model and without torch."""

from __future__ import annotations

from pathlib import Path

import click

from erase_plugins.cli.command import declare
from erase_plugins.cli.console import emit, hint, say


@declare("verify-certificate", example="published")
@click.argument("ledger", metavar="LEDGER")
@click.option("--certificate", metavar="FILE", help="Compare with this one; the one beside the ledger by default.")
@click.option("--head", metavar="HASH", help="Hash of the ledger's last line, as you noted it earlier.")
def command(ledger: str, certificate: str | None, head: str | None) -> None:
    """Recompute a certificate from its ledger (a file, or the folder of a release or a request); find every change."""
    from erase_plugins.errors import ArtifactError
    from erase_plugins.requests import certificate as requests
    from erase_plugins.requests.store import DATABASE

    if (Path(ledger) / DATABASE).is_file():
        raise ArtifactError(
            f"'{Path(ledger).name}' holds the requests themselves, which 'erase-plugins request status' checks with "
            "their key; others check what 'erase-plugins request export' writes of one"
        )
    if requests.is_certificate(Path(ledger)):
        found = requests.verify(Path(ledger), head)
        say(requests.to_text(found))
        say("checked: no line was changed, and nothing is said that does not follow from them")
        if not found["anchored"]:
            hint(
                "the last line was compared with nothing: whoever holds the key could have written all of them anew. "
                "Give --head HASH, as it was noted elsewhere ('request status --json' says it)"
            )
        emit({"schema": 1, "valid": True, "certificate": found})
        return
    from erase_plugins.records.certificate import to_text, verify

    data = verify(Path(ledger), head, None if certificate is None else Path(certificate))
    say(to_text(data))
    if not data["anchored"]:
        hint(
            "the end of the ledger was compared with nothing: lines may have been cut off. Give --certificate or --head"
        )
    if not data["certified"]:
        emit({"schema": 1, "valid": False, "certificate": data})
        raise click.exceptions.Exit(1)
    emit({"schema": 1, "valid": True, "certificate": data})
