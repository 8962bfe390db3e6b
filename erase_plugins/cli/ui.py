"""``erase-plugins ui``: the page in the browser of this machine."""

from __future__ import annotations

import importlib.util
import signal

import click

from erase_plugins.cli.command import declare
from erase_plugins.cli.console import emit, say


@declare("ui", example="--model pocket")
@click.option("--model", default="pocket", show_default=True, help="Model that the page starts with.")
@click.option("--device", metavar="D", help="cpu, cuda, mps ...; a graphics card where there is one if left out.")
@click.option("--port", type=click.IntRange(1, 65535), metavar="N", help="Port; a free one from 7860 on if left out.")
@click.option("--images", type=click.IntRange(1), metavar="N", help="Pictures of each kind of prompt when measuring.")
@click.option("--budget", default="quick", show_default=True, help="Of the attack: quick, standard, long or queries.")
@click.option("--browser/--no-browser", default=True, show_default=True, help="Open the browser.")
def command(model: str, device: str | None, port: int | None, images: int | None, budget: str, browser: bool) -> None:
    """Open a page: pick a model, write a concept, see before and after, measure, attack, publish.

    It listens on this machine only. Ctrl-C ends it.
    """
    from erase_plugins.errors import MissingExtra

    if importlib.util.find_spec("gradio") is None:
        raise MissingExtra("ui", "ui")
    from erase_plugins.cli.command import quiet_libraries
    from erase_plugins.page.blocks import page
    from erase_plugins.page.studio import Settings, Studio

    quiet_libraries()
    spent = int(budget) if budget.isdecimal() else budget
    studio = Studio(Settings(model=model, images=images, budget=spent, local=True), device=device)
    say(f"loading {model} ...")
    studio.open()
    blocks = page(studio)
    _, address, _ = blocks.launch(
        server_name="127.0.0.1", server_port=port, inbrowser=browser, prevent_thread_lock=True, quiet=True, share=False
    )
    say(f"the page is at {address}; Ctrl-C ends it")
    emit({"schema": 1, "address": address})
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends it like Ctrl-C, so that no picture stays behind
    blocks.block_thread()
