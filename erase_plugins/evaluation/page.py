"""One page about an eraser, as HTML and as Markdown, with everything inside. Texts of strangers are inert. No torch."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from functools import partial
from html import escape
from typing import Any

from erase_plugins.artifacts.places import STAMP
from erase_plugins.evaluation.attack_summary import base_share, control_share, excess, plain_name
from erase_plugins.evaluation.wording import STATES, WORDS, called, counted
from erase_plugins.markdown import prose
from erase_plugins.types import AttackReport, EvalReport

#: a text on the Markdown page; a sentence with all its numbers is long
_inert = partial(prose, most=5000)
Figures = Sequence[tuple[str, bytes]]
Table = tuple[list[str], list[list[str]]]
_NOTES = (
    "A concept that is not drawn may still be in the weights. An attack that did not succeed within this budget may "
    "succeed with a larger one. A control is the same attempt where nothing can be found: only the excess over it was "
    "brought back. The reference is a model that never saw the concept; a destroyed model is a weak control, since it "
    "may have lost what an attack needs. Judges err; look at the pictures."
)
_STYLE = """
:root { color-scheme: light dark; --line: #8886; --faint: #8881; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem;
  overflow-wrap: anywhere; }
blockquote { margin: 1rem 0; padding: .8rem 1rem; border-left: 4px solid #c0392b; background: var(--faint); }
.wide { overflow-x: auto; } table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { border-bottom: 1px solid var(--line); padding: .35rem .6rem; text-align: left; vertical-align: top; }
th { font-weight: 600; overflow-wrap: normal; } td { overflow-wrap: break-word; } figure { margin: 1.5rem 0; }
img { max-width: 100%; height: auto; background: white; }
figcaption, footer, .note { color: #777; font-size: .9rem; }
"""


def rates_table(report: EvalReport) -> Table:
    """One line per metric, one column per state of the model."""
    table = {(row.metric, row.subject): row for row in report.rows}
    states = list(dict.fromkeys(row.subject for row in report.rows))
    metrics = list(dict.fromkeys(row.metric for row in report.rows))
    rows = [[called(name, WORDS), *(counted(table.get((name, state))) for state in states)] for name in metrics]
    return ["share of pictures (95 % interval)", *(STATES.get(name, name) for name in states)], rows


def attacks_table(attacks: Iterable[AttackReport], not_run: dict[str, str]) -> Table:
    """One line per attack; those that were not run say why."""
    rows = [
        [report.attack, report.budget, base_share(report), counted(plain_name(report)), counted(report.success),
         control_share(report), excess(report), f"{report.queries}, {report.passes}"]
        for report in attacks
    ]  # fmt: skip
    head = ["attack", "budget", "base", "plain name", "attacked", "control", "excess", "pictures, passes"]
    rows += [[name, f"not run: {reason}", *"-" * (len(head) - 2)] for name, reason in not_run.items()]
    return head, rows


def explained(found: Any) -> list[str]:
    """What each attack of the table does: its name alone says that to who knows it already."""
    return [f"{name}: {title}" for name, title in found.titles.items()]


def synonyms(found: Any) -> list[str]:
    """Which synonyms the rates are about; empty if there are none."""
    asked = found.report.details.get("synonyms")
    return [f"Synonyms that were asked for: {', '.join(asked)}."] if asked else []


def _title(found: Any) -> str:
    return f"Audit of {found.what}: is {', '.join(found.report.erased)} gone?"


def _facts(found: Any) -> str:
    report = found.report
    sampler = dict(report.details.get("sampler") or {})
    return (
        f"Base {report.model}; strength {report.strength:g}; judge {report.judge} ({report.judge_hash}); "
        f"seed {', '.join(map(str, report.seeds))}; {sampler.get('steps', '?')} steps, guidance "
        f"{sampler.get('guidance', '?')}; made by {STAMP}."
    )


def told(found: Any) -> list[str]:
    """What an audit says beside its numbers: its own notes, warnings of the report and of each attack."""
    notes = [*found.notes, *found.report.warnings]
    return [*notes, *(f"{item.attack}: {text}" for item in found.attacks for text in item.warnings)]


def _uri(data: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(data).decode()


# ---- HTML ----------------------------------------------------------------------------------------------------------


def html_page(found: Any, figures: Figures) -> str:
    """The page as HTML without scripts; nothing is loaded from elsewhere.

    Args:
        found: `erase_plugins.workflow.audit.Audit`.
        figures: (title, PNG).
    """
    parts = [
        f"<h1>{escape(_title(found))}</h1>",
        f"<blockquote>{escape(found.sentence)}</blockquote>",
        "<h2>Rates</h2>", _html_table(rates_table(found.report)),
        *(f'<p class="note">{escape(text)}</p>' for text in synonyms(found)),
        "<h2>Attacks</h2>", _html_table(attacks_table(found.attacks, found.not_run)),
        '<ul class="note">', *(f"<li>{escape(text)}</li>" for text in explained(found)), "</ul>",
        f'<p class="note">{escape(_NOTES)}</p>',
        *(["<h2>Notes</h2><ul>", *(f"<li>{escape(text)}</li>" for text in told(found)), "</ul>"]
          if told(found) else []),
        "<h2>Pictures</h2>",
        *(f'<figure><img alt="{escape(title)}" src="{_uri(data)}"><figcaption>{escape(title)}</figcaption></figure>'
          for title, data in figures),
        f"<footer>{escape(_facts(found))}</footer>",
    ]  # fmt: skip
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        f"<title>{escape(_title(found))}</title><style>{_STYLE}</style></head>\n<body>\n"
        + "\n".join(parts)
        + "\n</body></html>\n"
    )


def _html_table(table: Table) -> str:
    head, rows = table
    cells = "".join(f'<th scope="col">{escape(text)}</th>' for text in head)
    lines = "\n".join(
        f'<tr><th scope="row">{escape(row[0])}</th>' + "".join(f"<td>{_whole(text)}</td>" for text in row[1:]) + "</tr>"
        for row in rows
    )
    return f'<div class="wide"><table><thead><tr>{cells}</tr></thead><tbody>\n{lines}\n</tbody></table></div>'


def _whole(text: str) -> str:
    """Text of a cell in which no line ends between a number and what it belongs to."""
    return escape(text).replace(" %", "&nbsp;%").replace("n = ", "n&nbsp;=&nbsp;")


# ---- Markdown ------------------------------------------------------------------------------------------------------


def markdown_page(found: Any, figures: Figures) -> str:
    """The page as Markdown; figures are inside as data URIs."""
    parts = [
        f"# {_inert(_title(found))}",
        f"> {_inert(found.sentence)}",
        "## Rates\n\n" + _markdown_table(rates_table(found.report)),
        *(_inert(text) for text in synonyms(found)),
        "## Attacks\n\n" + _markdown_table(attacks_table(found.attacks, found.not_run)),
        "\n".join(f"- {_inert(text)}" for text in explained(found)),
        _NOTES,
        *(["## Notes\n\n" + "\n".join(f"- {_inert(text)}" for text in told(found))] if told(found) else []),
        "## Pictures",
        *(f"{_inert(title)}\n\n![{_inert(title)}]({_uri(data)})" for title, data in figures),
        _inert(_facts(found)),
    ]
    return "\n\n".join(parts) + "\n"


def _markdown_table(table: Table) -> str:
    head, rows = table
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(
        "| " + " | ".join(text if text == "---" else _inert(text) for text in line) + " |" for line in lines
    )
