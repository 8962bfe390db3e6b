"""Measures every cell; ``--write`` renews the table in docs/support.md. Names of rows measure only those."""

from __future__ import annotations

import sys
import time
import traceback

from tests.runtime.support.measure import STEPS, Wrong, measure
from tests.runtime.support.situations import SITUATIONS

picked = [item for item in sys.argv[1:] if not item.startswith("--")]
for name, situation in SITUATIONS.items():
    if picked and name not in picked:
        continue
    for family in situation.families:
        words, start = [], time.time()
        for step in STEPS:
            try:
                words.append(measure(situation, family, step))
            except Wrong as error:
                words.append(f"WRONG {error}")
            except Exception as error:
                words.append(f"ERROR {error!r:.300}")
                if "--trace" in sys.argv:
                    traceback.print_exc()
        print(f"{name:22} {family:8} {time.time() - start:5.1f}s", " | ".join(words), flush=True)
