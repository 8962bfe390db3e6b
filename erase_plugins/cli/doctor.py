"""``erase-plugins doctor``: what is installed, what is missing, and a fix per finding. Exits with 0."""

from __future__ import annotations

import platform
import re
import shlex
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click

from erase_plugins.cli.command import declare
from erase_plugins.cli.console import emit, human_bytes, say, table
from erase_plugins.extras import extras, installed
from erase_plugins.hints import in_terminal
from erase_plugins.plain_text import one_line, scrub

#: package -> oldest version that is supported
PACKAGES = {
    "torch": "2.4", "diffusers": "0.42", "transformers": "5.16", "peft": "0.18", "accelerate": "1.0",
    "huggingface_hub": "1.0", "safetensors": "0.5", "numpy": "1.26", "pillow": "10.3", "pluggy": "1.5", "click": "8.1",
    "jinja2": "3.1", "rich": "13",
}  # fmt: skip
#: how the Hub's client names a file that is coming, and after how many minutes of silence it is left over
_UNFINISHED, _STALE = "*.incomplete", 60
#: how our programs name folders that go when they end, and after how many days of silence one was killed
_PASSING, _DAYS = "erase-plugins-*", 2
#: folders that one command removes
_MOST = 20


@dataclass(frozen=True)
class Line:
    """One finding: ok, info, warning or problem."""

    check: str
    status: str
    text: str
    fix: str = ""


@declare("doctor", example="")
@click.option("--quick", is_flag=True, help="Leave out what needs torch: device and reading our layouts.")
def command(quick: bool) -> None:
    """Check the installation: versions, plugins, methods, layouts, device."""
    checks: list[Callable[[], Iterator[Line]]] = [_versions, _plugins, _methods, _extras, _system, _downloads, _passing]
    if not quick:
        checks += [_device, _layouts]
    lines: list[Line] = []
    for check in checks:
        try:
            lines += check()
        except Exception as error:  # a doctor does not die of the patient's disease
            text = scrub(one_line(f"{type(error).__name__}: {in_terminal(error)}"))[:200]
            lines.append(Line(check.__name__.strip("_"), "problem", text, "reinstall the package named in the message"))
    worst = [line for line in lines if line.status in ("problem", "warning")]
    emit(
        {"schema": 1, "healthy": not any(line.status == "problem" for line in lines), "findings": [*map(asdict, lines)]}
    )
    table("", ("", "check", "finding", "fix"), ((line.status, line.check, line.text, line.fix) for line in lines))
    say("everything is in order" if not worst else f"{len(worst)} findings need a look")


def _number(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version)[:3])


def _versions() -> Iterator[Line]:
    from erase_plugins import __version__

    new = sys.version_info >= (3, 11)
    fix = "" if new else "use Python 3.11 or newer"
    yield Line("python", "ok" if new else "problem", platform.python_version(), fix)
    yield Line("erase-plugins", "ok", __version__)
    for name, oldest in PACKAGES.items():
        found = installed(name)
        if found is None:
            yield Line(name, "problem", "not installed", f"pip install '{name}>={oldest}'")
        elif _number(found) < _number(oldest):
            yield Line(name, "warning", f"{found} is older than {oldest}", f"pip install --upgrade '{name}>={oldest}'")
        else:
            yield Line(name, "ok", found)


def _plugins() -> Iterator[Line]:
    from erase_plugins.manager import get_manager

    manager = get_manager()
    for hook in (manager.methods, manager.families, manager.layouts, manager.evaluators):
        hook()
    rows = manager.plugins()
    packages = sorted({f"{row['package']} {row['version']}".strip() for row in rows})
    yield Line("plugins", "ok", f"{len(rows)} loaded, from {', '.join(packages)}")
    for item in manager.problems:
        where = f"{item.package} {item.version}, {item.plugin} ({item.stage})".strip()
        name = item.package if item.package != "erase-plugins" else item.plugin
        yield Line("plugins", "problem", f"{where}: {scrub(in_terminal(item.message))}", _plugin_fix(item, name))
    for item in manager.notices:
        where = f"{item.package} {item.version}, {item.plugin}"
        yield Line(
            "plugins",
            "warning",
            f"{where}: {scrub(in_terminal(item.message))}",
            f"update {item.package}, or tell its author",
        )


