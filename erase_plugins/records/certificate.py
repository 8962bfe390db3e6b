"""What may be claimed about deleted records, in numbers and in words; and the check of it by anybody."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from erase_plugins.artifacts import chain
from erase_plugins.artifacts.chain_fields import check_schema
from erase_plugins.artifacts.strict_json import parse
from erase_plugins.errors import ArtifactError, CorruptArtifact
from erase_plugins.records import accountant
from erase_plugins.records.ledger import Account, Life, replay

SCHEMA = 1
MECHANISM = "noisy-gd"
ACCOUNTANT = "zero-concentrated, shifted noise, adaptive requests by composition over releases"
LEDGER, CERTIFICATE = "ledger.jsonl", "certificate.json"
SCOPE = "the weights of this head"
ASSUMPTIONS = (
    "the loss is convex and smooth, with the gradient bound and curvature stated",
    "the number of slots is fixed; every step uses all records",
    "features come from a frozen model that never saw these records; no step before them looked at the data",
    "hyper-parameters were chosen without looking at the data",
    "the noise is secret: drawn from the system, kept nowhere",
    "float64 numbers stand for real ones",
    "one person has at most the stated number of records, and no copies of them are in other people's records",
)
NOT_CLAIMED = (
    "anything about models published before the deletion, which anybody may still hold",
    "anything about the frozen model, its features, prompts, pictures or a concept",
    "that the result is what learning without the record would have given",
    "anything about copies, near copies or other people's records of the same person",
    "that a risk is gone, or that a law is met",
)


def certificate(account: Account) -> dict[str, Any]:
    """The certificate of a ledger: the largest numbers of all deleted records first, None while there are none.

    ``certified`` is false, with the reason, where none may be issued.
    """
    opened = account.opened
    reasons = [] if account.secret else ["the noise of this head can be drawn again, so it can be subtracted"]
    gone = [_line(account, life) for life in account.deleted]
    worst = max(gone, key=lambda item: item["rho_adaptive"], default=None)
    existing = max((account.costs(account.lives[name])[0] for name in account.present), default=0.0)
    keys = ("rho_adaptive", "epsilon_adaptive", "advantage_adaptive")
    return {
        **{name: worst[name] if worst else None for name in keys},
        "rho_non_adaptive": max((item["rho_non_adaptive"] for item in gone), default=None),
        "certified": not reasons,
        "reasons": reasons,
        "schema": SCHEMA,
        "mechanism": MECHANISM,
        "accountant": ACCOUNTANT,
        "delta": opened["delta"],
        "records": gone,
        "existing": {"records": len(account.present), "distance": 2, **_numbers(existing, opened["delta"], "")},
        "releases": len(account.releases),
        "max_releases": account.max_releases,
        "group": opened["group"],
        "constants": {name: opened[name] for name in _CONSTANTS},
        "scope": SCOPE,
        "assumptions": list(ASSUMPTIONS),
        "not_claimed": list(NOT_CLAIMED),
        "ledger": {"id": opened["ledger"], "lines": account.lines, "head": account.head},
        "version": opened["version"],
    }


_CONSTANTS = (
    "base", "head", "loss", "lipschitz", "smoothness", "lam", "eta", "sigma2", "contraction", "n", "norm", "scale",
    "bias", "rho_dp", "rho_dd", "learn_steps", "edit_steps", "mode", "dtype", "noise",
)  # fmt: skip


def _line(account: Account, life: Life) -> dict[str, Any]:
    adaptive, alone = account.costs(life)
    delta = account.opened["delta"]
    return {
        **_numbers(adaptive, delta, "_adaptive"),
        "rho_non_adaptive": alone,
        "id": life.id,
        "line": life.left,
        "distance": 2 if life.replaced else 1,
        "releases": len(life.seen),
        "steps_present": life.stop - life.start,
        "steps_since": account.since(life),
    }


def _numbers(rho: float, delta: float, name: str) -> dict[str, float]:
    return {
        f"rho{name}": rho,
        f"epsilon{name}": accountant.epsilon(rho, delta),
        f"advantage{name}": accountant.advantage(rho),
    }


def to_text(data: Mapping[str, Any]) -> str:
    """The certificate for people, the bound that holds for adaptive requests first."""
    there = data["existing"]
    if data["records"]:
        more = f"{data['advantage_adaptive']:.4f}"
        lines = [
            f"rho_adaptive {data['rho_adaptive']:.6g}: epsilon {data['epsilon_adaptive']:.4g} at delta "
            f"{data['delta']:g}; no test of what a deleted record was is better than guessing by more than {more}",
            f"  it holds although requests may depend on all published models ({data['releases']} of at most "
            f"{data['max_releases']})",
            f"  rho {data['rho_non_adaptive']:.6g} if no request depends on a published model; never use it alone",
        ]
    else:
        lines = ["rho_adaptive: nothing to say, no record was deleted yet"]
    lines += [
        f"certified: {'yes' if data['certified'] else 'no, ' + '; '.join(data['reasons'])}",
        f"deleted records: {len(data['records'])}; those that are there: {there['records']}, about which published "
        f"models told rho {there['rho']:.6g} (epsilon {there['epsilon']:.4g}, "
        f"advantage {there['advantage']:.4f}) so far",
    ]
    for item in data["records"][:20]:
        lines.append(
            f"  {item['id']}: rho_adaptive {item['rho_adaptive']:.6g}, published models that saw it: "
            f"{item['releases']}, against {'an empty slot' if item['distance'] == 1 else 'any other record'}"
        )
    if len(data["records"]) > 20:
        lines.append(f"  and {len(data['records']) - 20} more")
    lines.append(f"scope: {data['scope']}; records of one person: at most {data['group']}")
    lines += ["it takes for granted:", *(f"  {item}" for item in data["assumptions"])]
    lines += ["it does not say:", *(f"  {item}" for item in data["not_claimed"])]
    lines.append(f"ledger: {data['ledger']['lines']} lines, last one {data['ledger']['head']}")
    return "\n".join(lines)


def to_json(data: Mapping[str, Any]) -> str:
    """The certificate as a file holds it; the order of names is kept, since the adaptive bound comes first."""
    return json.dumps(data, indent=1, allow_nan=False) + "\n"


def verify(place: Path, head: str | None = None, beside: Path | None = None) -> dict[str, Any]:
    """Recomputes everything from a ledger and compares it with what is claimed.

    Args:
        place: the ledger, or the folder that holds it.
        head: hash of the last line, as somebody else kept it.
        beside: the certificate to compare with; by default the one that lies beside the ledger, if there is one.

    Returns:
        The certificate, recomputed, with ``anchored``: whether the end of the ledger was compared with anything.

    Raises:
        CorruptArtifact: any change: in a line, in their order or number, in the certificate, in published weights.
        ArtifactError: no ledger is there.
    """
    ledger = place / LEDGER if place.is_dir() else place
    if not ledger.is_file():
        raise ArtifactError(f"no ledger at '{place.name}'; give {LEDGER} or the folder that holds it")
    entries = chain.read(ledger)
    account = replay(entries)
    found = certificate(account)
    if head is not None and head != account.head:
        raise CorruptArtifact(
            f"the ledger ends with {account.head[:16]}..., not with {head[:16]}...: lines were cut off or written anew"
        )
    if beside is None and (ledger.parent / CERTIFICATE).is_file():
        beside = ledger.parent / CERTIFICATE
    if beside is not None:
        _same(read_certificate(beside), found)
    from erase_plugins.records.weights import HEAD, tensor_sha256

    weights = ledger.parent / HEAD
    if weights.is_file() and tensor_sha256(weights) not in [item["sha256"] for item in account.releases[-1:]]:
        raise CorruptArtifact(f"{HEAD} does not hold the weights of the last release in the ledger")
    return {**found, "anchored": head is not None or beside is not None, "weights": weights.is_file()}


def read_certificate(path: Path) -> dict[str, Any]:
    """A certificate from a file.

    Raises:
        CorruptArtifact: it is none.
    """
    try:
        data = parse(path.read_text(encoding="utf-8"))
        if not isinstance(data, dict) or not isinstance(data["ledger"], dict):
            raise ValueError("no certificate")
    except (OSError, ValueError, KeyError, RecursionError) as error:
        raise CorruptArtifact(f"'{path.name}' is not a certificate") from error
    return data


def _same(claimed: Mapping[str, Any], found: Mapping[str, Any]) -> None:
    check_schema("the certificate", claimed.get("schema"), SCHEMA)
    if claimed["ledger"] != found["ledger"]:
        raise CorruptArtifact(
            f"the certificate is of a ledger with {claimed['ledger'].get('lines')} lines ending in "
            f"{str(claimed['ledger'].get('head'))[:16]}..., this one has {found['ledger']['lines']} ending in "
            f"{found['ledger']['head'][:16]}..."
        )
    odd = next((name for name in {**found, **claimed} if not _equal(claimed.get(name), found.get(name))), None)
    if odd is not None:
        raise CorruptArtifact(f"the certificate says something else about '{odd}' than its ledger does")


def _equal(one: Any, other: Any) -> bool:
    """Equality in which numbers of two machines may differ in their last digits."""
    if isinstance(one, float) and isinstance(other, float):
        return abs(one - other) <= 1e-9 * max(abs(one), abs(other))
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_equal(one[name], other[name]) for name in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_equal, one, other))
    return type(one) is type(other) and bool(one == other)
