"""The package's sentences in the words of the graph: options of the command line become widgets and nodes."""

from __future__ import annotations

import re

#: what a sentence says for the command line -> what it says on a node; the first that fits wins, so special ones lead
_RULES = (
    (r"for example --to (\w+)", r"for example '-> \1'"),
    (r"\b(another|no) --to\b", r"\1 replacement behind '->'"),
    (r"--to\b", "a replacement behind '->'"),
    (r"\b(?:with|in) --keep\b", "in 'keep'"),
    (r"\bwith --set (\w+)=\S*", r"in '\1'"),
    (r"--set (\w+)=(\S+)", r"write \2 into '\1'"),
    (r"\bpass --any-base\b", "switch any_base on"),
    (r"\brun the same command (?:with --resume|again)\b", "run the node again"),
    (r"\bpass --force\b", "switch overwrite on"),
    (r"\bso --force does not replace it", "so it is not replaced, even with overwrite on"),
    (r"\banother --out\b", "another name"),
    (r"\bgive (?:the base model with )?--model\b", "connect MODEL and CLIP of the base"),
    (r"\bgive it as --model or --base\b", "load it with the stock checkpoint loader"),
    (r"\buse it as --model (\S+)", r"use \1 as a model, not as an erasure"),
    (r"\bname it with --license ID\b", "name it in 'license'"),
    (r"\bleave --private out\b", "switch 'private' off"),
    (r"\bor --erased TEXT\b", "or name them in 'erase'"),
    (r"\bgive --judge\b", "choose another judge"),
    (r"\badd at least one --erase TEXT\b", "write one a line"),
    (r"\bfor example --erase (\w+)", r"for example \1"),
    (r"\bchoose with --from PLUGIN\b", "uninstall one of the packages"),
    (r"\(--base\)", "(connected as MODEL)"),
    (r"\bconvert --base BASE\b", "'erase-plugins convert' with the base, in a terminal,"),
    (r"\bconvert --layout (\w+) keeps it; --layout (\w+) with --rank\b",
     r"'erase-plugins convert' to layout \1, in a terminal, keeps it; to layout \2 with a rank it"),
    (r"`convert --drop-bias`", "'erase-plugins convert', in a terminal,"),
    (r"'erase-plugins list plugins'", "the node 'Erase: doctor'"),
    (r"\(artifact\.save, or 'erase-plugins convert'\)", "with the save node"),
    (r", or 'erase-plugins collection pull'", " in the load node or the stack node"),
    (r"\buse 'collection pull' for them\b", "use the load node or the stack node for them"),
    (r"\band you are not logged in$",
     "and you are not logged in; make a token on the Hub under Settings, Access Tokens, and set it as HF_TOKEN "
     "where ComfyUI starts"),
    (r"(?<![\w-])--([a-z][a-z-]*)", r"'\1'"),
)  # fmt: skip
#: without one of these no rule applies; tooltips pass here whenever the pack is imported
_MARKS = ("--", "'erase-plugins ", "same command", "collection pull", "not logged in")


def in_the_graph(sentence: str) -> str:
    """A sentence of the package as a node says it; sentences without words of the command line stay as they are."""
    if any(mark in sentence for mark in _MARKS):
        for pattern, words in _RULES:
            sentence = re.sub(pattern, words, sentence)
    return sentence


def reword(error: Exception) -> None:
    """Changes the sentence of an exception into what a node says; its class and cause stay."""
    if len(error.args) == 1 and isinstance(error.args[0], str):
        error.args = (in_the_graph(error.args[0]),)
