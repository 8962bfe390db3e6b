"""The click group: commands named in a static table and imported on use, errors as one line with an exit code."""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from contextlib import suppress
from difflib import get_close_matches
from typing import Any

import click

from erase_plugins.cli.console import State, dump
from erase_plugins.errors import EraseError
from erase_plugins.hints import in_terminal
from erase_plugins.plain_text import one_line, scrub

#: command -> (module with a click command named ``command``, one line of help)
COMMANDS = {
    "demo": ("demo", "Erase a concept from the embedded model and see before and after (start here)."),
    "ui": ("ui", "Open a page in the browser: write a concept, see before and after, measure, attack, publish."),
    "list": ("list", "List methods, families, layouts, judges, suites, attacks or plugins."),
    "info": ("info", "Show a method's options, paper and families, or what else is registered under a name."),
    "run": ("run", "Erase concepts from a model and write an artifact folder."),
    "auto": ("auto", "Search method and settings for a concept, show the trade-off, write the best artifact."),
    "sweep": ("sweep", "Erase many concepts, each into an artifact of its own; resumable."),
    "compare": ("compare", "Run methods on the same concepts and seeds: table, Pareto plot, contact sheet."),
    "worst-case": ("worst_case", "Search the pictures, classes or concepts that a method finds hardest to forget."),
    "generate": ("generate", "Draw a picture with artifacts applied."),
    "evaluate": ("evaluate", "Measure artifacts: target, synonyms, neighbours, kept concepts."),
    "attack": ("attack", "Try to bring an erased concept back, within a budget."),
    "audit": ("audit", "Audit anybody's erased model or adapter: rates, attacks, one page to quote."),
    "inspect": ("inspect", "Say what a file or artifact folder is, and what can be done with it."),
    "convert": ("convert", "Write an artifact in another file layout."),
    "collection": ("collection", "Build, list, push and pull a library of many single-concept artifacts."),
    "clean-lora": ("clean_lora", "Take a concept out of somebody's LoRA, in closed form."),
    "merge": ("merge", "Make one artifact from several."),
    "add": ("add", "Erase further concepts in an existing closed-form artifact."),
    "revoke": ("revoke", "Bring a concept back in a closed-form artifact."),
    "records": ("records", "Learn heads from which training records can be deleted, with a certificate."),
    "texts": ("texts", "Ask a language model what it says of a person: texts to forget and to retain."),
    "request": ("request", "Carry out requests to be forgotten: deadlines, remedies, evidence, no names kept."),
    "verify-certificate": (
        "verify_certificate",
        "Check a certificate of deletion, or of a request, against its ledger.",
    ),
    "apply": ("apply", "Write a checkpoint with an artifact fused in."),
    "diagnose": ("diagnose", "Find out why a model still draws an erased concept."),
    "calibrate": ("calibrate", "Measure a model: neighbours, gates, first steps; one file to send back or use."),
    "doctor": ("doctor", "Check the installation: versions, plugins, layouts, device."),
    "comfy-install": ("comfy_install", "Make the nodes visible to a ComfyUI folder."),
    "new-plugin": ("new_plugin", "Write the skeleton of a plugin package."),
}
INTERRUPTED = "interrupted; nothing half written was left behind. Run the same command "
RESUME, AGAIN = "with --resume to go on", "again; if it keeps its work it goes on from there"


