"""What each statement costs -> what would be kept waiting for how long, and what to do instead.

A lock is kept until its transaction ends. So whatever runs between is charged to it, also what is
about another table.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import NamedTuple

from .charges import Charge, Seconds
from .locks import blocks
from .measured import Did, There

PAGE = "docs/safe-migrations.md"
# What a statement's text has -> what to do instead, and where that is told on the page.
_WAYS = (
    (r"(?i)^(?:VACUUM|CLUSTER|REPACK)\b", "not on a table in use", "the-lock-of-each-statement"),
    (r"(?i)\bSET NOT NULL\b", "three files, a CHECK first", "not-null"),
    (r"(?i)\bFOREIGN KEY\b|\bREFERENCES\b", "NOT VALID, then VALIDATE", "foreign-keys"),
    (r"(?i)\bADD\b.*\bCHECK\b", "NOT VALID, then VALIDATE", "not-null"),
)
_BY_WORK = {
    "indexes": ("CONCURRENTLY, no-transaction", "indexes"),
    "rewrites": ("a new column, in batches", "large-updates"),
    "changes": ("in batches", "large-updates"),
}
_PARTED = ("what takes long in a file of its own", "what-the-runner-does-about-it")
_OTHERWISE = ("another way, in the table", "the-lock-of-each-statement")
ANCHORS = {
    *(anchor for _, _, anchor in _WAYS),
    *(anchor for _, anchor in (*_BY_WORK.values(), _PARTED, _OTHERWISE)),
}


class Finding(NamedTuple):
    """Something that others wait for. `seconds` is None where the target's sizes are unknown.

    `blocks`: reads, writes; or rows, for writes to the rows that were changed.
    """

    did: Did  # since when
    table: int
    mode: str
    blocks: tuple[str, ...]
    seconds: Seconds | None
    heaviest: Charge
    instead: str
    anchor: str


def find(charges: Sequence[Charge], there: There, longest_s: float) -> list[Finding]:
    """Return what may last longer than that, or for a time that nobody knows, in order."""
    found = []
    for _, group in groupby(charges, key=lambda c: (c.did.filename, c.did.transaction)):
        together = list(group)
        for finding in _of_transaction(together, there):
            if finding.seconds is None or finding.seconds.high > longest_s:
                found.append(finding)
    return found


def _of_transaction(charges: list[Charge], there: There) -> Iterator[Finding]:
    """Yield for each table what is blocked, from the first line on that blocks it."""
    said: dict[int, set[str]] = {}
    for number, charge in enumerate(charges):
        for table, mode, words in _blocked(charge, there):
            new = [word for word in words if word not in said.setdefault(table, set())]
            if not new:
                continue
            finding = _finding(charges[number : _end(charges, number, table, mode)], table, mode)
            if finding is not None:
                said[table] |= {*words, "rows"} if "writes" in words else {*words}
                yield finding._replace(blocks=words)


def _blocked(charge: Charge, there: There) -> list[tuple[int, str, tuple[str, ...]]]:
    """Return table, mode and what is blocked by each lock of a statement, and by its rows."""
    found: dict[int, tuple[int, str, tuple[str, ...]]] = {}
    for lock in charge.did.locks:  # strongest first
        table, waits = there.top(lock.relation), blocks(lock.mode)
        words = tuple(word for word in waits.words if word != "changes")
        if words and table not in found:
            found[table] = (table, lock.mode, words)
    for each in charge.rows:
        table = there.top(each)
        found.setdefault(table, (table, "ROW EXCLUSIVE", ("rows",)))
    return list(found.values())


def _end(charges: list[Charge], begin: int, table: int, mode: str) -> int:
    """Return where the lock is given back: behind the last statement, or at a ROLLBACK TO."""
    for number, charge in enumerate(charges[begin + 1 :], begin + 1):
        if any(lock.relation == table and lock.mode == mode for lock in charge.did.released):
            return number
    return len(charges)


def _finding(window: list[Charge], table: int, mode: str) -> Finding | None:
    total: Seconds | None = Seconds()
    for charge in window:
        total = total and total.plus(charge.seconds)
    if total == Seconds():
        return None
    heaviest = max(window, key=_weight)
    instead, anchor = _way(window, heaviest)
    return Finding(window[0].did, table, mode, (), total, heaviest, instead, anchor)


def _weight(charge: Charge) -> float:
    return charge.seconds.high if charge.seconds else float("inf")


def _way(window: list[Charge], heaviest: Charge) -> tuple[str, str]:
    """Return what to do instead, and its place on the page."""
    working = [charge for charge in window if charge.seconds != Seconds()]
    for pattern, instead, anchor in _WAYS:
        if any(re.search(pattern, charge.did.head) and charge.did.read for charge in working):
            return instead, anchor
    if heaviest is not window[0]:
        return _PARTED
    works = [part.what for part in heaviest.parts]
    return next((_BY_WORK[work] for work in _BY_WORK if work in works), _OTHERWISE)
