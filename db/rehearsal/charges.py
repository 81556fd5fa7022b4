"""What a statement did -> what that is on the target: bytes, rows, and a range of seconds.

A range, because nobody knows the target's disk, its load or its cache. Its ends are two stated
speeds of one work: that of a small machine whose disk is across a network, and that of a fast one
which has all of it in memory.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import NamedTuple

from .measured import Did, There
from .outside import READS
from .sizes import Name, Plan, Size

_MB = 1_000_000
# Work done in a second, slow and fast.
SCANNED = (50 * _MB, 4_000 * _MB)  # bytes of a table that is read
INDEXED = (5 * _MB, 500 * _MB)  # bytes of a table that an index is built of
WRITTEN = (5 * _MB, 500 * _MB)  # bytes of a table and its indexes that are written anew
CHANGED = (10_000, 2_000_000)  # rows

_ROWS = re.compile(r"(?i)\b(?:update|delete|merge|insert)\b")
_OPAQUE = frozenset({"DO", "CALL", "SELECT", "EXECUTE"})
_OF_A_QUERY = re.compile(rb"(?i)\b(?:select|table|execute)\b")
# Whose rows others may want to change as well.
_LOCKS_ROWS = re.compile(r"(?i)\b(?:update|delete|merge)\b")
_TABLE = re.compile(
    r'(?i)\b(?:UPDATE|DELETE FROM|MERGE INTO|INSERT INTO)\s+(?:ONLY\s+)?((?:"[^"]+"|[\w$]+)'
    r'(?:\.(?:"[^"]+"|[\w$]+))?)'
)


class Seconds(NamedTuple):
    """A range of time."""

    low: float = 0.0
    high: float = 0.0

    def plus(self, other: Seconds | None) -> Seconds | None:
        """Return both, one after the other; None if nobody can say."""
        return None if other is None else Seconds(self.low + other.low, self.high + other.high)


class Part(NamedTuple):
    """One work on one table. `amount` is None where the target's size is unknown.

    `what`: reads, indexes, rewrites, empties, changes. `most`: it may be less.
    """

    what: str
    table: int
    amount: int | None
    most: bool = False


class Charge(NamedTuple):
    """A statement's work. `seconds` is None where it is unknown; `rows` whether it locks rows."""

    did: Did
    parts: tuple[Part, ...]
    seconds: Seconds | None
    rows: frozenset[int] = frozenset()


_SPEEDS = {"reads": SCANNED, "indexes": INDEXED, "rewrites": WRITTEN, "changes": CHANGED}


def charge(did: Did, there: There, sizes: Mapping[Name, Size], plan: Plan | None) -> Charge:
    """Return the work of a statement. `sizes`: of the target's tables, as far as they are known."""
    parts = [*_of_tables(did, there, sizes), *_of_rows(did, there, sizes, plan)]
    total: Seconds | None = Seconds()
    for part in parts:
        total = total and total.plus(_seconds(part))
    changed = frozenset(part.table for part in parts if part.what == "changes")
    # A batch keeps its rows for a moment only.
    keeps = _LOCKS_ROWS.search(did.head) and not did.repeats
    return Charge(did, tuple(parts), total, changed if keeps else frozenset())


def _seconds(part: Part) -> Seconds | None:
    if part.what == "empties":
        return Seconds()
    if part.amount is None:
        return None
    slow, fast = _SPEEDS[part.what]
    return Seconds(0.0 if part.most else part.amount / fast, part.amount / slow)


def _of_tables(did: Did, there: There, sizes: Mapping[Name, Size]) -> list[Part]:
    """Return what was read or written as a whole: each table once, by its heaviest work."""
    parts = []
    times = READS.get(did.kind, 1) if did.outside else 1
    for table in sorted(did.rewritten | did.indexed | did.read | did.emptied):
        size = sizes.get(there.name(table))
        if there.relations[table].kind in ("p", "v"):  # which has no rows of its own
            continue
        if table in did.rewritten:
            whole = size and size.heap + size.toast + size.indexes
            parts.append(Part("rewrites", table, whole))
        elif table in did.emptied:
            parts.append(Part("empties", table, 0))
        else:
            what = "indexes" if table in did.indexed else "reads"
            parts.append(Part(what, table, size and size.heap * times))
    return parts


def _of_rows(did: Did, there: There, sizes: Mapping[Name, Size], plan: Plan | None) -> list[Part]:
    """Return the rows that the target's planner expects; without it, all that there may be."""
    if not _changes_rows(did):
        return []
    if plan is not None:
        scans = [Part("reads", t, _heap(sizes, there, t)) for t in _numbers(there, plan.read)]
        tops = [there.top(table) for table in _numbers(there, plan.changed)]
        return [*(Part("changes", table, plan.rows) for table in tops[:1]), *scans]
    parts = []
    for table in changed(did, there):
        counted = [sizes.get(there.name(leaf)) for leaf in there.leaves(table)]
        rows = [size.rows for size in counted if size is not None and size.rows is not None]
        known = len(rows) == len(counted) and did.kind != "INSERT"
        parts.append(Part("changes", table, sum(rows) if known else None, most=known))
    return parts


def _numbers(there: There, names: Collection[Name]) -> list[int]:
    return [there.numbers[name] for name in names if name in there.numbers]


def _heap(sizes: Mapping[Name, Size], there: There, table: int) -> int | None:
    size = sizes.get(there.name(table))
    return size and size.heap


def _changes_rows(did: Did) -> bool:
    """Return whether it changes rows of tables that were there, as far as that can be told."""
    if did.kind in _OPAQUE:
        return any(lock.mode == "ROW EXCLUSIVE" for lock in did.locks)
    if did.kind == "INSERT":
        return bool(_OF_A_QUERY.search(did.text))
    return bool(_ROWS.match(did.head)) or (did.kind == "WITH" and bool(_ROWS.search(did.head)))


def changed(did: Did, there: There) -> list[int]:
    """Return the tables whose rows a statement changes: newly locked for that, or named in it."""
    found = {
        lock.relation for lock in did.locks if lock.mode == "ROW EXCLUSIVE" and not lock.of_index
    }
    for named in _TABLE.findall(did.head):
        parts = [
            p[1:-1] if p[0] == '"' else p.lower() for p in re.findall(r'"[^"]+"|[\w$]+', named)
        ]
        schemas = parts[:1] if parts[1:] else did.path
        found |= set(_numbers(there, [(schema, parts[-1]) for schema in schemas])[:1])
    return sorted({there.top(table) for table in found})
