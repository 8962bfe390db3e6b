"""Addresses for our script in the browser: what an artifact erases, taking in a dropped file, and a person's answer
whether to publish.

All but publishing works without them. Files are read and written beside the event loop.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from erase_plugins.errors import ArtifactError, EraseError, NotAllowed, RequestError

from . import host, publishing
from .describing import describe, read_manifest
from .wording import in_the_graph

MOST_BYTES = 4 << 30


def register() -> None:
    """Adds the routes to a running server; does nothing where ComfyUI's server is not loaded."""
    server = getattr(sys.modules.get("server"), "PromptServer", None)
    instance = getattr(server, "instance", None)
    if instance is None:
        return
    instance.routes.get("/erase_plugins/artifact")(_artifact)
    instance.routes.post("/erase_plugins/artifact")(_take_in)
    instance.routes.post("/erase_plugins/publish")(_publish)


async def _artifact(request: Any) -> Any:
    """``?name=``: what it erases, as JSON."""
    import asyncio  # costs a third of the pack's import, and the server has it

    try:
        return _answer(await asyncio.to_thread(describe, request.query.get("name", "")))
    except EraseError as error:
        return _answer({"error": in_the_graph(str(error))}, 400)


async def _publish(request: Any) -> Any:
    """``{"key": ..., "send": true}``: sends what was offered under the key; anything but true drops it."""
    import asyncio

    try:
        publishing.refuse_strangers(request.headers)
        try:
            asked = await request.json()
        except ValueError:
            asked = None
        if not isinstance(asked, dict):
            raise RequestError("send JSON: a key, and whether to send")
        answer = await asyncio.to_thread(publishing.settle, asked.get("key", ""), asked.get("send") is True)
        return _answer(answer)
    except NotAllowed as error:
        return _answer({"error": in_the_graph(str(error))}, 403)
    except EraseError as error:
        return _answer({"error": in_the_graph(str(error))}, 400)


async def _take_in(request: Any) -> Any:
    """A safetensors file as the body, ``?name=``: stored below models/erase_plugins, its entry as JSON."""
    import asyncio

    work = None
    try:
        goal = free_place(request.query.get("name", ""))
        work = goal.with_name(f".{goal.name}.{os.getpid()}.part")
        file = await asyncio.to_thread(work.open, "wb")
        try:
            size = 0
            async for chunk in request.content.iter_chunked(1 << 20):
                size += len(chunk)
                if size > MOST_BYTES:
                    raise RequestError(f"the file is larger than {MOST_BYTES >> 30} GiB; copy it by hand")
                await asyncio.to_thread(file.write, chunk)
        finally:
            file.close()
        return _answer({"name": await asyncio.to_thread(_accept, work, goal)})
    except EraseError as error:
        return _answer({"error": in_the_graph(str(error))}, 400)
    finally:
        if work is not None:
            work.unlink(missing_ok=True)


def free_place(name: str) -> Path:
    """Where a file of this name goes; a number is added where the name is taken.

    Raises:
        RequestError: not the plain name of a safetensors file.
    """
    if Path(name).name != name or "\\" in name or name.startswith(".") or not name.endswith(".safetensors"):
        raise RequestError(f"'{name[:80]}' is not the name of a safetensors file")
    folder = host.artifact_folders()[0]
    folder.mkdir(parents=True, exist_ok=True)
    stem = name.removesuffix(".safetensors")
    choices = [folder / name, *(folder / f"{stem}_{number}.safetensors" for number in range(2, 1000))]
    found = next((place for place in choices if not place.exists()), None)
    if found is None:
        raise RequestError(f"models/erase_plugins holds a thousand files called {stem}; remove some")
    return found


def _accept(work: Path, goal: Path) -> str:
    """Keeps a written file that is an artifact of ours, under the name of an equal one if there is any."""
    from erase_plugins.artifacts.store import file_hash

    if read_manifest(work) is None:
        raise ArtifactError(
            f"'{goal.name}' was not written by erase-plugins; copy it into models/erase_plugins by hand"
        )
    stem = goal.stem.rsplit("_", 1)[0]
    for other in goal.parent.glob("*.safetensors"):
        same = other.stem.startswith(stem) and other.stat().st_size == work.stat().st_size
        if same and file_hash(other) == file_hash(work):
            return other.name
    os.replace(work, goal)
    return goal.name


def _answer(content: dict[str, Any], status: int = 200) -> Any:
    from aiohttp import web

    return web.json_response(content, status=status)
