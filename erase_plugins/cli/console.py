"""What commands print: tables and progress for people, one JSON object for programs. rich is imported when needed."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from textwrap import fill
from typing import Any

import click

from erase_plugins.hints import in_terminal

#: of a fact that takes several lines
_INDENTED: Any = {"initial_indent": "  ", "subsequent_indent": "    "}


@dataclass
class State:
    """Settings of one invocation, in ``ctx.obj``."""

    debug: bool = False
    json: bool = False
    resumes: bool = False
    started: float = field(default_factory=time.perf_counter)
    undo: list[Any] = field(default_factory=list)
    hints: list[str] = field(default_factory=list)
    emitted: bool = False
    #: where the one object of ``--json`` goes; None is stdout
    out: Any = None


def state() -> State:
    """Settings of the running command; defaults outside of one."""
    ctx = click.get_current_context(silent=True)
    return ctx.ensure_object(State) if ctx is not None else State()


def use_it(*artifacts: str, model: str) -> str:
    """The line that draws with artifacts; ``model`` is what they were made for, empty if nobody says."""
    words = ("erase-plugins", "generate", *artifacts, "--model", model or "MODEL", "--prompt")
    return f"use it: {shlex.join(words)} ... --out picture.png"


def say(text: str = "") -> None:
    """A line on stdout; silent with --json."""
    if not state().json:
        click.echo(_printable(text, sys.stdout))


def say_fact(text: str) -> None:
    """A line of an indented list on stdout, broken between words where a terminal would break it anywhere.

    Elsewhere it stays one line, for programs that look for it.
    """
    width = _terminal()
    say(fill(in_terminal(text), width, **_INDENTED) if width else f"  {text}")


def _terminal() -> int:
    """Columns of the terminal; 0 where a program reads, whatever COLUMNS says: some libraries set it for all."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else 0


def hint(text: str, passing: bool = False) -> None:
    """A line on stderr: warnings, what else there is to know; with --json the object has it.

    Args:
        text: the line.
        passing: whether it tells how far something is, and nobody needs it afterwards.
    """
    if not state().json:
        click.echo(_printable(text, sys.stderr), err=True)
    elif not passing:
        state().hints.append(in_terminal(text))


def emit(data: Mapping[str, Any]) -> None:
    """The one JSON object of ``--json``, with the hints that were given before; silent without it."""
    if state().json:
        out = state().out
        click.echo(dump({**data, "hints": state().hints} if state().hints else data, out), file=out)
        state().emitted = True


def dump(data: Mapping[str, Any], out: Any = None) -> str:
    """JSON text; ASCII only where the console (``out``, or stdout) cannot do better, never NaN."""
    ascii_only = not _is_utf8(out or sys.stdout)
    return json.dumps(_finite(data), indent=2, ensure_ascii=ascii_only, allow_nan=False, default=str)


def _finite(value: Any) -> Any:
    if isinstance(value, float) and (value != value or abs(value) == float("inf")):
        return None
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return in_terminal(value) if isinstance(value, str) else value


def _is_utf8(stream: Any) -> bool:
    return (getattr(stream, "encoding", None) or "").lower().replace("-", "").startswith("utf8")


def _printable(said: object, stream: Any) -> str:
    text = in_terminal(said)
    if _is_utf8(stream):
        return text
    encoding = getattr(stream, "encoding", None) or "ascii"
    return text.encode(encoding, "replace").decode(encoding)


def console(err: bool = False) -> Any:
    """A rich console; honours NO_COLOR and COLUMNS, ASCII boxes where needed, wide when piped."""
    from rich.console import Console

    stream = sys.stderr if err else sys.stdout
    width = None if stream.isatty() or os.getenv("COLUMNS") else 160
    return Console(file=stream, width=width, highlight=False, emoji=False)


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[Any]], numbers: Iterable[str] = ()) -> None:
    """A table on stdout, row below row where the terminal is too narrow for its columns; silent with --json.

    Args:
        title: line above.
        columns: headings.
        rows: cells; everything is shown as text, markup is not interpreted.
        numbers: headings of columns that are aligned to the right.
    """
    if state().json:
        return
    try:
        from rich import box
        from rich.table import Table
        from rich.text import Text
    except ImportError:  # beside ComfyUI, without requirements: the command that says what is missing has to work
        for cells in (columns, *rows):
            say("  ".join(filter(None, map(in_terminal, cells))))
        return

    lines = [[_printable(cell, sys.stdout) for cell in row] for row in rows]
    screen = console()
    named, *others = (_narrowest(name, *cells) for name, *cells in zip(columns, *lines, strict=True))
    if max(named, _whole(columns[0], *(line[0] for line in lines))) + sum(others) > screen.width:
        _records(title, columns, lines, screen.width)
        return
    right = set(numbers)
    grid = Table(title=_printable(title, sys.stdout) or None, box=box.SIMPLE, title_justify="left", title_style="bold")
    for name in columns:
        grid.add_column(name, justify="right" if name in right else "left", overflow="fold")
    for line in lines:
        grid.add_row(*map(Text, line))
    screen.print(grid)


