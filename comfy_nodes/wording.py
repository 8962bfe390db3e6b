"""The package's sentences in the words of the graph: options of the command line become widgets and nodes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from erase_plugins.errors import EraseError
from erase_plugins.hints import AnyHint, Command, Setting, in_words, sentence_of

#: words in front of an option, and the option, with what a node says instead; {value} is what stands behind it
_OPTIONS = {
    ("for example", "to"): "for example '-> {value}'",
    ("another", "to"): "another replacement behind '->'",
    ("no", "to"): "no replacement behind '->'",
    ("", "to"): "a replacement behind '->'",
    ("one", "to"): "one replacement behind '->'",
    ("leave", "to"): "leave the replacement behind '->' out",
    ("with", "keep"): "in 'keep'",
    ("pass", "any-base"): "switch any_base on",
    ("run the same command with", "resume"): "run the node again",
    ("pass", "force"): "switch overwrite on",
    ("so", "force"): "so it is not replaced, even with overwrite on",
    ("another", "out"): "another name",
    ("shorter", "out"): "shorter name",
    ("", "out"): "the name",
    ("give the base model with", "model"): "connect MODEL and CLIP of the base",
    ("give", "model"): "connect MODEL and CLIP of the base",
    ("give it as", "model"): "load it with the stock checkpoint loader",
    ("use it as", "model"): "use {value} as a model, not as an erasure",
    ("name it with", "license"): "name it in 'license'",
    ("leave", "private"): "switch 'private' off",
    ("or", "erased"): "or name them in 'erase'",
    ("give", "judge"): "choose another judge",
    ("add at least one", "erase"): "write one a line",
    ("for example", "erase"): "for example {value}",
    ("choose with", "from"): "uninstall one of the packages",
    ("", "base"): "connected as MODEL",
}
_COMMANDS = {
    "again": "run the node again",
    "log in": "and you are not logged in; make a token on the Hub under Settings, Access Tokens, and set it as "
    "HF_TOKEN where ComfyUI starts",
    "list plugins": "the node 'Erase: doctor'",
    "convert": "with the save node",
    "convert --base": "'erase-plugins convert' with the base, in a terminal,",
    "convert a patch": "'erase-plugins convert' to layout patch, in a terminal, keeps it; "
    "to layout kohya with a rank it",
    "convert --layout patch": "'erase-plugins convert' to layout patch, in a terminal",
    "convert --drop-bias": "'erase-plugins convert', in a terminal,",
    "collection pull": " in the load node or the stack node",
    "collection pull for them": "use the load node or the stack node for them",
    "run": "with an erase node",
    "evaluate --out": "'erase-plugins evaluate', in a terminal,",
    "attack --out": "'erase-plugins attack', in a terminal,",
    "card --pairs": "'erase-plugins card', in a terminal",
}


def _words(hint: AnyHint) -> str:
    if isinstance(hint, Command):
        return _COMMANDS.get(hint.name, hint.words)
    if isinstance(hint, Setting):
        return f"in '{hint.name}'" if hint.before == "with" else f"write {hint.value} into '{hint.name}'"
    known = _OPTIONS.get((hint.before, hint.option))
    return known.format(value=hint.value) if known else hint.by_name()


def in_the_graph(sentence: object) -> str:
    """A sentence of the package, or an error's, as a node says it; one without hints stays as it is."""
    return in_words(sentence, _words)


def reword(error: Exception) -> None:
    """Changes the sentence of an exception into what a node says; its class and cause stay."""
    if len(error.args) == 1 and isinstance(error.args[0], str):
        error.args = (in_the_graph(error.args[0]),)


def refusal(act: Callable[..., Any], *given: Any) -> str | None:
    """What ``act`` says where it refuses what it is given; None where it does not. Widgets are checked so."""
    try:
        act(*given)
    except EraseError as error:
        return sentence_of(error)
    return None
