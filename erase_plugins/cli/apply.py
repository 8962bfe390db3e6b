"""``erase-plugins apply``: a checkpoint with artifacts fused in."""

from __future__ import annotations

import click

from erase_plugins.cli.command import declare
from erase_plugins.errors import Unsupported


@declare("apply")
@click.argument("artifact")
def command(artifact: str) -> None:
    """Write a checkpoint with artifacts fused in."""
    raise Unsupported("fusing into a checkpoint is not available in this version yet; use generate or the LoRA files")
