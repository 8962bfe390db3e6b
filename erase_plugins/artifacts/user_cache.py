"""Where this program keeps what it can make again. No torch."""

from __future__ import annotations

import os
from pathlib import Path


def user_cache() -> Path:
    """The folder of this program in the user's cache; it need not exist."""
    try:
        from platformdirs import user_cache_path
    except ImportError:  # not among what ComfyUI comes with
        return Path(os.getenv("XDG_CACHE_HOME") or Path.home() / ".cache") / "erase-plugins"
    return user_cache_path("erase-plugins")