def _plugin_fix(item: Any, name: str) -> str:
    if "claimed by" in item.message:
        return "choose with --from PLUGIN, or uninstall one of both"
    if "did you mean" in item.message:
        return f"tell the author of {name}; the rest works"
    if "newer erase-plugins" in item.message:
        return f"update erase-plugins, or set ERASE_PLUGINS_DISABLE={item.plugin}"
    return f"update or uninstall {name}, or set ERASE_PLUGINS_DISABLE={item.plugin}"


def _methods() -> Iterator[Line]:
    from erase_plugins.extras import install, missing_extras
    from erase_plugins.manager import get_manager
    from erase_plugins.needs import packages_of

    manager = get_manager()
    complete = []
    for entry in (*manager.methods(), *manager.evaluators()):
        lacking = missing_extras(packages_of(entry.item))
        if lacking:
            yield Line(entry.item.id, "info", f"lacks {', '.join(lacking)}", install(lacking))
        else:
            complete.append(entry.item.id)
    yield Line("methods", "ok" if complete else "problem", f"ready: {', '.join(complete) or 'none'}")


def _extras() -> Iterator[Line]:
    for name, packages in sorted(extras().items()):
        missing = [package for package in packages if installed(package) is None]
        if name not in ("test", "dev") and missing:
            yield Line(
                f"extra {name}", "info", f"not installed: {', '.join(missing)}", f"pip install 'erase-plugins[{name}]'"
            )
    if shutil.which("npm") is None:
        yield Line("npm", "info", "not found; needed only to rebuild the pocket model from its art", "install Node.js")


def _system() -> Iterator[Line]:
    import os

    yield Line("system", "ok", f"{platform.system()} {platform.machine()}, {os.cpu_count()} processors")
    free = shutil.disk_usage(Path.cwd()).free
    few = free < 2_000_000_000
    yield Line("disk", "warning" if few else "ok", f"{human_bytes(free)} free here", "free some space" if few else "")
    encoding = (sys.stdout.encoding or "unknown").lower()
    if not encoding.replace("-", "").startswith("utf8"):
        yield Line("console", "info", f"encoding {encoding}: tables in ASCII", "set PYTHONUTF8=1")
    if os.getenv("HF_HUB_OFFLINE", "").lower() in ("1", "true", "yes", "on"):
        yield Line("hub", "info", "offline (HF_HUB_OFFLINE): only what is on disk is used", "unset HF_HUB_OFFLINE")
    try:
        with tempfile.TemporaryFile():
            pass
    except OSError:
        yield Line("temporary files", "problem", "cannot be written", "set TMPDIR to a folder that can be written")
    if platform.system() == "Windows" and not _long_paths():
        yield Line("long paths", "warning", "off: paths over 260 characters fail", "enable long paths in Windows")


def _downloads() -> Iterator[Line]:
    """What downloads that were killed left in the client's cache; one under way wrote to its file just now."""
    from huggingface_hub import constants

    cache, hour_ago = Path(constants.HF_HUB_CACHE), time.time() - 60 * _STALE
    found = [item.stat() for item in cache.glob(f"*/blobs/{_UNFINISHED}")] if cache.is_dir() else []
    if sizes := [item.st_size for item in found if item.st_mtime < hour_ago]:
        place = shlex.quote(str(cache))
        command = f"find {place} -name '{_UNFINISHED}' -mmin +{_STALE} -delete"
        yield Line(
            "downloads", "info", f"{len(sizes)} unfinished in the Hub's cache, {human_bytes(sum(sizes))}",
            f"delete the files named {_UNFINISHED} in {place}" if platform.system() == "Windows" else command,
        )  # fmt: skip


def _passing() -> Iterator[Line]:
    """What killed programs of ours left among temporary files; in the folder of a running one files change."""
    root, then = Path(tempfile.gettempdir()), time.time() - 86400 * _DAYS
    left = {}
    for folder in sorted(root.glob(_PASSING)):
        facts = [part.lstat() for part in _parts(folder)]
        if facts and all(item.st_mtime < then for item in facts):
            left[folder] = sum(item.st_size for item in facts)
    if left:
        gone = " ".join(shlex.quote(str(folder)) for folder in list(left)[:_MOST])
        yield Line(
            "leftovers", "info",
            f"{len(left)} folders that killed programs left in {root}, {human_bytes(sum(left.values()))}",
            f"delete {gone}" if platform.system() == "Windows" else f"rm -r {gone}",
        )  # fmt: skip


