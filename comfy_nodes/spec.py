"""One description per node: sockets with tooltips, outputs, aliases and a plain function. No ComfyUI, no torch.

Run functions take keyword arguments named like the inputs and return a `Result`; they can be called from a test.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

OWN = "erase-plugins"
#: types that the editor shows as a widget; all others are sockets
WIDGETS = frozenset({"INT", "FLOAT", "STRING", "BOOLEAN", "COMBO"})
#: words that people search for; each finds every node in the menu
SEARCHED = ("unlearn", "remove concept", "ban", "negative")
#: hidden inputs of nodes that note in a picture what they took
METADATA = {"prompt": "PROMPT", "extra_pnginfo": "EXTRA_PNGINFO", "unique_id": "UNIQUE_ID"}


@dataclass(frozen=True)
class Input:
    """One input socket or widget.

    Attributes:
        name: argument of the run function; never renamed.
        type: ComfyUI type; "COMBO" takes its entries from ``choices``.
        tooltip: one or two sentences for people.
        required: False puts it among the optional inputs.
        options: further widget options (default, min, max, step, multiline, placeholder).
        choices: entries of a combo, or a function that lists them now.
    """

    name: str
    type: str
    tooltip: str
    required: bool = True
    options: Mapping[str, Any] = field(default_factory=dict)
    choices: tuple[str, ...] | Callable[[], list[str]] = ()

    def entries(self) -> list[str]:
        """Entries of a combo at this moment."""
        return list(self.choices() if callable(self.choices) else self.choices)


@dataclass(frozen=True)
class Output:
    """One output socket."""

    name: str
    type: str
    tooltip: str


@dataclass(frozen=True)
class Result:
    """What a run function returns: values in the order of the outputs, and what the interface shows.

    Attributes:
        values: in the order of the outputs.
        text: report shown by the interface; none if empty.
        images: pictures shown on the node, (n, height, width, 3) in 0..1; None shows nothing.
        shown: further things for our own script in the browser, by name.
    """

    values: tuple[Any, ...]
    text: str = ""
    images: Any = None
    shown: Mapping[str, list[Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class NodeSpec:
    """A node.

    Attributes:
        id: identifier in workflow files; never renamed.
        title: what people see.
        category: menu path.
        description: two sentences.
        inputs, outputs: the sockets.
        run: the function; its keyword arguments are the inputs.
        aliases: words that find the node in the search box.
        is_output: the graph may end here.
        checks: input -> function that returns the reason why its value cannot be used, or None.
        beside: input -> others that its check is told of: it is called with the value and the names of those in which
            something is written or connected.
        state: from the widget values, something that differs when the node must run again.
        experimental: inputs may still change; the editor marks the node.
        hidden: argument -> what ComfyUI hands over without a socket ("PROMPT", "EXTRA_PNGINFO", "UNIQUE_ID").
        when: when to use another node instead; sentences for the help page.
        cost: time and memory, in the words of the help page.
        paper: address of the paper behind it.
        instead: what to use in place of a node that is no longer in the menu; empty for those that are. Workflows
            with it still load and run.
        short: shown instead of the title by editors that search aliases, too; whoever types exactly this finds the node
            first. Others search ids and titles alone, so there the title holds the words.
        package: distribution that the node comes from; help pages are written for our own.
    """

    id: str
    title: str
    category: str
    description: str
    inputs: tuple[Input, ...]
    outputs: tuple[Output, ...]
    run: Callable[..., Result]
    aliases: tuple[str, ...]
    is_output: bool = False
    checks: Mapping[str, Callable[..., str | None]] = field(default_factory=dict)
    beside: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    state: Callable[..., Any] | None = None
    experimental: bool = False
    hidden: Mapping[str, str] = field(default_factory=dict)
    when: str = ""
    cost: str = ""
    paper: str = ""
    instead: str = ""
    short: str = ""
    package: str = OWN

    @property
    def searched(self) -> tuple[str, ...]:
        """Words that find the node in the search box; those of all nodes for what is in the menu."""
        return tuple(dict.fromkeys((*self.aliases, *(() if self.instead else SEARCHED))))

    @property
    def widgets(self) -> tuple[str, ...]:
        """Names of the inputs that have a widget, in the order in which workflow files store their values."""
        ordered = [item for item in self.inputs if item.required] + [item for item in self.inputs if not item.required]
        return tuple(item.name for item in ordered if item.type in WIDGETS)

    @property
    def defaults(self) -> tuple[Any, ...]:
        """Values of the widgets in that order up to the last optional ones; None for what has no default."""
        known = {item.name: item.options.get("default") for item in self.inputs}
        return tuple(known[name] for name in self.widgets)
