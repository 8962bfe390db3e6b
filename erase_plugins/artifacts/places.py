"""What may be written where: only folders and files that this program wrote are ever replaced.

A folder is known by its manifest, by the index of a collection, or by a marker that lists what was written; a file by a
stamp in its content. Everything else belongs to somebody and is refused by name. No torch.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from erase_plugins.artifacts.manifest import FILENAME, check_name
from erase_plugins.data_sources import LITTER
from erase_plugins.errors import ArtifactError, CorruptArtifact
from erase_plugins.hints import ANOTHER_OUT, Hint, Sentence
from erase_plugins.plain_text import some

#: lists the files of folders that have no manifest of their own
MARKER = ".erase-plugins"
#: index of a collection
INDEX = "collection.json"
#: the file that says what a published full checkpoint is made of
MERGED = "erase_merged.json"
#: kinds of outputs; the other kinds are folders with a marker
ARTIFACT, COLLECTION, FILE = "artifact", "collection", "file"
#: written beside the files of an artifact by an evaluation, each with a stamp
SIDE_FILES = ("report.json", "contact_sheet.png", "chart.png")
#: what goes into the metadata field "Software" of pictures, and into the comment of zip files
STAMP = "erase-plugins"
_STAMPS = {
    ".png": (b"Software\0" + STAMP.encode(),),
    ".safetensors": (b'"erase_plugins.',),
    ".zip": (STAMP.encode(),),
    ".md": (b"\nerasure:", b"# Methods compared\n", f"; made by {STAMP}.".encode()),
    ".csv": (b"method,kind,target_name,targets,",),
    ".html": (f"; made by {STAMP}.</footer>".encode(),),
    ".json": (
        b'"judge_hash":',
        b'"description": "Erases ',
        b'"measured_by":',
        b'"forget_set":',
        b'"scheduler": "dpm++"',
        b'"blurred": ',
        b'"kind": "calibration"',
    ),
}
#: bytes up to which a marker knows the content of a file: texts, which people change by hand
_HASHED = 1_000_000
_READ = 64_000_000
_EVEN_THEN = Hint("force", before="so", after="does not replace it")
#: a folder of very many other things is not counted to its end
_SHOWN_AT_MOST = 1000
#: hidden names beside the target are up to this much longer than it
_LONGEST = 255 - 15


def check_place(target: Path, force: bool, kind: str = ARTIFACT) -> None:
    """Refuses a place that may not be written.

    Args:
        target: folder or file that would be written.
        force: whether something of the same kind that this program wrote may be replaced.
        kind: `ARTIFACT`, `COLLECTION`, `FILE`, or the kind in a marker.

    Raises:
        ArtifactError: says what is in the way and what to do; nothing was changed.
    """
    _check_name(target)
    if not os.path.lexists(target):
        if target.name == "..":
            raise ArtifactError(Hint("out"), " ends in '..', and that folder is not there; choose ", ANOTHER_OUT)
        above = next(item for item in (*target.parents, Path(os.sep)) if os.path.lexists(item))
        if not above.is_dir():
            raise ArtifactError(
                f"'{above.name}' is no folder, so nothing can be written below it; choose ", ANOTHER_OUT
            )
        return
    problem = _file_problem(target) if kind == FILE else _folder_problem(target, kind)
    if problem:
        raise ArtifactError(problem, "; nothing was changed, choose ", ANOTHER_OUT)
    if not force:
        way = Sentence("choose ", ANOTHER_OUT, " or ", Hint("force", before="pass"), " to replace it")
        raise ArtifactError(f"'{target.name}' exists already; ", way)


def written_files(folder: Path) -> tuple[str, dict[str, str | None]]:
    """Kind of a folder, and the files in it that this program wrote, each with its SHA-256 where that must hold.

    The kind is empty if there is neither manifest nor index nor marker.
    """
    kind = ""
    found: dict[str, str | None] = {name: None for name in (*SIDE_FILES, *_reports(folder)) if stamped(folder / name)}
    found |= dict.fromkeys(attached_files(folder))
    if plain(folder / INDEX):
        kind, entries = COLLECTION, _read(folder / INDEX).get("artifacts")
        found[INDEX] = None
        for name in entries if isinstance(entries, dict) else ():
            if _usable(name) and plain(folder / name / FILENAME):
                found |= {f"{name}/{inner}": value for inner, value in written_files(folder / name)[1].items()}
    if plain(folder / FILENAME):
        kind, files = ARTIFACT, _read(folder / FILENAME).get("files")
        found[FILENAME] = None
        names = [item.get("name") for item in files if isinstance(item, dict)] if isinstance(files, list) else []
        found |= {str(name): None for name in names if _usable(name)}
    marker = _read(folder / MARKER)
    if isinstance(marker.get("files"), dict):
        kind = str(marker.get("kind"))
        found |= {str(name): None if value is None else str(value) for name, value in marker["files"].items()}
        found[MARKER] = None
    return kind, found


def attached_files(folder: Path) -> set[str]:
    """Names of files that a report in this folder lists as attached and that nobody changed since."""
    found: set[str] = set()
    for record in (SIDE_FILES[0], *_reports(folder)):
        entries = _read(folder / record).get("attached") if stamped(folder / record) else None
        for name, entry in entries.items() if isinstance(entries, dict) else ():
            listed = entry.get("sha256") if isinstance(entry, dict) else None
            if _usable(name) and plain(folder / name) and listed == _sha256(folder / name):
                found.add(name)
    return found


def _reports(folder: Path) -> list[str]:
    """Reports of attacks in a folder."""
    return sorted(item.name for item in folder.glob("attack-*.json"))


def foreign(folder: Path, known: Mapping[str, str | None]) -> list[str]:
    """Names in a folder, relative to it, of what this program did not write or somebody changed since."""
    found: list[str] = []
    for path in walk(folder):
        name = path.relative_to(folder).as_posix()
        if is_litter(name):
            continue
        if len(found) == _SHOWN_AT_MOST:
            break
        if path.is_dir() and not path.is_symlink():
            if not any(item.startswith(f"{name}/") for item in known):
                found.append(f"{name}/")
        elif name not in known or not plain(path):
            found.append(name)
        elif known[name] is not None and known[name] != content_hash(path):
            found.append(f"{name}, changed since it was written")
    return found


def is_litter(name: str) -> bool:
    """Whether a file in a folder is there only because a program looked at it."""
    return not LITTER.isdisjoint(Path(name).parts)


def walk(folder: Path) -> Iterator[Path]:
    """Everything below a folder, links not followed; a folder comes only if it is empty."""
    for place, folders, files in os.walk(folder):
        here = Path(place)
        yield from (here / name for name in sorted(files))
        yield from (here / name for name in sorted(folders) if (here / name).is_symlink())
        if not folders and not files and here != folder:
            yield here


def mark(folder: Path, kind: str) -> None:
    """Writes the marker of a folder: its kind, and every file and empty folder that is in it now."""
    files: dict[str, str | None] = {}
    for path in walk(folder):
        name = path.relative_to(folder).as_posix()
        if name != MARKER:
            files |= {f"{name}/": None} if path.is_dir() else {name: content_hash(path)}
    text = json.dumps({"schema": 1, "made_by": STAMP, "kind": kind, "files": files}, indent=1, sort_keys=True)
    (folder / MARKER).write_text(text + "\n", encoding="utf-8")


def content_hash(path: Path) -> str | None:
    """SHA-256 of a small file; None for larger ones, whose name is enough."""
    if path.stat().st_size > _HASHED:
        return None
    return _sha256(path)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def stamped(path: Path) -> bool:
    """Whether a file has the stamp of its kind, or nothing in it that could be lost."""
    marks = _STAMPS.get(path.suffix.lower(), ())
    if not plain(path):
        return False
    with path.open("rb") as file:
        data = file.read(_READ)
    if path.suffix.lower() == ".zip":
        return not data or data.endswith(marks)
    return not data or any(item in data for item in marks)


def png_stamp() -> Any:
    """What pillow writes into a PNG (``pnginfo``) so that it is known as ours."""
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    info.add_text("Software", STAMP)
    return info


def plain(path: Path) -> bool:
    """Whether this is a file and no link."""
    return path.is_file() and not path.is_symlink()


def _check_name(target: Path) -> None:
    if "\0" in str(target):
        raise ArtifactError(Hint("out"), " holds a NUL character; write a name without it")
    if len(os.fsencode(target.name)) > _LONGEST:
        raise ArtifactError(f"the name '{target.name[:40]}...' is too long; choose a ", Hint("out", before="shorter"))
    try:
        os.lstat(target)
    except (FileNotFoundError, NotADirectoryError):
        pass
    except OSError as error:
        raise ArtifactError(
            f"'{target.name[:80]}' cannot be written: {error.strerror}; choose ", ANOTHER_OUT
        ) from error


def _file_problem(target: Path) -> str:
    if target.is_symlink():
        return f"'{target.name}' is a link, which is neither followed nor replaced"
    if target.is_dir():
        return f"'{target.name}' is a folder, and a file is to be written"
    if not target.is_file():
        return f"'{target.name}' is no ordinary file"
    if not stamped(target) and target.name not in attached_files(target.parent):
        return Sentence(
            f"'{target.name}' exists already and was not written by erase-plugins, ",
            _EVEN_THEN,
        )
    return ""


def _folder_problem(target: Path, kind: str) -> str:
    name = target.name or str(target)
    if target.is_symlink():
        return f"'{name}' is a link, which is neither followed nor replaced"
    if not target.is_dir():
        return f"'{name}' is a file, and a folder is to be written"
    place = target.resolve()
    for what, folder in (("current", Path.cwd().resolve()), ("home", Path.home().resolve())):
        if place == folder:
            return f"'{name}' is the {what} folder, which is never replaced"
        if place in folder.parents:
            return f"'{name}' holds the {what} folder and is never replaced"
    if (target / ".git").exists():
        return f"'{name}' is a git checkout, which is never replaced"
    found, known = written_files(target)
    others = foreign(target, known)
    if others:
        shown = some(others, 3)
        many = "something" if len(others) == 1 else f"{len(others)} things"
        # what has no kind is the user's from then on, and no command offers to replace it
        return Sentence(
            f"'{name}' holds {many} that erase-plugins did not write ({shown})", *((", ", _EVEN_THEN) if kind else ())
        )
    if known and found != kind:
        more = f", and of another kind ({kind}) is what would be written" if kind else ""
        return f"'{name}' holds a finished {found or 'report'}{more}"
    return ""


def _usable(name: Any) -> bool:
    try:
        check_name(name)
    except CorruptArtifact:
        return False
    return True


def _read(path: Path) -> dict[str, Any]:
    """A JSON object of ours; empty if it is not there or unreadable."""
    try:
        data = json.loads(path.read_text(encoding="utf-8")) if plain(path) else None
    except (OSError, ValueError, RecursionError):
        return {}
    return data if isinstance(data, dict) else {}