class LazyGroup(click.Group):
    """Imports a command's module when the command is used; plugins add commands by `erase_cli_commands`."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._added: dict[str, click.Command] | None = None

    # ---- commands ----------------------------------------------------------------------------------------------

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*COMMANDS, *sorted(self.plugin_commands())]

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name in COMMANDS:
            module = importlib.import_module(f"erase_plugins.cli.{COMMANDS[name][0]}")
            return module.command
        return self.plugin_commands(always=True).get(name)

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        name = args[0]
        if name.startswith("-") or self.get_command(ctx, name) is not None:
            return super().resolve_command(ctx, args)
        known = self.list_commands(ctx)
        close = get_close_matches(name, known, n=1)
        meant = f"; did you mean '{close[0]}'?" if close else ""
        raise click.UsageError(f"no command '{name}'{meant} Commands: {', '.join(known)}", ctx)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])
        added = self.plugin_commands()
        if added:
            with formatter.section("Commands from plugins"):
                formatter.write_dl([(name, added[name].get_short_help_str(80)) for name in sorted(added)])

    def plugin_commands(self, always: bool = False) -> dict[str, click.Command]:
        """Commands that plugins add. For a mere listing the built-in ones, which add none, are not imported."""
        from erase_plugins.manager import Manager, get_manager

        if always or get_manager.cache_info().currsize > 0:
            manager = get_manager()
        else:
            manager = Manager()
            manager.load_entry_points()
        collector = click.Group("plugins")
        manager.cli_commands(collector)
        return {name: command for name, command in collector.commands.items() if name not in COMMANDS}

    # ---- errors ------------------------------------------------------------------------------------------------

    def main(
        self, args: Any = None, prog_name: str | None = None, complete_var: str | None = None,
        standalone_mode: bool = True, **extra: Any,
    ) -> Any:  # fmt: skip
        """Runs the command line; ends the process with the exit code of what happened."""
        words = [str(word) for word in (sys.argv[1:] if args is None else args)]
        settings = State(debug="--debug" in words, json="--json" in words)
        for stream in (sys.stdout, sys.stderr):
            if hasattr(stream, "reconfigure"):
                stream.reconfigure(errors="replace")
        if not standalone_mode:
            return super().main(args, prog_name, complete_var, False, obj=settings, **extra)
        try:
            result = super().main(words, prog_name, complete_var, False, obj=settings, **extra)
            code = result if isinstance(result, int) else 0
        except BaseException as error:
            code = report(error, settings)
        finally:
            for undo in settings.undo:
                undo()
        sys.exit(code)


def report(error: BaseException, settings: State) -> int:
    """Prints an error: one line on stderr, an object on stdout with --json; returns the exit code."""
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else 1
    if isinstance(error, BrokenPipeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # nobody reads any more; keep the interpreter quiet at exit
        return 1
    if settings.debug:
        traceback.print_exception(error)
    code, kind, message = describe(error, settings.resumes)
    if settings.json and not settings.emitted:  # a second object would make both unreadable
        told = dump({"error": {"type": kind, "message": message, "exit_code": code}}, settings.out)
        with suppress(OSError):  # stdout may be what is full
            click.echo(told, file=settings.out)
    click.echo(f"error: {message}", err=True)
    return code


def describe(error: BaseException, resumes: bool = False) -> tuple[int, str, str]:
    """Exit code, kind and one-line message of an error, free of folders and tokens.

    Args:
        error: what ended the command.
        resumes: the command has ``--resume``.
    """
    kind = type(error).__name__
    if isinstance(error, EraseError):
        return error.exit_code, kind, scrub(one_line(in_terminal(error) or kind))
    if isinstance(error, click.UsageError):
        where = error.ctx.command_path if error.ctx is not None else "erase-plugins"
        text = one_line(error.format_message()).rstrip(".")
        return 2, "UsageError", scrub(f"{text}; see '{where} --help'")
    if isinstance(error, click.ClickException):
        return error.exit_code, kind, scrub(one_line(error.format_message()))
    if isinstance(error, KeyboardInterrupt | click.Abort):
        # click makes an Abort of Ctrl-C, and has one of its own for a question that got no answer
        asked = isinstance(error, click.Abort) and not isinstance(error.__cause__, KeyboardInterrupt)
        return 1 if asked else 130, "Interrupted", INTERRUPTED + (RESUME if resumes else AGAIN)
    if isinstance(error, MemoryError) or "out of memory" in str(error).lower():
        return 1, kind, "not enough memory; try a closed-form method (uce), --dtype bfloat16, or fewer pictures at once"
    if isinstance(error, OSError) and error.strerror:
        name = os.path.basename(str(error.filename or ""))
        where = f"{error.strerror}: '{name}'" if name else str(error.strerror)  # a full disk is told without a file
        plugin = _blamed(error)
        where += f" in {plugin}" if plugin else ""
        return 1, kind, scrub(one_line(f"{where}; check the path, the rights and the free space"))
    text = scrub(one_line(str(error)))[:300]
    if plugin := _blamed(error):
        return 1, kind, f"unexpected {kind} in {plugin}: {text}; tell its author, --debug shows the traceback"
    return 1, kind, f"unexpected {kind}: {text}; run again with --debug for the traceback"


def _blamed(error: BaseException) -> str:
    """The plugin of somebody else in which an error arose; empty if there is none, or no plugin was asked yet."""
    from erase_plugins.blame import blamed
    from erase_plugins.manager import get_manager

    return blamed(error, get_manager()) if get_manager.cache_info().currsize else ""
