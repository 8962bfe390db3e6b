"""``python -m erase_plugins``: the command where its script is not on the path."""

from __future__ import annotations

from erase_plugins.cli.main import main

if __name__ == "__main__":
    main()
