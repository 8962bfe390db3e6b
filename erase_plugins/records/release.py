"""Publishing a head: the folder that may leave, and the last word before it is pushed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from erase_plugins.artifacts import chain
from erase_plugins.artifacts.atomic import atomic_folder
from erase_plugins.artifacts.places import check_place
from erase_plugins.artifacts.reference import SCHEME
from erase_plugins.errors import ArtifactError, CorruptArtifact, PushRefused, Unsupported
from erase_plugins.hints import Hint, stored
from erase_plugins.hookspecs import hookimpl
from erase_plugins.records.certificate import (
    ACCOUNTANT,
    CERTIFICATE,
    LEDGER,
    MECHANISM,
    certificate,
    read_certificate,
    to_json,
    to_text,
    verify,
)
from erase_plugins.records.ledger import replay
from erase_plugins.records.weights import HEAD
from erase_plugins.types import Certificate

KIND = "records-release"
#: files that a third party checks a deletion with
PROOF = (HEAD, LEDGER, CERTIFICATE)


def write_release(
    folder: str | Path,
    out: str | Path | None = None,
    *,
    raise_to: int | None = None,
    module: str | None = None,
    force: bool = False,
) -> Path:
    """Publishes the present weights of a head: ledger first, then a folder with head, ledger and certificate.

    Args:
        folder: the head's folder.
        out: where to write; a folder inside the head's if None, from which a push finds the ledger.
        raise_to: raise the budget to this many releases.
        module: also write a peft adapter for this module of the frozen model.
        force: replace a release that was written there before.

    Returns:
        The folder written.

    Raises:
        PushRefused: the budget is used up; nothing but the refusal was written.
        ArtifactError: something is in the way; nothing was entered.
        Unsupported: peft cannot hold this head; nothing was entered.
    """
    from erase_plugins.records.features import Rule
    from erase_plugins.records.head import Head
    from erase_plugins.records.store import Records

    records = Records.open(folder)
    opened = records.account().opened
    if module is not None and (not opened["rank"] or opened["bias"]):
        raise Unsupported(
            "peft holds low-rank heads without a constant only; make the head with ",
            Hint("rank"),
            " and ",
            Hint("no-bias"),
        )
    if out is not None:
        check_place(Path(out), force, KIND)
    entries, state = records.release(raise_to)
    account = replay(entries)
    rule = Rule(opened["norm"], opened["scale"], opened["bias"])
    head = Head(state.weights, rule, opened["loss"], state.fixed, state.start)
    number = account.releases[-1]["n"]
    place = Path(folder) / "releases" / str(number) if out is None else Path(out)
    if out is None and place.exists():
        force = True
    with atomic_folder(place, force, KIND) as work:
        head.write(work / HEAD, {"release": number, "ledger": opened["ledger"], "base": opened["base"]})
        (work / LEDGER).write_text(chain.text(entries), encoding="ascii")
        (work / CERTIFICATE).write_text(to_json(certificate(account)), encoding="utf-8")
        if module is not None:
            head.write_peft(work, module)
    return place


def stated(entries: Sequence[Mapping[str, Any]]) -> Certificate:
    """The certificate of a ledger, as an artifact carries it; without names of records where it is none."""
    found = certificate(replay(entries))
    gone, end = tuple(item["id"] for item in found["records"]), found["ledger"]["head"]
    numbers = ("rho_adaptive", "advantage_adaptive", "rho_non_adaptive")
    return Certificate(
        MECHANISM, found["epsilon_adaptive"], found["delta"] if found["epsilon_adaptive"] is not None else None,
        ACCOUNTANT, "", found["certified"],
        numbers=tuple((name, float(found[name])) for name in numbers if found[name] is not None),
        assumptions=tuple(found["assumptions"]), scope=found["scope"],
        subjects=gone if found["certified"] else (), ledger_hash=end if found["certified"] else "",
        reasons=tuple(found["reasons"]),
    )  # fmt: skip


@hookimpl
def erase_artifact_saved(artifact: Any) -> None:
    """Puts head, ledger and certificate beside an artifact of noisy-gd, so that its folder is a release."""
    manifest = artifact.manifest
    if getattr(manifest.certificate, "mechanism", None) != MECHANISM or not manifest.records:
        return
    from erase_plugins.records.features import Rule
    from erase_plugins.records.head import Head

    entries = [dict(item) for item in manifest.records]
    opened = entries[0]
    ((_, _, delta),) = artifact.edit.items()
    rule = Rule(opened["norm"], opened["scale"], opened["bias"])
    head = Head(delta.B.double().numpy(), rule, opened["loss"], delta.A.double().numpy() * opened["scale"])
    head.write(artifact.path / HEAD, {"release": replay(entries).releases[-1]["n"], "ledger": opened["ledger"],
                                      "base": opened["base"]})  # fmt: skip
    (artifact.path / LEDGER).write_text(chain.text(entries), encoding="ascii")
    (artifact.path / CERTIFICATE).write_text(to_json(certificate(replay(entries))), encoding="utf-8")


class Release:
    """The folder of a published head, verified when it is opened.

    Attributes:
        path: the folder.
        certificate: recomputed from its ledger.
        opened: the constants of the head.
    """

    def __init__(self, folder: str | Path) -> None:
        self.path = Path(folder)
        self.certificate = verify(self.path)
        self.opened = chain.read(self.path / LEDGER)[0]

    @property
    def names(self) -> list[str]:
        """The files that belong to it."""
        more = ("adapter_config.json", "adapter_model.safetensors")
        return [*PROOF, *(name for name in more if (self.path / name).is_file())]


def is_proven(folder: Path) -> bool:
    """Whether a folder claims a certificate: a head's, or that of an artifact."""
    return (folder / CERTIFICATE).is_file() and (folder / LEDGER).is_file()


