"""``erase-plugins verify-certificate``: anybody's check of a ledger, without the model and without torch."""

from __future__ import annotations

from pathlib import Path

import click

from erase_plugins.cli.command import declare
from erase_plugins.cli.console import emit, hint, say


@declare("verify-certificate")
@click.argument("ledger", metavar="LEDGER")
@click.option("--certificate", metavar="FILE", help="Compare with this one; the one beside the ledger by default.")
@click.option("--head", metavar="HASH", help="Hash of the ledger's last line, as you noted it earlier.")
def command(ledger: str, certificate: str | None, head: str | None) -> None:
    """Recompute a certificate from its ledger (a file, or the folder of a release or a request); find every change."""
    from erase_plugins.requests import certificate as requests

    if requests.is_certificate(Path(ledger)):
        found = requests.verify(Path(ledger), head)
        say(requests.to_text(found))
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
