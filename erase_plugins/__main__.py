"""The command ``erase-plugins``, also as ``python -m erase_plugins``; stopped while it is imported, it says nothing."""

from __future__ import annotations

import sys


def main() -> None:
    """Console script."""
    try:
        from erase_plugins.cli.main import main as command

        command()
    except KeyboardInterrupt:  # later on, the command itself says what is left
        sys.exit(130)


if __name__ == "__main__":
    main()
