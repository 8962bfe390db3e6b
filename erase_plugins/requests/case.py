"""The requests as their ledger tells them: all that `status` and a certificate say follows from its lines."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from erase_plugins.artifacts.chain import head_of
from erase_plugins.errors import CorruptArtifact, EraseError, RequestError
from erase_plugins.hints import sentence_of
from erase_plugins.requests.deadlines import date, due, remaining, rule_of
from erase_plugins.requests.events import check_shape
from erase_plugins.requests.states import AFTER, ANSWERED, ATTEMPTS, BEFORE, NEXT, PRIVATE


@dataclass
class Case:
    """One request.

    Attributes:
        id: random name.
        lines: its own lines of the ledger, in order.
        state: see `erase_plugins.requests.states`.
        due: last day for an answer.
        attempt: number of the present attempt, from 1; 0 before the first.
        failures: attempts whose latest evaluation was not passed.
        last: event -> its latest line.
    """

    id: str
    lines: list[dict[str, Any]] = field(default_factory=list)
    state: str = ""
    held_in: str = ""
    due: str = ""
    attempt: int = 0
    failures: set[int] = field(default_factory=set)
    last: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def what(self) -> str:
        """Its kind."""
        return str(self.last["received"]["what"])

    @property
    def shareable(self) -> bool:
        """Whether what is made for it may be published: not for anybody's own data, and only if told so."""
        return bool(self.last["received"]["public"]) and self.what not in PRIVATE

    @property
    def remedies(self) -> list[dict[str, str]]:
        """What was chosen, in the order in which it is tried; none before `plan`."""
        return list(self.last["triaged"]["remedies"]) if "triaged" in self.last else []

    @property
    def remedy(self) -> str:
        """The remedy of the present attempt, or the first that will be tried; "" before there is one."""
        if "started" in self.last:
            return str(self.last["started"]["remedy"])
        return next((item["id"] for item in self.remedies if item["level"] != "prompt"), "")

    @property
    def artifact(self) -> str | None:
        """SHA-256 of what the present attempt made."""
        made = self.last.get("made")
        return None if made is None or made["attempt"] != self.attempt else str(made["artifact"])

    def require(self, event: str, when: str) -> None:
        """Refuses what may not happen now, before anything is loaded for it.

        Args:
            event: what would be entered.
            when: the sentence that says when it may.

        Raises:
            RequestError: it may not; says where the request stands and what comes next.
        """
        if self.state not in BEFORE[event]:
            raise RequestError(f"request {self.id} is {self.state}; {when}{self.onward()}")

    def onward(self) -> str:
        """What takes the request further, as the end of a sentence; "" for a closed one."""
        return f"; next for it: 'erase-plugins request {NEXT[self.state]}'" if NEXT[self.state] else ""

    def facts(self, today: datetime.date) -> dict[str, Any]:
        """What `status` says, without anything that names anybody."""
        left, warning = remaining(date(self.due), today, self.state in ANSWERED)
        return {
            "case": self.id, "kind": self.what, "state": self.state, "received": self.last["received"]["day"],
            "due": self.due, "days_left": left, "warning": warning, "remedy": self.remedy, "attempt": self.attempt,
            "passed": self.last.get("evaluated", {}).get("passed"), "shareable": self.shareable,
            "next": NEXT[self.state],
        }  # fmt: skip


