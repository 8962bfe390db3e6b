"""Runs inside the ComfyUI interpreter: the Erase node on FLUX, SD3 and embedded models; prints what `flow_cases` found as JSON.

Usage: python flow.py COMFY_DIR WORK, with this repository on PYTHONPATH. The test of the same name asserts.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path


def main(folder: str, work: Path) -> None:
    sys.path.insert(0, folder)
    sys.argv = [sys.argv[0], "--cpu"]
    import comfy.options

    comfy.options.enable_args_parsing()
    from flow_cases import compared, embedded, understood

    found = {}
    for name in ("flux", "sd3"):
        found[name] = compared(name, work)
        print(name, json.dumps(found[name]), file=sys.stderr)
    found["pocket-flow"] = embedded()
    found["pocket-natural"] = understood()
    print("RESULT " + json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
