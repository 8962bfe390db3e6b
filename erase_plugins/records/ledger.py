"""The history of a head as its ledger tells it: who was there for how many steps, and what was published in between.

Every number of a certificate is a function of this file alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from erase_plugins.artifacts.chain import head_of
from erase_plugins.errors import CorruptArtifact
from erase_plugins.records import accountant
from erase_plugins.records.events import check_shape
from erase_plugins.records.opening import problem_of


@dataclass
class Life:
    """What happened to one record. Leakage is counted for "this record or any other" (distance 2).

    Attributes:
        id: its random name.
        joined: line on which it came in.
        start: steps of the present weights when it came in.
        left: line on which it went; None while it is there.
        stop: steps of the present weights when it went.
        replaced: whether another record took its slot in the same edit.
        seen: what each published model tells about it.
        absent: steps without it up to the first published model; None until there is one, or if learning began anew.
        tail: what that model adds; None until it is published.
        alone: the same, had no earlier model been published.
    """

    id: str
    joined: int
    start: int
    left: int | None = None
    stop: int = 0
    replaced: bool = False
    absent: int | None = None
    seen: list[float] = field(default_factory=list)
    tail: float | None = None
    alone: float | None = None


@dataclass
class Account:
    """A ledger, replayed and checked line by line.

    Attributes:
        opened: its first line.
        lives: every record that ever was there, by id.
        releases: published models in order: n, sha256, seq and the places they went to.
        steps: of the present weights since their start.
        mark: steps at the last published model.
        max_releases: how many models may be published.
        head, lines: hash of the last line, and how many there are.
        refused: publications that were refused.
    """

    opened: dict[str, Any]
    lives: dict[str, Life] = field(default_factory=dict)
    releases: list[dict[str, Any]] = field(default_factory=list)
    steps: int = 0
    mark: int = 0
    max_releases: int = 0
    head: str = ""
    lines: int = 0
    refused: int = 0

    def __post_init__(self) -> None:
        opened = self.opened
        variance = 2 * opened["eta"] * opened["sigma2"]
        shift = accountant.step_shift(opened["lipschitz"], opened["eta"], opened["n"], 2, opened["group"])
        c = opened["contraction"]
        self.segment = lru_cache(maxsize=None)(
            lambda present, absent=0: accountant.segment(c, shift, variance, present, absent)
        )

    @property
    def present(self) -> list[str]:
        """Ids of the records that are there."""
        return [item.id for item in self.lives.values() if item.left is None]

    @property
    def deleted(self) -> list[Life]:
        """The records that went, in that order."""
        return sorted((item for item in self.lives.values() if item.left is not None), key=lambda item: item.left or 0)

    @property
    def secret(self) -> bool:
        """Whether nobody can draw the noise again."""
        return bool(self.opened["noise"] == "system")

    @property
    def published(self) -> bool:
        """Whether the present weights are those of the last published model."""
        return bool(self.releases) and self.steps == self.mark

    def costs(self, life: Life) -> tuple[float, float]:
        """(adaptive, non-adaptive) leakage about a record: for one that is there so far, for one that went for ever.

        A record that went is compared with an empty slot (distance 1, a quarter), one that was replaced with others.
        """
        if life.left is None:
            return math.fsum(life.seen), self.segment(self.steps - life.start) if life.seen else 0.0
        tail, alone = life.tail, life.alone
        if tail is None or alone is None:
            tail, alone = self._after(life)
        share = 1.0 if life.replaced else 0.25
        return share * math.fsum((*life.seen, tail)), share * alone

    def since(self, life: Life) -> int | None:
        """Steps without a record up to the first published model after it, or so far; None if learning began anew."""
        if life.tail is not None:
            return life.absent
        return self.steps - life.stop

    def _after(self, life: Life) -> tuple[float, float]:
        absent = self.steps - life.stop
        return (
            self.segment(life.stop - max(life.start, self.mark), absent),
            self.segment(life.stop - life.start, absent),
        )

    # ---- events ------------------------------------------------------------------------------------------------

    def take(self, entry: Mapping[str, Any]) -> None:
        """The next line.

        Raises:
            CorruptArtifact: it does not follow from the lines before it.
        """
        event = check_shape(entry, self.lines + 1)
        if entry["seq"] != self.lines:
            raise self._wrong(f"number {entry['seq']} stands where {self.lines} belongs")
        getattr(self, f"_{event}")(entry)
        self.head, self.lines, self.time = entry["hash"], self.lines + 1, entry["time"]

    def _wrong(self, text: str) -> CorruptArtifact:
        return CorruptArtifact(f"line {self.lines + 1} of the ledger: {text}")

    def _open(self, entry: Mapping[str, Any]) -> None:
        if self.lines:
            raise self._wrong("a ledger is opened once")
        problem = problem_of(entry)
        if problem:
            raise self._wrong(problem)
        self.max_releases = entry["max_releases"]
        self.lives = {name: Life(name, 0, 0) for name in entry["ids"]}

    def _learn(self, entry: Mapping[str, Any]) -> None:
        if self.lines != 1:
            raise self._wrong("learning comes once, right after the opening")
        if entry["steps"] != self.opened["learn_steps"]:
            raise self._wrong(f"{entry['steps']} steps, the opening says {self.opened['learn_steps']}")
        self.steps = entry["steps"]

    def _edit(self, entry: Mapping[str, Any]) -> None:
        self._learned()
        fresh = self.opened["mode"] == "fresh"
        wanted = self.opened["learn_steps" if fresh else "edit_steps"]
        if entry["fresh"] is not fresh or entry["steps"] != wanted:
            raise self._wrong(f"an edit takes {wanted} steps {'from a new start' if fresh else 'from where it stands'}")
        went = [*entry["removed"], *(old for old, _ in entry["replaced"])]
        came = [*entry["added"], *(new for _, new in entry["replaced"])]
        if (not went and not came) or len({*went, *came}) != len(went) + len(came):
            raise self._wrong("an edit names nothing, or a record twice")
        for name in went:
            life = self.lives.get(name)
            if life is None:
                raise self._wrong(f"record {name} was never there")
            if life.left is not None:
                raise self._wrong(f"record {name} is deleted already")
            life.left, life.stop, life.replaced = self.lines, self.steps, name not in entry["removed"]
        for name in came:
            if name in self.lives:
                raise self._wrong(f"record {name} has been there before")
            self.lives[name] = Life(name, self.lines, self.steps)
        if len(self.present) > self.opened["n"]:
            raise self._wrong(f"{len(self.present)} records in {self.opened['n']} slots")
        if fresh:
            self._start_anew()
        self.steps += entry["steps"]

    def _start_anew(self) -> None:
        """The weights were thrown away: what they knew and nobody saw is gone."""
        self.steps = self.mark = 0
        for life in self.lives.values():
            if life.left is None:
                life.start = 0
            elif life.tail is None:
                life.tail = life.alone = 0.0

    def _release(self, entry: Mapping[str, Any]) -> None:
        self._learned()
        if entry["n"] <= len(self.releases):  # the same model in another place
            earlier = self.releases[entry["n"] - 1]
            if entry["sha256"] != earlier["sha256"] or entry["where"] in earlier["where"]:
                raise self._wrong(f"not the weights that release {entry['n']} published, or in the same place again")
            earlier["where"].append(entry["where"])
            return
        if self.published:
            raise self._wrong("the present weights are published already")
        if entry["n"] != len(self.releases) + 1:
            raise self._wrong(f"release {entry['n']} after {len(self.releases)} releases")
        if entry["n"] > self.max_releases:
            raise self._wrong(f"release {entry['n']} of {self.max_releases}")
        if entry["sha256"] in [item["sha256"] for item in self.releases]:
            raise self._wrong("other steps, but the hash of an earlier release")
        for life in self.lives.values():
            if life.left is None:
                life.seen.append(self.segment(self.steps - max(life.start, self.mark)))
            elif life.tail is None:
                life.tail, life.alone = self._after(life)
                life.absent = self.steps - life.stop
        self.mark = self.steps
        self.releases.append({"n": entry["n"], "sha256": entry["sha256"], "seq": self.lines, "where": [entry["where"]]})

    def _budget(self, entry: Mapping[str, Any]) -> None:
        self._learned()
        if entry["max_releases"] <= self.max_releases:
            raise self._wrong(f"the budget of {self.max_releases} releases can only be raised")
        self.max_releases = entry["max_releases"]

    def _refused(self, entry: Mapping[str, Any]) -> None:
        self._learned()
        if len(self.releases) < self.max_releases or self.published:
            raise self._wrong("a release was refused although the budget allowed it")
        self.refused += 1

    def _learned(self) -> None:
        if not self.steps:
            raise self._wrong("nothing was learned yet")


def replay(entries: Sequence[Mapping[str, Any]]) -> Account:
    """The account of a ledger.

    Args:
        entries: from `erase_plugins.artifacts.chain.read`, so that every link is checked.

    Raises:
        CorruptArtifact: empty, or a line that does not follow from those before it.
    """
    if not entries:
        raise CorruptArtifact("the ledger is empty or not there; without it nothing can be said")
    if check_shape(entries[0], 1) != "open":
        raise CorruptArtifact("line 1 of the ledger does not open it; its beginning is missing")
    problem = problem_of(entries[0])
    if problem:
        raise CorruptArtifact("line 1 of the ledger: ", problem)
    account = Account(dict(entries[0]))
    before = ""
    for number, entry in enumerate(entries, 1):
        account.take(entry)
        if entry["time"] < before:
            raise CorruptArtifact(f"line {number} of the ledger is older than the line before it")
        before = entry["time"]
    if account.head != head_of(entries):
        raise CorruptArtifact("the end of the ledger is damaged")
    return account
