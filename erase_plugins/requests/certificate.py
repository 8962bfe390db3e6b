"""What may be said about a request: what was done and measured, nothing else. Others can check it without a key.

An export holds the lines of one request, and of all other lines of the ledger the hashes only. Whoever is given it sees
that the lines were not changed and where they stand in the chain, and learns nothing about other people's requests.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from erase_plugins.artifacts.chain import START, linked
from erase_plugins.artifacts.chain_fields import check_schema
from erase_plugins.artifacts.strict_json import parse
from erase_plugins.errors import CorruptArtifact
from erase_plugins.requests.case import Case, Ledger, problem_of
from erase_plugins.requests.events import check_shape

CERTIFICATE = "certificate.json"
KIND = "erase-plugins request certificate"
#: of new certificates: one higher with every new sentence, field or kind of line, so that older versions say that they
#: are older and call nothing a forgery; what was handed out before is still checked, sentence by sentence, in the words
#: of its own
SCHEMA, SCHEMAS = 3, (1, 2, 3)
#: what no certificate of ours says, in the words in which it does not
NOT_CLAIMED = (
    "that data are deleted, or that the model never saw them",
    "that the model is anonymous, or that a law is met",
    "that nothing can bring the subject back: only the listed measurements were made",
    "anything about other models, versions, quantised copies, caches, search indexes or logs",
    "anything about measurements that are not listed",
)
_BOUND = ("rho_adaptive", "epsilon_adaptive", "advantage_adaptive")
_NOBODY = {
    "unknown": "texts about somebody whom the model cannot know", "reference": "a model that never saw the subject",
}  # fmt: skip
_GUARD = {
    1: "a keyword guard stands in front of the model: it changes no weights, and was off when this was measured",
    2: "a keyword guard was made for the front of the model: whether it was put there is not in this record; it "
    "changes no weights, and was off when this was measured",
}
#: metrics of attacks that a suite runs by itself
_ATTACKED = {"relearned_probability"}


def certificate(ledger: Ledger, case: Case, schema: int = SCHEMA) -> dict[str, Any]:
    """The certificate of a request as its lines tell it now, in the words of a schema."""
    made, measured = case.last.get("made"), case.last.get("evaluated")
    current = measured is not None and measured["attempt"] == case.attempt
    answered = next((line["time"][:10] for line in case.lines if line["event"] in ("deployed", "rejected")), None)
    return {
        "kind": KIND,
        "schema": schema,
        "case": case.id,
        "what": case.what,
        "state": case.state,
        "received": case.last["received"]["day"],
        "due": case.due,
        "answered": answered,
        "in_time": None if answered is None else answered <= case.due,
        "model": case.last.get("triaged", {}).get("model"),
        "remedy": case.remedy or None,
        "artifact": case.artifact,
        "base": made["base"] if made and case.artifact else None,
        "suite": measured["suite"] if measured and current else None,
        "rows": measured["rows"] if measured and current else [],
        "passed": measured["passed"] if measured and current else None,
        "says": [*(_became(case) if schema > 2 else ()), *_sentences(case, measured if current else None, schema)],
        "not_claimed": list(NOT_CLAIMED),
        "lines": case.lines,
        "links": [entry["hash"] for entry in ledger.entries],
        "ledger": {"id": ledger.opened["ledger"], "lines": len(ledger.entries), "head": ledger.head},
        "version": ledger.opened["version"],
    }


def _became(case: Case) -> list[str]:
    """What became of the request: good numbers of an artifact that nobody uses are no answer."""
    day = {event: line["time"][:10] for event, line in case.last.items()}
    if "rejected" in day:
        return [f"the request was rejected on {day['rejected']}: {case.last['rejected']['reason']}"]
    if "revoked" in day:
        return [f"what was made was put to use on {day['deployed']} and taken out of use on {day['revoked']} "
                f"({case.last['revoked']['reason']}): nothing is in force for this request"]  # fmt: skip
    if "deployed" in day:
        return [f"what was made was put to use on {day['deployed']}"]
    if case.state == "refused":
        return [f"the run of {day['refused']} was refused: nothing was made by it"]
    return ["what was made was not put to use"] if "made" in day else []


def _sentences(case: Case, measured: Mapping[str, Any] | None, schema: int) -> list[str]:
    """What was measured, in sentences; each number is one of the ledger."""
    if measured is None:
        return ["nothing was measured"]
    values = {(row[0], row[1]): row for row in measured["rows"]}
    said = [f"{name} is {values[name, 'deleted'][2]:.6g} (a bound; see the certificate of the head's own ledger)"
            for name in _BOUND if (name, "deleted") in values]  # fmt: skip
    for metric, subject in values:
        if subject == "edited" and (metric, "base") in values:
            before, after = values[metric, "base"], values[metric, "edited"]
            said.append(f"with suite {measured['suite']} and this base, {metric} was {number(before)} before and "
                        f"{number(after)} after")  # fmt: skip
        elif subject in _NOBODY and schema > 1:
            said.append(f"{metric} of {_NOBODY[subject]} is {number(values[metric, subject])}")
    if schema > 2 and measured["suite"] != "certificate":
        said.append(f"to pass, at most {measured['left']:.4g} of the subject may be left, and no share of what stays "
                    f"may fall by more than {measured['loss']:.4g}")  # fmt: skip
    said += [f"it did not pass: {reason}" for reason in measured["reasons"]]
    said += [f"measured before with suite {line['suite']}, it did not pass: {reason}"
             for line in _earlier(case, measured) for reason in line["reasons"]]  # fmt: skip
    if "deployed" in case.last and case.last["deployed"]["override"]:
        said.append(f"it was put to use all the same: {case.last['deployed']['override']}")
    if case.last.get("made", {}).get("guard"):
        said.append(_GUARD[min(schema, 2)])
    if measured["suite"] != "certificate":
        words = {word for key in values for word in key}
        attacked = measured["suite"] == "attacks" or bool(_ATTACKED & words)
        lacking = {
            "no model that never saw the subject was measured beside it": schema == 1 or "reference" not in words,
            "no attack was run": schema == 1 or not attacked,
        }
        said += [", and ".join(filter(lacking.get, lacking))] if any(lacking.values()) else []
    return said


def _earlier(case: Case, measured: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The other measurements of the same attempt: whoever tries suites until one passes says so."""
    return [line for line in case.lines if line["event"] == "evaluated" and line["attempt"] == measured["attempt"]
            and line["seq"] != measured["seq"]]  # fmt: skip


