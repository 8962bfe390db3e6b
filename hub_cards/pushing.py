"""Publishes an artifact: one commit with exactly the listed files, or none at all; what is there already stays."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, get_token
from huggingface_hub.errors import HfHubHTTPError

from erase_plugins.artifacts.store import verify_file
from erase_plugins.errors import HubUnreachable, NotAllowed, PushRefused
from erase_plugins.evaluation.published import attack_files, report_files
from erase_plugins.evaluation.saved import REPORT, read_about
from erase_plugins.evaluation.sensitive import to_blur
from erase_plugins.hints import Hint, sentence_of
from erase_plugins.manager import get_manager
from erase_plugins.readme import CARD
from erase_plugins.secret_texts import clean, own_tokens, refuse
from erase_plugins.types import EvalReport
from erase_plugins.workflow.artifacts import load_artifact
from erase_plugins.workflow.pairs import INDEX, Gallery, read_gallery
from hub_cards.bundle import Bundle, How, PushFile, artifact_files, of
from hub_cards.errors import reaching
from hub_cards.kept import Kept, check_theirs, keep
from hub_cards.model_card import TAGS, card
from hub_cards.remote import Remote, look, with_state
from hub_cards.sending import Pushed, send


def push(
    artifact: Any,
    repo: str,
    *,
    report: EvalReport | str | Path | None = None,
    pictures: bool = True,
    gallery: Gallery | str | Path | Callable[[], Gallery] | None = None,
    blur: bool | None = None,
    adult: bool | None = None,
    space: str | None = None,
    publish_attacks: bool = False,
    **options: Any,
) -> Pushed:
    """Publishes an artifact folder. Logged in with ``hf auth login`` or ``HF_TOKEN``; no token is ever passed.

    Args:
        artifact: an `Artifact` with a path, or the path.
        repo: "owner/name"; made if it does not exist.
        report: evaluation of the artifact (report, report.json or its folder); goes onto the card and along, and so do
            the numbers of attacks that lie beside it (attack-NAME.json).
        pictures: publish pictures at all.
        gallery: pairs before and after (`hub_cards.draw_pairs`), or the folder where a card and its pictures lie, or a
            function that draws them, which is called once nothing else speaks against the push.
        blur: make pictures unrecognisable; by default for explicit concepts and persons.
        adult: ask visitors of the page first; by default for explicit concepts, and where the page asks already.
        space: "owner/name" of a Space where readers can try it; one that the page names stays.
        publish_attacks: publish what the attacks found as well; whoever has it can bring the concept back.
        options: private, create_pr, revision, message, license, parent, prune, personal, requirement, dry_run, show;
            see `hub_cards.bundle.How`.

    Raises:
        HubError: not reachable or refused; the repository holds its old state.
        PushRefused: a plugin's veto, a changed repository, an unknown licence, a public repository with ``private``,
            published evidence about other weights, an access key or private text in a file.
        NotAllowed: not logged in, or no right to write there.
    """

    how = How.checked(repo, options)
    loaded = load_artifact(artifact)
    found, against, folder = read_about(report, loaded)
    hide = to_blur(loaded.manifest.concepts) if blur is None else blur
    measured = report_files(found, folder, pictures, hide)
    shown = [name for name in measured if name != REPORT]
    files = [*artifact_files(loaded), *of(measured), *of(attack_files(against, folder, publish_attacks))]
    message = f"{loaded.name}: {', '.join(loaded.manifest.erased)[:60]} erased"
    if callable(gallery) and pictures and not how.dry_run:
        ready(how.bundle(loaded, repo, files, message), how, renewed=(INDEX,))
    drawn = None if not pictures else gallery() if callable(gallery) else gallery
    drawn = read_gallery(drawn) if isinstance(drawn, str | Path) else drawn
    drawn = drawn.blur() if drawn and hide else drawn
    files += [] if drawn is None else of(drawn.files())

    def write(kept: Kept) -> str:
        return card(
            loaded, found or kept.report, repo=repo, license=how.license or kept.licence,
            pictures=shown or kept.pictures, gallery=drawn or kept.gallery, adult=adult, strict=True,
            requirement=how.requirement or kept.requirement,
            attacks=tuple({**kept.attacks, **{item.attack: item for item in against}}.values()),
            space=space or kept.space,
        )  # fmt: skip

    if loaded is artifact:  # it was read some time ago
        for item in loaded.manifest.files:
            verify_file(loaded.path, item)
    return publish(how.bundle(loaded, repo, files, message), write, how, pictures=pictures, adult=adult)


def publish(
    bundle: Bundle, write: Callable[[Kept], str], how: How, *, pictures: bool = True, adult: bool | None = None
) -> Pushed:
    """Compares files and page with what is published, tells, and sends what differs in one commit.

    Args:
        bundle: repository, files and settings; states, parent and page are filled in here.
        write: makes the page (README.md), given what stays published.
        how: the rest; see `How`.
        pictures, adult: as for `push`.

    Raises:
        HubError, PushRefused, NotAllowed: as for `push`.
    """

    repo, private = bundle.repo, bundle.private
    token_needed(how.dry_run)
    try:
        with reaching("push to", repo):
            remote = look(bundle)
            found = replace(bundle, files=tuple(with_state(item, remote.files) for item in bundle.files))
            kept = keep(found, remote, prune=how.prune, pictures=pictures)
            bundle = _with_page(found, kept.page(write(kept), adult, TAGS), remote, kept)
    except HubUnreachable as error:
        if not how.dry_run:
            raise
        bundle = replace(_with_page(bundle, write(Kept()), Remote(), Kept()), unseen=sentence_of(error))
    if not bundle.unseen:
        fits(bundle, how.parent, private)
    check_files([*bundle.changed, PushFile("the commit message", bundle.message.encode())], how.personal)
    get_manager().before_push(replace(bundle, dry_run=how.dry_run), repo)
    if how.show is not None:
        how.show(bundle)
    if how.dry_run or not (bundle.changed or bundle.removed):
        return Pushed(bundle, bundle.parent, dry_run=how.dry_run)
    return send(bundle)


def ready(bundle: Bundle, how: How, renewed: Collection[str] = ()) -> None:
    """Looks for what would end a push anyway, before minutes of work: login, rights, repository, evidence there.

    Args:
        bundle: repository, settings and the files that are known already.
        how: the rest; see `How`.
        renewed: names of files that the work will bring, with other bytes than those that are published.

    Raises:
        HubError, PushRefused, NotAllowed: as for `push`.
    """
    token_needed()
    with reaching("push to", bundle.repo):
        remote = look(bundle)
        may_write(bundle, remote.commit is not None)
        files = [with_state(item, remote.files) for item in bundle.files]
        found = replace(bundle, files=(*files, *(PushFile(name, b"", "changed") for name in renewed)))
        keep(found, remote, prune=how.prune or not bundle.of_artifact)  # of the others the weights come later
        if not how.prune:
            check_theirs(found, remote)
    fits(remote.seen_by(bundle), how.parent, bundle.private)


def check_files(files: Iterable[PushFile], personal: bool = False) -> None:
    """The last look before anything is sent: no access key, and no private text that somebody did not mean to publish.

    Raises:
        PushRefused: names the file, the kind of what is in it and where; the text itself is not shown.
    """
    known = own_tokens()
    for item in files:
        with item.open() as file:
            refuse(item.name, file, known, personal)


def fits(bundle: Bundle, parent: str | None, private: bool) -> None:
    """Whether the repository is at the expected commit and as visible as asked for.

    Raises:
        PushRefused: it is not.
    """
    repo = bundle.repo
    if parent is not None and not (bundle.parent or "").startswith(parent):
        raise PushRefused(
            f"{repo} is at commit {(bundle.parent or 'none')[:12]}, not at {parent[:12]}; look at what changed first"
        )
    if private and bundle.exists and not bundle.private:
        raise PushRefused(
            f"{repo} exists and is public; make it private on its settings page, or ",
            Hint("private", before="leave", after="out"),
        )


def may_write(bundle: Bundle, exists: bool) -> bool:
    """Asks the Hub who is logged in, and whether they may write there, as far as it tells; False if nobody is.

    Raises:
        NotAllowed: they may not.
    """
    if not get_token():
        return False
    try:
        found = HfApi().whoami()
    except HfHubHTTPError as error:
        if error.response is not None and error.response.status_code in (401, 403):
            raise
        return True  # a Hub that does not tell: the commit will
    if ((found.get("auth") or {}).get("accessToken") or {}).get("role") == "read":
        raise NotAllowed("the token may only read; make one that may write on the Hub's page Access Tokens")
    owner, name = bundle.repo.split("/")[0], str(found.get("name"))
    member: Any = next((item for item in found.get("orgs") or () if item.get("name") == owner), None)
    mine = owner == name or (member is not None and member.get("roleInOrg") != "read")
    if not mine and not (exists and bundle.create_pr):  # which anybody may propose
        raise NotAllowed(
            f"cannot push to {bundle.repo}: this account may not; it is '{clean(name)}', push to {clean(name)}/... "
            f"or ask {owner} for the right"
        )
    return True


def unchecked(bundle: Bundle) -> str:
    """What a dry run says of the right to write, of which it asks as the push itself would; empty if it is there.

    Raises:
        HubError, NotAllowed: as for `push`.
    """
    with reaching("push to", bundle.repo):
        return "" if not bundle.unseen and may_write(bundle, bundle.exists) else "; rights not checked"


def put(repo: str, title: str, private: bool = False) -> str:
    """Puts a repository on one of its owner's collections on the Hub, made if there is none of that title.

    Args:
        repo: "owner/name".
        title: of the list.
        private: of a new list.

    Returns:
        The list's address.

    Raises:
        HubError, NotAllowed: as for `hub_cards.push`; the repository is published all the same.
    """
    api, owner = HfApi(), repo.split("/")[0]
    with reaching("list on the Hub", repo):
        made = api.create_collection(title, namespace=owner, private=private, exists_ok=True)
        api.add_collection_item(made.slug, repo, "model", exists_ok=True)
    return str(made.url)


def token_needed(dry_run: bool = False) -> None:
    """Whether somebody is logged in; looking needs no login.

    Raises:
        NotAllowed: nobody is.
    """

    if not dry_run and not get_token():
        raise NotAllowed("not logged in; run 'hf auth login' or set HF_TOKEN")


def _with_page(bundle: Bundle, text: str, remote: Remote, kept: Kept) -> Bundle:
    """The bundle with the page, the parent and what is to be removed."""
    page = with_state(PushFile(CARD, text.encode()), remote.files)
    lines = difflib.unified_diff(kept.card.splitlines(), text.splitlines(), "published", "new", lineterm="", n=1)
    diff = tuple(lines) if kept.card else ()
    return remote.seen_by(bundle, files=(*bundle.files, page), removed=kept.gone, diff=diff)