def _parts(folder: Path) -> list[Path]:
    """A folder of this user with all that is in it; empty for what is somebody else's, or no folder."""
    import os

    owner = getattr(os, "getuid", lambda: None)()
    if not folder.is_dir() or folder.is_symlink() or (owner is not None and folder.lstat().st_uid != owner):
        return []
    return [folder, *folder.rglob("*")]


def _long_paths() -> bool:
    try:
        import winreg

        key = winreg.OpenKey(winreg.HKEY_LOCAL_MACHINE, r"SYSTEM\CurrentControlSet\Control\FileSystem")  # type: ignore[attr-defined,unused-ignore]
        return bool(winreg.QueryValueEx(key, "LongPathsEnabled")[0])  # type: ignore[attr-defined,unused-ignore]
    except (ImportError, OSError):
        return False


def _device() -> Iterator[Line]:
    import torch

    from erase_plugins.engine.precision import computes_half

    own = "bfloat16" if computes_half("cpu") else "float32 (no bfloat16)"
    yield Line("cpu", "ok", f"{torch.get_num_threads()} threads, {own}")
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            facts = torch.cuda.get_device_properties(index)
            half = "bfloat16" if computes_half(f"cuda:{index}") else "float16 or float32 (no bfloat16)"
            yield Line(f"cuda:{index}", "ok", f"{facts.name}, {human_bytes(facts.total_memory)}, {half}")
    elif torch.backends.mps.is_available():
        yield Line("mps", "ok", "Apple GPU; use --device mps")
    else:
        yield Line("gpu", "info", "none found; closed-form methods need none, training is slow without")


def _layouts() -> Iterator[Line]:
    """Writes a tiny edit in every layout, reads it back, and lets diffusers load what it claims to read."""
    from erase_plugins.cli.command import quiet_libraries

    quiet_libraries()
    import torch

    from erase_plugins.artifacts.edit import Edit, LowRank
    from erase_plugins.manager import get_manager
    from erase_plugins.testing.tiny import tiny_sd1
    from erase_plugins.workflow.models import target_of

    pipe = tiny_sd1()
    target = target_of(pipe, "tiny")
    draw = torch.Generator().manual_seed(0)
    deltas = {
        ref.weight: LowRank(
            torch.randn(2, ref.shape[1], generator=draw), torch.randn(ref.shape[0], 2, generator=draw)
        )
        for ref in target.modules("cross_kv")
    }  # fmt: skip
    edit = Edit(target.family.id, {target.family.denoiser: deltas})
    with tempfile.TemporaryDirectory(prefix="erase-plugins-doctor-") as folder:
        for entry in get_manager().layouts():
            layout = entry.item
            path = Path(folder) / layout.id / layout.filename("doctor", target.family)
            path.parent.mkdir()
            try:
                if not layout.accepts(edit, target.family):
                    yield Line(f"layout {layout.id}", "info", "not for this kind of change")
                    continue
                layout.write(edit, target.family, {}, path)
                worst = _largest_error(edit, layout.read(path, target.family))
                loaded = _stock_load(pipe, layout, path)
            except Exception as error:
                text = scrub(one_line(f"{type(error).__name__}: {in_terminal(error)}"))[:160]
                yield Line(f"layout {layout.id}", "problem", text, f"update {entry.package} and diffusers, peft")
                continue
            good = worst < 1e-6 and loaded in (None, len(deltas))
            said = "" if loaded is None else f"; diffusers loads {loaded} of {len(deltas)} modules"
            fix = "" if good else "pip install --upgrade diffusers peft"
            yield Line(f"layout {layout.id}", "ok" if good else "problem", f"written and read back{said}", fix)


def _largest_error(first: Any, second: Any) -> float:
    found = {(component, key): delta for component, key, delta in second.items()}
    return max(
        float((delta.dense() - found[(component, key)].dense()).abs().max()) for component, key, delta in first.items()
    )


def _stock_load(pipe: Any, layout: Any, path: Path) -> int | None:
    """Modules that diffusers' own loader fills from the file; None if the layout is not for it."""
    if "diffusers" not in layout.readers or not path.is_file():
        return None
    from safetensors.torch import load_file

    pipe.load_lora_weights(load_file(path), adapter_name="doctor")
    try:
        names = {name.split(".lora_A")[0] for name, _ in pipe.unet.named_parameters() if ".lora_A." in name}
        return len(names)
    finally:
        pipe.unload_lora_weights()
