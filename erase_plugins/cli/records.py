"""``erase-plugins records``: a head on features from which training records can be deleted, with a certificate."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import click

from erase_plugins.cli.command import declare, dry_run_option, force_option, quote, stacked
from erase_plugins.cli.console import emit, hint, progress, say
from erase_plugins.errors import RequestError
from erase_plugins.plain_text import some

data_options = stacked(
    click.option("--features", required=True, metavar="FILE", help="A row per record: .npy, .npz, .safetensors."),
    click.option("--labels", metavar="FILE", help="One label per row, where the features' file holds none."),
    click.option("--subjects", metavar="FILE", help="Text file, the person of each row; kept as HMAC only."),
)  # fmt: skip
record_options = stacked(
    click.option("--id", "ids", multiple=True, metavar="ID", help="A record."),
    click.option("--subject", metavar="NAME", help="All records of this person."),
    click.option("--subject-file", metavar="FILE", help="The same, one name a line: not in the shell's history."),
)


@click.group("records")
def command() -> None:
    """Learn a small head so that training records can be deleted from it later, with a certificate."""


@declare("features", example="pocket --pictures drawn --out features.npz")
@click.argument("frozen", metavar="MODEL")
@click.option("--pictures", metavar="DIR", help="One folder per label; those beside a classifier by default.")
@click.option("--out", required=True, metavar="FILE", help="New .npz file.")
def features(frozen: str, pictures: str | None, out: str) -> None:
    """Write what a frozen classifier, or a judge such as pocket, sees in pictures, as the features of a head."""
    place = Path(out)
    if place.suffix != ".npz":
        raise RequestError(f"'{place.name}' is no .npz file; name one, such as features.npz")
    if place.exists():
        raise RequestError(f"'{place.name}' exists already; choose another --out")
    from erase_plugins.workflow.features import features_of, told

    found = features_of(frozen, pictures)
    found.save(place)
    facts = told(found)
    scale = () if found.longest is None else ("--scale", f"{found.longest:.17g}")
    learn = quote("erase-plugins", "records", "init", "DIR", "--features", place, "--classes", facts["classes"], *scale)
    say(f"{facts['rows']} rows of {facts['dim']} features: {place}")
    say(f"learn a head: {learn}")
    if found.longest is None:
        hint("nothing bounds the length of these features: give --scale, a constant that is known without the pictures")
    emit({"schema": 1, "out": str(place), **facts})


@declare("init", example="head --features features.npz --subjects people.txt")
@click.argument("folder", metavar="DIR")
@data_options
@click.option("--loss", type=click.Choice(("softmax", "logistic", "huber")), default="softmax", show_default=True,
              help="Loss of the head; hinge and squared loss have no proof.")  # fmt: skip
@click.option("--classes", type=int, default=0, help="Number of classes, known without looking at the labels.")
@click.option("--threshold", type=float, default=1.0, show_default=True, help="Of huber: where it becomes linear.")
@click.option("--slots", type=int, help="Number of slots; more than rows leave room for 'records add'.")
@click.option("--lam", type=float, default=0.01, show_default=True, help="Weight decay; larger: less noise, more bias.")
@click.option("--eta", type=float, help="Step size; 1 / (lam + smoothness) by default.")
@click.option("--rho-dp", type=float, default=0.5, show_default=True, help="What one published model may tell.")
@click.option("--rho-dd", type=float, help="What a deleted record may tell if nothing was published; rho-dp / 100.")
@click.option("--max-releases", type=int, default=4, show_default=True, help="Models that may be published.")
@click.option("--delta", type=float, default=1e-5, show_default=True, help="Of the epsilon in the certificate.")
@click.option("--group-size", type=int, default=1, show_default=True, help="Most records of one person.")
@click.option("--norm", type=float, default=1.0, show_default=True, help="Longest row; longer ones are shortened.")
@click.option(
    "--scale", type=float, default=1.0, show_default=True, help="Public constant by which features are divided."
)
@click.option("--bias/--no-bias", default=True, help="A constant 1 at the end of each row.")
@click.option("--rank", type=int, default=0, help="Learn a low-rank change with a fixed random factor.")
@click.option("--start", metavar="FILE", help="Frozen head below the change; it never saw these records.")
@click.option("--steps", type=int, help="Steps of learning, chosen without looking at these data.")
@click.option("--mode", type=click.Choice(("warm", "fresh", "auto")), default="auto", show_default=True,
              help="After an edit go on from the weights, or learn anew; auto: the shorter.")  # fmt: skip
@click.option("--preset", type=click.Choice(("default", "paper")), default="default", show_default=True,
              help="paper: its step size, noise and steps.")  # fmt: skip
@click.option("--base", default="features", show_default=True, help="Name of the frozen model behind the features.")
@click.option("--ids-out", metavar="FILE", help="Write the id of each row here, in order. Private.")
@click.option("--test-seed", type=int, help="Noise that can be drawn again, for tests: no certificate, no push.")
@dry_run_option
def init(
    folder: str, features: str, labels: str | None, subjects: str | None, start: str | None, steps: int | None,
    ids_out: str | None, group_size: int, dry_run: bool, **options: Any,
) -> None:  # fmt: skip
    """Learn a head from records and open its ledger. The folder is private; what may leave it are releases."""
    from erase_plugins.records.options import HeadOptions

    chosen = HeadOptions(group=group_size, learn_steps=steps, **options)
    from erase_plugins.artifacts.atomic import atomic_file
    from erase_plugins.records.features import load_features
    from erase_plugins.records.store import Records

    if ids_out is not None and Path(ids_out).exists():
        raise RequestError(f"'{Path(ids_out).name}' exists already; choose another --ids-out")
    matrix, values = load_features(features, labels)
    if matrix.ndim != 2:
        raise RequestError(f"features of shape {matrix.shape} are no matrix; give one row per record")
    opened = chosen.opening(*matrix.shape)
    if dry_run:
        say(_plan(opened))
        say("dry run: nothing written")
        emit({"schema": 1, "dry_run": True, "opening": opened})
        return
    with ExitStack() as stack:
        told = stack.enter_context(_bar("learn"))
        # before anything is learned: which row has which id is kept nowhere else
        work = None if ids_out is None else stack.enter_context(atomic_file(Path(ids_out), False))
        head, ids = Records.create(folder, matrix, values, chosen, _lines(subjects), _start(start), told)
        if work is not None:
            work.write_text("".join(f"{name}\n" for name in ids), encoding="ascii")
    say(f"{len(ids)} records learned into '{head.folder.name}'; {_plan(opened)}")
    if chosen.test_seed is not None:
        hint("warning: the noise can be drawn again; this head never gets a certificate")
    say(f"publish it: {quote('erase-plugins', 'records', 'release', folder)}")
    emit({"schema": 1, "ids": ids, "opening": opened, "certified": chosen.test_seed is None})


@declare("add", example="head --features new.npz")
@click.argument("folder", metavar="DIR")
@data_options
def add(folder: str, features: str, labels: str | None, subjects: str | None) -> None:
    """Put new records into free slots."""
    from erase_plugins.records.features import load_features
    from erase_plugins.records.store import Records

    head = Records.open(folder)
    matrix, values = load_features(features, labels)
    with _bar("learn") as told:
        ids = head.add(matrix, values, _lines(subjects), told)
    say(f"{len(ids)} records added: {some(ids)}")
    emit({"schema": 1, "added": ids, **_facts(head)})


@declare("delete", example='head --subject "customer 7"')
@click.argument("folder", metavar="DIR")
@record_options
@dry_run_option
def delete(folder: str, ids: Sequence[str], subject: str | None, subject_file: str | None, dry_run: bool) -> None:
    """Take records out of the data and, by noisy steps, out of the weights; shows the bound that follows."""
    from erase_plugins.records.store import Records

    head = Records.open(folder)
    chosen = _chosen(head, ids, subject, subject_file)
    if dry_run:
        say(f"{len(chosen)} records would be deleted: {some(chosen)}; dry run: nothing written")
        emit({"schema": 1, "dry_run": True, "deleted": chosen})
        return
    with _bar("delete") as told:
        head.delete(chosen, told)
    facts = _facts(head)
    say(f"{len(chosen)} records deleted: {some(chosen)}")
    _say_bound(facts)
    hint("published models of before still know them; release the head again and take the old files down")
    emit({"schema": 1, "deleted": chosen, **facts})


@declare("replace", example='head --subject "customer 7" --features new.npz')
@click.argument("folder", metavar="DIR")
@record_options
@data_options
def replace(
    folder: str, ids: Sequence[str], subject: str | None, subject_file: str | None,
    features: str, labels: str | None, subjects: str | None,
) -> None:  # fmt: skip
    """Delete records and put new ones into their slots, one for one."""
    from erase_plugins.records.features import load_features
    from erase_plugins.records.store import Records

    head = Records.open(folder)
    chosen = _chosen(head, ids, subject, subject_file)
    matrix, values = load_features(features, labels)
    with _bar("replace") as told:
        new = head.replace(chosen, matrix, values, _lines(subjects), told)
    facts = _facts(head)
    say(f"{len(chosen)} records replaced; the new ones: {some(new)}")
    _say_bound(facts)
    emit({"schema": 1, "replaced": chosen, "added": new, **facts})


@declare("release", example="head --out published")
@click.argument("folder", metavar="DIR")
@click.option("--out", metavar="DIR", help="Where to write it; a folder inside the head's by default.")
@click.option(
    "--raise-budget", type=int, metavar="N", help="Allow N releases from now on: a person's decision, on record."
)
@click.option("--peft", "module", metavar="MODULE", help="Also an adapter for this module, as peft reads it.")
@force_option
def release(folder: str, out: str | None, raise_budget: int | None, module: str | None, force: bool) -> None:
    """Publish the present weights: a folder with head, ledger and certificate, which 'push' accepts."""
    from erase_plugins.records.release import Release, write_release

    made = Release(write_release(folder, out, raise_to=raise_budget, module=module, force=force))
    data = made.certificate
    say(f"release {data['releases']} of {data['max_releases']}: {made.path}")
    say(f"publish it: {quote('erase-plugins', 'push', made.path, 'OWNER/NAME')} --license ID")
    emit({"schema": 1, "folder": str(made.path), "files": made.names, "certificate": data})


@declare("verify", example="head")
@click.argument("folder", metavar="DIR")
def verify(folder: str) -> None:
    """Check that weights, records and ledger of a head belong together, and recompute its certificate."""
    from erase_plugins.records.certificate import to_text
    from erase_plugins.records.store import Records

    data = Records.open(folder).certificate()
    say(to_text(data))
    emit({"schema": 1, "certificate": data})


@declare("status", example="head")
@click.argument("folder", metavar="DIR")
@click.option("--ids", "listed", is_flag=True, help="Also the ids of all records.")
def status(folder: str, listed: bool) -> None:
    """Show records, releases, budget and what was told so far."""
    from erase_plugins.records.store import Records

    head = Records.open(folder)
    facts = _facts(head)
    say(f"{facts['records']} records in {facts['slots']} slots, {facts['deleted_records']} deleted")
    say(f"{facts['releases']} of {facts['max_releases']} releases; the present weights are "
        f"{'published' if facts['published'] else 'not published'}")  # fmt: skip
    say(f"told about records that are there: rho {facts['rho_existing']:.6g}")
    if facts["deleted_records"]:
        _say_bound(facts)
    found = head.ids() if listed else []
    for name in found:
        say(f"  {name}")
    emit({"schema": 1, **facts, **({"ids": found} if listed else {})})


for _item in (features, init, add, delete, replace, release, verify, status):
    command.add_command(_item)


def _plan(opened: dict[str, Any]) -> str:
    each = "learning anew" if opened["mode"] == "fresh" else f"{opened['edit_steps']} steps"
    return f"{opened['learn_steps']} steps of learning, {each} per edit, noise sigma2 {opened['sigma2']:.3g}"


def _facts(head: Any) -> dict[str, Any]:
    from erase_plugins.records.certificate import certificate

    account = head.account()
    data = certificate(account)
    return {
        "rho_adaptive": data["rho_adaptive"], "epsilon_adaptive": data["epsilon_adaptive"], "delta": data["delta"],
        "rho_non_adaptive": data["rho_non_adaptive"], "rho_existing": data["existing"]["rho"],
        "records": len(account.present), "slots": account.opened["n"], "deleted_records": len(data["records"]),
        "releases": data["releases"], "max_releases": data["max_releases"], "published": account.published,
        "refused": account.refused, "certified": data["certified"], "reasons": data["reasons"],
        "ledger": data["ledger"],
    }  # fmt: skip


def _say_bound(facts: dict[str, Any]) -> None:
    said = "yes" if facts["certified"] else "no"
    bound = f"epsilon {facts['epsilon_adaptive']:.4g} at delta {facts['delta']:g}"
    say(f"rho_adaptive {facts['rho_adaptive']:.6g} ({bound}), certified: {said}")


def _chosen(head: Any, ids: Sequence[str], subject: str | None, file: str | None) -> list[str]:
    from erase_plugins.records.events import check_id

    people = [] if subject is None else [subject]
    if file is not None:
        people += [line for line in _read(file).splitlines() if line.strip()]
    found = [check_id(name) for name in ids]
    for person in people:
        found += [name for name in head.ids(person) if name not in found]
    if not found:
        raise RequestError("no record was named; give --id ID or --subject NAME")
    return found


def _lines(path: str | None) -> list[str] | None:
    return None if path is None else _read(path).splitlines()


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise RequestError(
            f"'{Path(path).name}' cannot be read as text; give a UTF-8 file, one name per line"
        ) from error


def _start(path: str | None) -> Any:
    if path is None:
        return None
    from erase_plugins.records.features import load_matrix

    return load_matrix(path)


class _bar:
    """A progress bar that is told steps done and all steps."""

    def __init__(self, stage: str) -> None:
        self.stage, self.shown = stage, progress()

    def __enter__(self) -> Callable[[int, int], None]:
        bar = self.shown.__enter__()
        return lambda done, total: bar.update(self.stage, done, total)

    def __exit__(self, *error: Any) -> None:
        self.shown.__exit__(*error)