#: characters of a word in a cell that stay on one line, or the table is no table any more; of a name in front
_WORD, _NAME = 12, 40


def _narrowest(*cells: str) -> int:
    """Width of a column, with the gap beside it, in which no word shorter than `_WORD` is broken."""
    return 3 + max(min(len(word), _WORD) for cell in cells for word in cell.split() or ("",))


def _whole(*cells: str) -> int:
    """Width of the first column, by whose words a row is found: a file's name is not broken."""
    return 3 + max(min(len(word), _NAME) for cell in cells for word in cell.split() or ("",))


def _records(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]], width: int) -> None:
    """The rows of a table one below the other, each as its first cell and lines of "heading: cell"."""
    if title:
        say(title)
    for first, *others in rows:
        say(first)
        for name, cell in zip(columns[1:], others, strict=True):
            if cell:
                say(fill(f"{name}: {cell}", width, **_INDENTED))


#: seconds between two lines of progress, where there is no terminal
_PATIENCE = 5.0


class Bar:
    """Progress on stderr: one bar per stage on a terminal, a line per tenth of a long stage elsewhere."""

    def __init__(self, progress: Any) -> None:
        self.progress = progress
        self.tasks: dict[str, Any] = {}
        #: stage -> (time and state at its beginning, time and tenth of its last line)
        self.told: dict[str, tuple[float, int, float, int]] = {}

    def update(self, stage: str, done: int, total: int, numbers: Mapping[str, float] | None = None) -> None:
        """Sets a stage to ``done`` of ``total`` and shows ``numbers`` behind it."""
        text = " ".join(f"{name} {value:.4g}" for name, value in (numbers or {}).items())
        if self.progress is None:
            self._tell(stage, done, total, text)
            return
        if stage not in self.tasks:
            self.tasks[stage] = self.progress.add_task(stage, total=total or None, numbers="")
        self.progress.update(self.tasks[stage], completed=done, total=total or None, numbers=text)

    def _tell(self, stage: str, done: int, total: int, numbers: str) -> None:
        """A line for a log; a stage that is over soon says nothing."""
        now, tenth = time.monotonic(), 10 * done // total if total else 0
        began, first, last, told = self.told.get(stage, (now, done, now, tenth))
        if done < first:  # the stage begins once more
            began, first, last, told = now, done, now, tenth
        if tenth > told and now - last >= _PATIENCE and done < total:
            left = human_seconds((now - began) / (done - first) * (total - done))
            numbers = f" ({numbers})" if numbers else ""
            hint(f"{stage}: {done} of {total}, about {left} left{numbers}", passing=True)
            last, told = now, tenth
        self.told[stage] = began, first, last, told

    def event(self, event: Any) -> None:
        """Listener for run events."""
        if event.kind in ("start", "step"):
            self.update(event.method, event.done, event.total, event.numbers)
        elif event.kind == "note":
            self.note(event.message)

    def note(self, message: str) -> None:
        """A line above the bar."""
        if self.progress is None:
            hint(message, passing=True)
        else:
            self.progress.console.print(_printable(message, sys.stderr), markup=False)


@contextmanager
def progress() -> Iterator[Bar]:
    """Progress display for the length of a with-block."""
    if state().json or not sys.stderr.isatty():
        yield Bar(None)
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
               TextColumn("{task.fields[numbers]}"))  # fmt: skip
    with Progress(*columns, console=console(err=True), transient=True) as shown:
        yield Bar(shown)


def human_bytes(size: float | None) -> str:
    """A size for people."""
    if size is None:
        return "unknown"
    for unit in ("bytes", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"


def human_seconds(seconds: float | None) -> str:
    """A duration for people."""
    if seconds is None:
        return "unknown"
    if seconds < 60:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def share(row: Any) -> str:
    """A measured share with its 95 % interval and the number of samples, for people."""
    return f"{percent(row.value)} [{100 * row.low:.0f}..{100 * row.high:.0f}] n={row.n}"


def percent(value: float | None) -> str:
    """A share for people."""
    return "-" if value is None else f"{100 * value:.0f} %"
