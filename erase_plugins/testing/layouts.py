"""The contract that file layouts keep, as a pytest class.

    from erase_plugins.testing.layouts import LayoutContract

    class TestMyLayout(LayoutContract):
        names = ("my-layout",)

Random edits of every kind are written for a tiny model; what the layout accepts is read back, damaged, and shown to all
other layouts. That a model predicts the same with what was read, `MethodContract` looks at (``layout_round_trip``).
"""

from __future__ import annotations

import json
import struct
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from erase_plugins.errors import EraseError
from erase_plugins.testing.items import ItemContract, described

#: name of the artifact whose files are written
SLUG = "erase_pizza"
#: tensor names of files that are no edits
FOREIGN = (("down_blocks.0.attn.to_k.weight", "down_blocks.0.attn.to_k.bias"), ("emb_params",), ())


@dataclass
class Filed:
    """A layout, and the tiny model for which edits are written."""

    layout: Any
    model: str

    @cached_property
    def target(self) -> Any:
        """The model, loaded."""
        from erase_plugins.testing.models import shared_pipeline
        from erase_plugins.workflow.models import target_of

        return target_of(shared_pipeline(self.model), self.model)

    @cached_property
    def edits(self) -> Mapping[str, Any]:
        """Random edits of every kind that the model can have, by what they are."""
        from erase_plugins.testing.edits import random_edits

        return random_edits(self.target)

    def taken(self, layout: Any = None) -> dict[str, Any]:
        """The edits that a layout accepts, this one unless another is given."""
        found, family = layout or self.layout, self.target.family
        return {name: edit for name, edit in self.edits.items() if found.accepts(edit, family)}

    @contextmanager
    def written(self, edit: Any, layout: Any = None) -> Iterator[tuple[Path, list[Path]]]:
        """An edit in a folder of its own: (the path that `read` is given, all files there)."""
        layout = layout or self.layout
        with tempfile.TemporaryDirectory(prefix="layout-") as name:
            folder = Path(name).resolve() / "artifact"
            folder.mkdir()
            place = folder / layout.filename(SLUG, self.target.family)
            layout.write(edit, self.target.family, self.header(edit, layout), place)
            yield place, sorted(item for item in folder.rglob("*") if item.is_file())

    def header(self, edit: Any, layout: Any) -> dict[str, str]:
        """What every file of an artifact carries."""
        from erase_plugins.artifacts.manifest import Manifest, describe_base
        from erase_plugins.artifacts.store import file_header
        from erase_plugins.types import Concept

        manifest = Manifest(
            name=SLUG, method={"id": "test", "title": "Test"}, concepts=(Concept("pizza"),),
            base=describe_base(self.target), kinds=tuple(sorted(edit.kinds)), rank=edit.rank, modules=len(edit),
        )  # fmt: skip
        return file_header(manifest, self.target.family, layout.id, edit)

    def claimed(self, file: Path, by: Any) -> bool:
        """Whether a layout says that a file is of it, by names and header alone."""
        from erase_plugins.artifacts.header import read_header

        header = read_header(file)
        return bool(by.sniff(list(header.tensors), header.metadata))


def describes_itself(case: Filed) -> None:
    """The registry accepts it; it has a title, and names who reads its files."""
    described("erase_layouts", case.layout)
    readers = case.layout.readers
    named = isinstance(readers, tuple) and bool(readers) and all(readers)
    assert named, f"readers is {readers!r}; name the programs"


def says_what_it_takes(case: Filed) -> None:
    """Every edit is accepted, or with a loss or not at all for a reason; what ``carries`` leaves out is not."""
    carries = getattr(case.layout, "carries", None)
    for name, edit in case.edits.items():
        verdict = case.layout.accepts(edit, case.target.family)
        answer = getattr(verdict, "answer", verdict)
        assert answer in ("yes", "lossy", "no"), f"accepts says {answer!r}; return erase_plugins.protocols.Verdict"
        assert answer == "yes" or verdict.reason, f"an edit of {name} is answered with {answer} and no reason"
        odd = sorted(edit.kinds - carries) if carries is not None and verdict else []
        assert not odd, f"an edit of {name} is accepted, and carries lacks {', '.join(odd)}"
    assert case.taken(), f"no edit is accepted of {', '.join(case.edits)}; set 'model' to one that the layout is for"


def reads_what_it_wrote(case: Filed) -> None:
    """An accepted edit comes back to the last bit: keys, kinds, types, values."""
    from erase_plugins.artifacts.difference import difference
    from erase_plugins.artifacts.store import check_edit

    family = case.target.family
    for name, edit in case.taken().items():
        with case.written(edit) as (place, _):
            back = case.layout.read(place, family)
        check_edit(back, family)
        odd = difference(edit, back)
        exact = case.layout.accepts(edit, family).answer == "yes"
        assert not (odd and exact), f"an edit of {name} comes back as another: {odd}; or is the verdict 'lossy'?"


def files_say_what_they_are(case: Filed) -> None:
    """Only safetensors and JSON are written, at the given path; headers tell what `inspect` shows."""
    from erase_plugins.artifacts.foreign import inspect_file

    for name, edit in case.taken().items():
        with case.written(edit) as (place, files):
            around = sorted(item.name for item in place.parent.parent.iterdir())
            odd = [item.name for item in files if item.suffix not in (".safetensors", ".json")]
            weights = [item for item in files if item.suffix == ".safetensors"]
            assert around == [place.parent.name], f"files were written outside of the folder: {', '.join(around)}"
            assert not odd, f"{', '.join(odd)}: only safetensors and JSON are safe to read back"
            assert weights, f"an edit of {name} is written without a .safetensors file"
            for file in weights:
                found = inspect_file(file, [case.target.family])
                told = (found.get("layout"), found["family"])
                assert told == (case.layout.id, case.target.family.id), (
                    f"{file.name} lacks the header that `write` is given"
                )


