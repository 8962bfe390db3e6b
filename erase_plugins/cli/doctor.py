"""``erase-plugins doctor``: an artifact, or a foreign file, in another layout."""

from __future__ import annotations

import click

from erase_plugins.cli.command import declare
from erase_plugins.errors import Unsupported


@declare("doctor")
@click.argument("artifact")
def command(artifact: str) -> None:
    """Write an artifact in another file layout."""
    raise Unsupported("doctoring is not available in this version yet; write the layout with 'run --layout L'")
