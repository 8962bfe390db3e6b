"""Addresses for our script in the browser: what an artifact erases, cards for the picker, the options of every
method, taking in a dropped file, and a person's answer whether to publish.

All but publishing works without them. Files are read and written beside the event loop.
"""

from __future__ import annotations

import os
import shutil
import sys
import threading
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any
from uuid import uuid4

from erase_plugins.errors import ArtifactError, EraseError, NotAllowed, RequestError

from . import host
from .describing import describe, read_manifest
from .files import shown
from .wording import in_the_graph

MOST_BYTES = 4 << 30
#: bytes of a file name; file systems hold 255, and a number and an ending may be added
LONGEST = 200
#: files that are taken in at once, and bytes of the disk that none of them may take
AT_ONCE, LEFT_FREE = 4, 1 << 30
_KEEPING = threading.Lock()
_COMING: set[str] = set()


def register() -> None:
    """Adds the routes to a running server; does nothing where ComfyUI's server is not loaded."""
    server = getattr(sys.modules.get("server"), "PromptServer", None)
    instance = getattr(server, "instance", None)
    if instance is None:
        return
    instance.routes.get("/erase_plugins/artifact")(_artifact)
    instance.routes.post("/erase_plugins/artifact")(_take_in)
    instance.routes.get("/erase_plugins/methods")(_methods)
    instance.routes.post("/erase_plugins/publish")(_publish)
    instance.routes.get("/erase_plugins/library")(_library)
    instance.routes.get("/erase_plugins/picture")(_picture)


async def _artifact(request: Any) -> Any:
    """``?name=``: what it erases, as JSON."""
    import asyncio  # costs a third of the pack's import, and the server has it

    try:
        return _answer(await asyncio.to_thread(describe, request.query.get("name", "")))
    except EraseError as error:
        return _answer({"error": in_the_graph(error)}, 400)


async def _library(request: Any) -> Any:
    """``?loras=1`` or ``?hub=1&query=``: cards for the picker, as JSON. The Hub is asked only where it is named."""
    import asyncio

    from . import shelf

    asked = request.query
    try:
        if asked.get("hub"):
            return _answer({"cards": await asyncio.to_thread(shelf.on_the_hub, asked.get("query", "")[:200])})
        return _answer({"cards": await asyncio.to_thread(shelf.cards, bool(asked.get("loras")))})
    except (EraseError, ImportError) as error:
        return _answer({"error": in_the_graph(error)}, 400)


async def _picture(request: Any) -> Any:
    """``?name=``: the picture of an artifact."""
    import asyncio

    from . import shelf

    try:
        data, kind = await asyncio.to_thread(shelf.picture, request.query.get("name", ""))
    except (EraseError, OSError) as error:
        return _answer({"error": in_the_graph(error)}, 404)
    return _bytes(data, kind)


async def _methods(_request: Any) -> Any:
    """Title and options of every method that the Erase node takes, as JSON."""
    from .method_options import method_options, method_titles

    return _answer({"methods": method_options(), "titles": method_titles()})


async def _publish(request: Any) -> Any:
    """``{"key": ..., "send": true}``: sends what was offered under the key; anything but true drops it."""
    import asyncio

    from . import publishing

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
        return _answer({"error": in_the_graph(error)}, 403)
    except EraseError as error:
        return _answer({"error": in_the_graph(error)}, 400)


async def _take_in(request: Any) -> Any:
    """A safetensors file as the body, ``?name=``: stored below models/erase_plugins, its entry as JSON."""
    import asyncio

    work = None
    try:
        name = check_name(request.query.get("name", ""))
        check_quota(getattr(request, "content_length", None) or 0)
        work, file = await asyncio.to_thread(_temporary)
        _COMING.add(work.name)
        try:
            size = 0
            async for chunk in request.content.iter_chunked(1 << 20):
                size += len(chunk)
                if size > MOST_BYTES:
                    raise RequestError(f"the file is larger than {MOST_BYTES >> 30} GiB; copy it by hand")
                await asyncio.to_thread(file.write, chunk)
        finally:
            file.close()
        return _answer({"name": await asyncio.to_thread(_accept, work, name)})
    except EraseError as error:
        return _answer({"error": in_the_graph(error)}, 400)
    except OSError as error:  # a full disk, a folder that may not be written
        return _answer({"error": f"the file could not be stored: {error.strerror or 'the disk refused it'}"}, 507)
    finally:
        if work is not None:
            _COMING.discard(work.name)
            work.unlink(missing_ok=True)


def check_name(name: str) -> str:
    """The name, if it is the plain name of a safetensors file that every file system can hold.

    Raises:
        RequestError: it is not.
    """
    plain = PurePosixPath(name).name == PureWindowsPath(name).name == name and name.isprintable()
    if not plain or name.startswith(".") or not name.endswith(".safetensors") or set(name) & set('<>:"|?*'):
        raise RequestError(f"'{shown(name)}' is not the name of a safetensors file; give it a plain one")
    if len(name.encode(errors="replace")) > LONGEST:
        raise RequestError(f"'{shown(name)}' is longer than {LONGEST} bytes; give the file a shorter name")
    return name


def check_quota(size: int) -> None:
    """Refuses a file before its first byte.

    Args:
        size: bytes that were announced; 0 if none were.

    Raises:
        RequestError: too large, too many at once, or the disk would be full.
    """
    if size > MOST_BYTES:
        raise RequestError(f"the file is larger than {MOST_BYTES >> 30} GiB; copy it by hand")
    if len(_COMING) >= AT_ONCE:
        raise RequestError(f"{AT_ONCE} files are being taken in already; drop this one again when they are there")
    place = host.artifact_folders()[0]
    there = next(folder for folder in (place, *place.parents) if folder.exists())
    if shutil.disk_usage(there).free - size < LEFT_FREE:
        raise RequestError(f"the disk would have less than {LEFT_FREE >> 30} GiB left; make room first")


def _temporary() -> tuple[Path, Any]:
    """A new file for one upload alone."""
    folder = host.artifact_folders()[0]
    folder.mkdir(parents=True, exist_ok=True)
    work = folder / f".upload-{uuid4().hex}.part"
    return work, work.open("xb")


def _accept(work: Path, name: str) -> str:
    """Keeps a written file that is an artifact of ours, under the name of an equal one if there is any.

    A number is added where the name is taken; nothing that is there is replaced, even if it came a moment ago.
    """
    from erase_plugins.artifacts.store import file_hash

    if read_manifest(work) is None:
        raise ArtifactError(
            f"'{shown(name)}' was not written by erase-plugins; copy it into models/erase_plugins by hand"
        )
    stem, size, digest = name.removesuffix(".safetensors"), work.stat().st_size, file_hash(work)
    with _KEEPING:
        for choice in (name, *(f"{stem}_{number}.safetensors" for number in range(2, 1000))):
            goal = work.with_name(choice)
            if not goal.exists() and not goal.is_symlink():
                os.replace(work, goal)
                return choice
            if goal.is_file() and goal.stat().st_size == size and file_hash(goal) == digest:
                return choice
    raise RequestError(f"models/erase_plugins holds a thousand files called {shown(stem)}; remove some")


def _answer(content: dict[str, Any], status: int = 200) -> Any:
    from aiohttp import web

    return web.json_response(content, status=status)


def _bytes(data: bytes, kind: str) -> Any:
    from aiohttp import web

    return web.Response(body=data, content_type=kind, headers={"X-Content-Type-Options": "nosniff"})
