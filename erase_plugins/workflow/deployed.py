"""What has to be in force on a model because somebody asked for it: all of it, in order, or an error."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

from erase_plugins.artifacts.artifact import Artifact
from erase_plugins.artifacts.fingerprint import base_difference
from erase_plugins.artifacts.manifest import describe_base
from erase_plugins.errors import ArtifactError
from erase_plugins.requests.case import Case
from erase_plugins.requests.decisions import in_force
from erase_plugins.requests.store import Desk
from erase_plugins.runtime.applied import Applied
from erase_plugins.workflow.applying import apply_all, held_target
from erase_plugins.workflow.artifacts import load_artifact
from erase_plugins.workflow.remedies import RECORDS
from erase_plugins.workflow.request_run import artifact_hash, folder_of


def load_deployed(desk: Desk, case: Case) -> Artifact:
    """The artifact of a deployed request.

    Raises:
        ArtifactError: it is missing, or not the one that was deployed.
    """
    attempt = int(case.last["deployed"]["attempt"])
    try:
        artifact = load_artifact(folder_of(desk, case, attempt))
    except Exception as error:
        raise ArtifactError(
            f"request {case.id} is deployed and its artifact cannot be loaded; do not serve the model without it"
        ) from error
    if artifact_hash(artifact) != case.last["deployed"]["artifact"]:
        raise ArtifactError(
            f"the artifact of request {case.id} is not the one that was deployed; do not serve the model"
        )
    return artifact


def apply_deployed(pipe: Any, folder: str | Path, key: str | Path | None = None) -> list[Applied]:
    """Applies everything that requests of a desk put in force on a model. Call it whenever the model is loaded.

    Args:
        pipe: what `erase_plugins.apply` takes.
        folder: the desk.
        key: file of its key.

    Returns:
        The handles, in the order of deployment; none if nothing is deployed. A desk may serve several models: what was
        deployed for another one is left out, with a warning if it is of the same family.

    Raises:
        ArtifactError: something is missing, changed, or was made for another base; nothing was applied then.
    """
    desk = Desk.open(folder, key)
    cases = [case for case in in_force(desk.ledger()) if case.last["started"]["remedy"] != RECORDS]
    artifacts = [load_deployed(desk, case) for case in cases]
    base = describe_base(held_target(pipe))
    fitting = [item for item in artifacts if not base_difference(item.manifest.base, base)]
    if artifacts and not fitting:
        raise ArtifactError(
            f"none of the {len(artifacts)} deployed artifacts was made for this base; nothing was applied"
        )
    left = [(case.id, item.manifest.base) for case, item in zip(cases, artifacts, strict=True)
            if base_difference(item.manifest.base, base)]  # fmt: skip
    for name, other in left:
        if other.get("family") == base["family"]:
            warnings.warn(
                f"request {name} is not in force on this model: it was deployed for another base, "
                f"{other.get('model')}. "
                "If this model took the place of that one, carry the request out on it anew",
                stacklevel=2,
            )
    return apply_all(pipe, fitting)