def same_edit_same_bytes(case: Filed) -> None:
    """Written twice, files are equal byte by byte; `erase_plugins.artifacts.tensors.write_tensors` sorts for that."""
    for name, edit in case.taken().items():
        with case.written(edit) as (first, files), case.written(edit) as (second, others):
            one = {item.relative_to(first.parent): item.read_bytes() for item in files}
            two = {item.relative_to(second.parent): item.read_bytes() for item in others}
        assert one == two, f"an edit of {name} is written into other bytes the second time"


def knows_its_own(case: Filed) -> None:
    """Every file is recognised by names and header; any other layout that claims it reads the same edit."""
    from erase_plugins.manager import get_manager

    others = [entry.item for entry in get_manager().layouts() if entry.item.id != case.layout.id]
    for name, edit in case.taken().items():
        with case.written(edit) as (place, files):
            for file in (item for item in files if item.suffix == ".safetensors"):
                assert case.claimed(file, case.layout), f"sniff does not know {file.name} with an edit of {name}"
                for other in (item for item in others if case.claimed(file, item)):
                    _reads_alike(case, place, case.layout, other, f"{file.name} is taken for a file of {other.id}")


def leaves_others_alone(case: Filed) -> None:
    """No file of another layout is claimed, unless it is read to the same edit; weights and embeddings are not."""
    from erase_plugins.manager import get_manager

    for names in FOREIGN:
        assert not case.layout.sniff(list(names), {}), f"sniff claims a file of {', '.join(names) or 'no tensors'}"
    for other in (entry.item for entry in get_manager().layouts() if entry.item.id != case.layout.id):
        for name, edit in case.taken(other).items():
            with case.written(edit, other) as (place, files):
                weights = [item for item in files if item.suffix == ".safetensors"]
                if any(case.claimed(file, case.layout) for file in weights):
                    _reads_alike(case, place, other, case.layout, f"sniff claims a file of {other.id} with {name}")


def _reads_alike(case: Filed, place: Path, owner: Any, claimant: Any, told: str) -> None:
    from erase_plugins.artifacts.difference import difference

    try:
        odd = difference(owner.read(place, case.target.family), claimant.read(place, case.target.family))
    except EraseError as error:
        odd = str(error)
    assert not odd, f"{told}, and read as another edit: {odd}"


def damage_is_told(case: Filed) -> None:
    """A file that is cut off or has odd bytes or strange tensors is refused in one line; no damage ends in a crash."""
    for name, edit in case.taken().items():
        with case.written(edit) as (place, files):
            for file in (item for item in files if item.suffix == ".safetensors"):
                whole = file.read_bytes()
                for damage, (change, must) in DAMAGE.items():
                    file.write_bytes(change(whole))
                    _refused(case, place, f"a file with an edit of {name}, {damage},", must)
                file.write_bytes(whole)


def _refused(case: Filed, place: Path, what: str, must: bool) -> None:
    try:
        case.layout.read(place, case.target.family)
    except EraseError as error:
        text = str(error)
        plain = "\n" not in text and str(place.parent) not in text
        assert plain, f"{what} is refused in several lines, or with a path: {text}"
        return
    except Exception as error:
        raise AssertionError(
            f"{what} ends in {type(error).__name__}: {error}; raise CorruptArtifact instead"
        ) from error
    assert not must, f"{what} is read as if nothing were wrong"


def _changed(change: Callable[[dict[str, Any], str], None]) -> Callable[[bytes], bytes]:
    """Damage to the entries of a header; the data stays as long as it is."""

    def apply(whole: bytes) -> bytes:
        (length,) = struct.unpack("<Q", whole[:8])
        header = json.loads(whole[8 : 8 + length])
        change(header, min(name for name in header if name != "__metadata__"))
        text = json.dumps(header).encode()
        return struct.pack("<Q", len(text)) + text + whole[8 + length :]

    return apply


def _rename(header: dict[str, Any], name: str) -> None:
    header["strange"] = header.pop(name)


def _flatten(header: dict[str, Any], name: str) -> None:
    size = 1
    for part in header[name]["shape"]:
        size *= part
    header[name]["shape"] = [size]


#: damage -> (what it does to a file, whether it has to be noticed)
DAMAGE: dict[str, tuple[Callable[[bytes], bytes], bool]] = {
    "cut off": (lambda whole: whole[: len(whole) - 3], True),
    "cut off in its header": (lambda whole: whole[:20], True),
    "empty": (lambda whole: b"", True),
    "of odd bytes": (lambda whole: b"\x80\x02" + whole[2:], True),
    "with a header that is no JSON": (lambda whole: whole[:8] + b"#" + whole[9:], True),
    "with an offset outside": (_changed(lambda header, name: header[name].update(data_offsets=[0, 1 << 40])), True),
    "with a strange tensor": (_changed(_rename), True),
    "with a flat tensor": (_changed(_flatten), False),
}
CHECKS = (
    describes_itself, says_what_it_takes, reads_what_it_wrote, files_say_what_they_are, same_edit_same_bytes,
    knows_its_own, leaves_others_alone, damage_is_told,
)  # fmt: skip


class LayoutContract(ItemContract):
    """Subclass it under a name that starts with ``Test``.

    Attributes:
        model: name in `erase_plugins.testing.models.MODELS` of the model for which edits are written.
    """

    checks = CHECKS
    model = "tiny_sd1"

    def case(self, name: str) -> Filed:
        from erase_plugins.manager import get_manager

        return Filed(get_manager().layout(name), self.model)