@dataclass
class Ledger:
    """All requests of a desk, replayed and checked line by line.

    Attributes:
        opened: the first line.
        cases: by id.
        entries: every line.
    """

    opened: dict[str, Any]
    cases: dict[str, Case] = field(default_factory=dict)
    entries: list[dict[str, Any]] = field(default_factory=list)

    @property
    def head(self) -> str:
        """Hash of the last line."""
        return head_of(self.entries)

    @property
    def time(self) -> str:
        """Time of the last line."""
        return str(self.entries[-1]["time"])

    def case(self, name: str) -> Case:
        """The request of this id, or the only one that begins like it.

        Raises:
            RequestError: none, or several.
        """
        found = [item for item in self.cases.values() if item.id.startswith(name)] if name else []
        if len(found) != 1:
            many = f"{len(found)} requests begin with '{name}'" if found else "no request of that id is here"
            raise RequestError(f"{many}; 'erase-plugins request status' lists them")
        return found[0]

    def take(self, entry: dict[str, Any]) -> None:
        """The next line.

        Raises:
            CorruptArtifact: it does not follow from the lines before it.
        """
        number = len(self.entries) + 1
        event = check_shape(entry, number)
        problem = self._problem(event, entry)
        if problem:
            raise CorruptArtifact(f"line {number} of the ledger: ", problem)
        self.entries.append(entry)
        if event != "open":
            self.apply(event, entry)

    def _problem(self, event: str, entry: Mapping[str, Any]) -> str:
        if entry["seq"] != len(self.entries):
            return f"number {entry['seq']} stands where {len(self.entries)} belongs"
        if (event == "open") is bool(self.entries):
            return "a ledger is opened once, and first"
        if self.entries and entry["time"] < self.time:
            return "it is older than the line before it"
        if event == "open":
            return ""
        return problem_of(self.cases.get(entry["case"]), event, entry)

    def apply(self, event: str, entry: dict[str, Any]) -> None:
        """Takes in a line that was checked."""
        case = self.cases.setdefault(entry["case"], Case(entry["case"]))
        if event == "held":
            case.held_in = case.state
        if event in ("received", "extended"):
            case.due = entry["due"]
        if event == "started":
            case.attempt = entry["attempt"]
        case.state = self._state(case, event, entry)
        case.last[event] = entry
        case.lines.append(entry)

    def _state(self, case: Case, event: str, entry: Mapping[str, Any]) -> str:
        if event == "resumed":
            return case.held_in
        if event != "evaluated":
            return AFTER.get(event, case.state)
        if entry["passed"]:
            case.failures.discard(case.attempt)
            return "passed"
        case.failures.add(case.attempt)
        return "failed" if len(case.failures) < ATTEMPTS else "escalated"


def problem_of(case: Case | None, event: str, entry: Mapping[str, Any]) -> str:
    """Why an event may not happen to a request now, None if it is not there yet; "" if it may."""
    if event == "received":
        return "this request is there already" if case else _wrong_due(entry)
    if case is None:
        return "a request that was never received"
    if case.state not in BEFORE[event] and AFTER.get(event) == case.state:  # such as after a kill: it did that
        return f"it is {case.state} already"
    if case.state not in BEFORE[event]:
        return f"'{event}' cannot follow on '{case.state}'; it needs {' or '.join(BEFORE[event])}"
    if event == "started":
        if entry["attempt"] != case.attempt + 1:
            return f"attempt {entry['attempt']} follows on attempt {case.attempt}"
        return "" if entry["remedy"] in [item["id"] for item in case.remedies] else "a remedy that was not planned"
    if event in ("refused", "made", "evaluated", "deployed") and entry["attempt"] != case.attempt:
        return f"attempt {entry['attempt']} where {case.attempt} is under way"
    if event == "deployed":
        if entry["artifact"] != case.artifact:
            return "another artifact than the one that was made"
        if (case.state == "passed") is (entry["override"] is not None):
            return "a failed evaluation needs a reason to be overridden, a passed one has none"
    if event == "evaluated" and entry["passed"] is bool(entry["reasons"]):
        return "an evaluation fails for a reason, and passes without"
    if event == "extended":
        return _wrong_extension(case, entry)
    return ""


def _wrong_due(entry: Mapping[str, Any]) -> str:
    if entry["public"] and entry["what"] in PRIVATE:
        return f"what is made for a request of kind {entry['what']} is never public"
    try:
        wanted = due(date(entry["day"]), rule_of(entry["rule"], entry["days"])).isoformat()
    except EraseError as error:
        return sentence_of(error)
    return "" if entry["due"] == wanted else f"due on {entry['due']}, and its rule says {wanted}"


def _wrong_extension(case: Case, entry: Mapping[str, Any]) -> str:
    received = case.last["received"]
    if "extended" in case.last:
        return "it was extended already, and may be once"
    wanted = due(date(received["day"]), rule_of(received["rule"], received["days"]), True).isoformat()
    if entry["time"][:10] > case.due:
        return f"its deadline was {case.due}; an extension is announced before it"
    return "" if entry["due"] == wanted else f"extended to {entry['due']}, and its rule says {wanted}"


def replay(entries: Sequence[dict[str, Any]]) -> Ledger:
    """The requests of a ledger whose links were checked (`erase_plugins.artifacts.chain.parsed`).

    Raises:
        CorruptArtifact: empty, or a line that does not follow from those before it.
    """
    if not entries:
        raise CorruptArtifact("the ledger is empty or not there; without it nothing can be said")
    ledger = Ledger(dict(entries[0]))
    for entry in entries:
        ledger.take(entry)
    return ledger