def is_release(folder: Path) -> bool:
    """Whether a folder is a published head alone; an artifact with a certificate is published as an artifact."""
    from erase_plugins.artifacts.manifest import FILENAME

    return is_proven(folder) and not (folder / FILENAME).is_file()


def check_push(folder: Path, destination: str, dry_run: bool = False) -> None:
    """Refuses what may not be published, and enters the place into the ledger of the head, if that is beside.

    Args:
        folder: a release.
        destination: "owner/name".
        dry_run: look only.

    Raises:
        PushRefused: tampered with, without certificate, or older than a deletion.
    """
    try:
        found = verify(folder)
        claimed = read_certificate(folder / CERTIFICATE)
        entries = chain.read(folder / LEDGER)
    except (ArtifactError, OSError) as error:
        raise PushRefused("the certificate does not hold: ", error, "; release the head again") from error
    if not found["certified"] or not claimed["certified"] or not (folder / HEAD).is_file():
        raise PushRefused(
            f"no certificate: {'; '.join(found['reasons']) or 'the weights are missing'}; nothing was sent"
        )
    number = replay(entries).releases[-1]["n"]
    home = _home(folder, found["ledger"]["id"])
    if home is None:
        return
    from erase_plugins.records.store import Records

    records = Records.open(home)
    account = records.account()
    live = chain.read(home / LEDGER)
    if live[: len(entries)] != entries:
        raise PushRefused("the release has another history than the ledger of its head; release the head again")
    if any(life.left is not None and life.left >= len(entries) for life in account.lives.values()):
        raise PushRefused(
            f"records were deleted after release {number} was made, and it still knows them; release the head again"
        )
    if not dry_run:
        records.went_to(number, f"{SCHEME}{destination}")


def _home(folder: Path, ledger: str) -> Path | None:
    """The head's folder, if the release lies in it."""
    from erase_plugins.records.state import STATE

    for place in folder.resolve().parents[:2]:
        if (place / STATE).is_file() and (place / LEDGER).is_file():
            entries = chain.read(place / LEDGER)
            if entries and entries[0].get("ledger") == ledger:
                return place
    return None


def _check_edit(artifact: Any, place: Path) -> None:
    """Refuses an artifact beside a release whose change of the head is not what was released."""
    from erase_plugins.records.weights import array_sha256

    edit = getattr(artifact, "edit", None)
    if edit is None:
        return
    try:
        released = replay(chain.read(place / LEDGER)).releases[-1]["sha256"]
    except (ArtifactError, IndexError, OSError):
        return  # a damaged ledger is told by `check_push`
    found = [array_sha256(delta.B.numpy()) for _, _, delta in edit.items() if delta.kind == "lowrank"]
    if found != [released]:
        raise PushRefused("the edit is not the head that the ledger released; run the method again; nothing was sent")


@hookimpl
def erase_before_push(bundle: Any, destination: str) -> None:
    """What carries a certificate is checked, whatever it is; one without its ledger proves nothing and is refused."""
    artifact = getattr(bundle, "artifact", None)
    place = getattr(artifact, "path", None)
    if place is not None and is_proven(Path(place)):
        _check_edit(artifact, Path(place))
        check_push(Path(place), destination, bool(getattr(bundle, "dry_run", False)))
        return
    claimed = getattr(getattr(artifact, "manifest", None), "certificate", None)
    if getattr(claimed, "mechanism", None) == MECHANISM:
        raise PushRefused(
            f"its certificate of {MECHANISM} cannot be checked: {LEDGER} and {CERTIFICATE} are not beside it"
        )


@hookimpl
def erase_card_sections(artifact: Any, report: Any) -> Iterable[str]:
    """The certificate of an artifact that carries one."""
    place = getattr(artifact, "path", None)
    if place is None or not is_proven(Path(place)):
        return []
    try:
        return [section(verify(Path(place)))]
    except CorruptArtifact as error:
        return [f"## Certificate\n\nNone: {stored(error)}."]


def section(data: dict[str, Any]) -> str:
    """The certificate as a part of a card."""
    return (
        f"## Certificate\n\n```text\n{to_text(data)}\n```\n\nAnybody can check it: `erase-plugins verify-certificate .`"
    )
