"""Measures every cell and prints it; ``--write`` renews the table in docs/support.md. Names of rows measure only those."""

from __future__ import annotations

import sys

from tests.runtime.support import page
from tests.runtime.support.measure import STEPS, Wrong, measure
from tests.runtime.support.situations import SITUATIONS


def main(arguments: list[str]) -> int:
    """Exit status 1 if a cell is neither exact nor refused; then nothing is written."""
    picked = [item for item in arguments if not item.startswith("--")]
    rows: dict[str, list[str]] = {}
    wrong = 0
    for name, situation in SITUATIONS.items():
        for family in situation.families if not picked or name in picked else ():
            words = []
            for step in STEPS:
                try:
                    words.append(measure(situation, family, step))
                except Wrong as error:
                    words.append(f"WRONG: {error}")
            wrong += any(word not in page.WORDS for word in words)
            if rows.setdefault(situation.title, words) != words:
                wrong += 1
                words.append(f"WRONG: another result than {situation.families[0]}")
            print(f"{name:22} {family:8}", " | ".join(words), flush=True)
    if "--write" in arguments and not picked and not wrong:
        page.write(rows)
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