def number(row: Sequence[Any]) -> str:
    """A measured number with its interval and the number of samples."""
    _, _, value, low, high, n = row
    return f"{value:.4g}" + (f" [{low:.4g}..{high:.4g}, n={n}]" if n else "")


def to_text(data: Mapping[str, Any]) -> str:
    """The certificate for people."""
    time = {True: "in time", False: "late", None: "not answered yet"}[data["in_time"]]
    verdict = {True: ["the evaluation passed"], False: ["the evaluation did not pass"], None: []}[data["passed"]]
    lines = [
        f"request {data['case']} ({data['what']}), {data['state']}: received {data['received']}, due {data['due']}, "
        f"{time}",
        f"remedy {data['remedy'] or 'none'} on {data['model'] or 'no model'}",
        *(f"  {text}" for text in (*data["says"], *verdict)),
        "it does not say:", *(f"  {text}" for text in data["not_claimed"]),
        f"ledger: {data['ledger']['lines']} lines, last one {data['ledger']['head']}",
    ]  # fmt: skip
    return "\n".join(lines)


def to_json(data: Mapping[str, Any]) -> str:
    """The certificate as a file holds it."""
    return json.dumps(data, indent=1, allow_nan=False) + "\n"


def is_certificate(place: Path) -> bool:
    """Whether a file, or the folder that holds it, is an exported certificate of a request."""
    file = place / CERTIFICATE if place.is_dir() else place
    try:
        return file.suffix == ".json" and f'"{KIND}"' in file.read_text(encoding="utf-8")[:200]
    except (OSError, UnicodeDecodeError):
        return False


def verify(place: Path, head: str | None = None) -> dict[str, Any]:
    """Checks an exported certificate: its lines, where they stand in the chain, and every sentence and number in it.

    Args:
        place: the file, or the folder that holds it.
        head: hash of the ledger's last line, as somebody else kept it.

    Raises:
        CorruptArtifact: anything does not follow from the lines.
    """
    file = place / CERTIFICATE if place.is_dir() else place
    try:
        data = parse(file.read_text(encoding="utf-8"))
        check_schema("the certificate", data["schema"], SCHEMA)
        lines, links = data["lines"], data["links"]
        ledger = Ledger({"ledger": data["ledger"]["id"], "version": data["version"]})
        ledger.entries = [{"hash": digest} for digest in links]
        case = _replayed(ledger, data["case"], lines, links)
        found = certificate(ledger, case, data["schema"] if data["schema"] in SCHEMAS else SCHEMA)
    except CorruptArtifact:
        raise
    except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError) as error:
        raise CorruptArtifact(f"'{file.name}' is not a certificate of a request") from error
    if head is not None and head != found["ledger"]["head"]:
        raise CorruptArtifact(
            "the ledger ends with another line than the one you noted: lines were cut off or written anew"
        )
    odd = next((name for name in {**found, **data} if data.get(name) != found.get(name)), None)
    if odd is not None:
        raise CorruptArtifact(f"the certificate says something else about '{str(odd)[:40]}' than its lines do")
    return {**found, "anchored": head is not None}


def _replayed(ledger: Ledger, name: str, lines: list[dict[str, Any]], links: list[str]) -> Case:
    """The request of exported lines, each checked by its own hash and by its place among the others."""
    last = -1
    for line in lines:
        check_shape(line, line["seq"] + 1)
        body = {key: value for key, value in line.items() if key not in ("prev", "hash")}
        before = links[line["seq"] - 1] if line["seq"] else START
        if line["seq"] <= last or linked([body], before)[0] != line or links[line["seq"]] != line["hash"]:
            raise CorruptArtifact(f"line {line['seq'] + 1} was changed or stands in another place")
        last = line["seq"]
        problem = problem_of(ledger.cases.get(name), line["event"], line)
        if line["case"] != name:
            problem = "it belongs to another request"
        if problem:
            raise CorruptArtifact(f"line {line['seq'] + 1} of the ledger: {problem}")
        ledger.apply(line["event"], line)
    return ledger.cases[name]
