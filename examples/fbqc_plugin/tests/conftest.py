"""Numba keeps its compiled functions in one folder for all tests."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

os.environ.setdefault("NUMBA_CACHE_DIR", str(Path(tempfile.gettempdir()) / "erase-fbqc-numba"))
