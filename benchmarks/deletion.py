"""Deletion of one of 10,000 records from a head of 650 numbers: ours against the paper's schedule.

    python -m benchmarks.deletion [--runs 5] [--json]

Both heads are learned on the same random rows with the same loss, weight decay and leakage of one model, and delete one
record down to the same leakage; `preset="paper"` is the schedule as the specification of the paper has it. Steps do not
depend on the machine. The seconds of ours hold everything that a user waits for: reading, descent, writing, ledger.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from erase_plugins.records.options import HeadOptions
from erase_plugins.records.store import Records

RECORDS, FEATURES, CLASSES = 10_000, 64, 10


def measured(preset: str, folder: Path, runs: int) -> dict[str, Any]:
    """Steps of a deletion, and the seconds (of the clock and of the processor) of ``runs`` of them, the median."""
    draw = np.random.default_rng(0)
    rows, labels = draw.normal(size=(RECORDS, FEATURES)), draw.integers(0, CLASSES, RECORDS)
    options = HeadOptions(classes=CLASSES, preset=preset, mode="warm", learn_steps=1)
    head, ids = Records.create(folder, rows, labels, options)
    clock, processor = [], []
    for name in ids[:runs]:
        started, used = time.perf_counter(), time.process_time()
        head.delete([name])
        clock.append(time.perf_counter() - started)
        processor.append(time.process_time() - used)
    opened = head.account().opened
    return {
        "schedule": preset, "numbers": opened["outputs"] * (opened["dim"] + opened["bias"]),
        "steps": opened["edit_steps"], "eta": opened["eta"], "sigma2": opened["sigma2"],
        "seconds": float(np.median(clock)), "processor_seconds": float(np.median(processor)),
        "rho_left": head.certificate()["rho_non_adaptive"],
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5, help="deletions of each head")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        found = [measured(name, Path(work) / name, args.runs) for name in ("default", "paper")]
    ours, paper = found
    ratio = paper["steps"] / ours["steps"]
    if args.json:
        print(json.dumps({"records": RECORDS, "rows": found, "steps_ratio": ratio}))
        return
    print(f"one of {RECORDS} records, head of {ours['numbers']} numbers, median of {args.runs} deletions\n")
    print("| schedule | steps | seconds | of the processor | left over, rho |\n|---|---|---|---|---|")
    for row in found:
        print(f"| {row['schedule']} | {row['steps']} | {row['seconds']:.2f} | {row['processor_seconds']:.2f} "
              f"| {row['rho_left']:.3g} |")  # fmt: skip
    print(f"\nsteps of the paper over ours: {ratio:.1f}; one deletion takes less than a second: "
          f"{'yes' if ours['processor_seconds'] < 1 else 'NO'}")  # fmt: skip


if __name__ == "__main__":
    main()
