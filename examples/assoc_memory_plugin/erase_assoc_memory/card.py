"""The section of a model card: what the guard recognises, beside plain cosine search."""

from __future__ import annotations

from typing import Any

LIMITS = (
    "The guard is advisory and reads text: it is a speed bump, it edits no weights, and whoever has the file can ask "
    "it for any concept. Exact search by cosine over a list of names is simpler and finds more misspelt ones."
)


def section(report: Any) -> str:
    """Markdown with one row per metric."""
    names = {"false_alarm_rate": "ordinary prompts that are flagged"}
    names |= {f"recall_{count}_errors_rate": f"names with {count} typing errors that are found" for count in range(4)}
    lines = ["### Prompt guard (associative memory)", "", "| | guard | cosine search |", "|---|---|---|"]
    for metric, title in names.items():
        cells = []
        for subject in ("guard", "cosine"):
            row = report.row(metric, subject)
            cells.append(f"{row.value:.1%} ({row.low:.1%} to {row.high:.1%})")
        lines.append(f"| {title} | {' | '.join(cells)} |")
    return "\n".join([*lines, "", LIMITS, ""])
