"""What was seen before a statement and after it -> what it did. No database."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

from ..errors import Location
from .locks import strength
from .seen import Relation, Seen

# Executed by a plan: what of a table it reads depends on the data, which the copy does not have.
PLANNED = frozenset({"SELECT", "WITH", "TABLE", "VALUES", "INSERT", "UPDATE", "DELETE", "MERGE"})
# By a plan or not, which the text does not tell; what it has locked like DDL it has read like that.
_OPAQUE = frozenset({"DO", "CALL", "EXECUTE", "SELECT", "WITH"})
_TRUNCATES = re.compile(rb"(?i)\btruncate\b")
_HEAD = 200
_LIKE_DDL = strength("SHARE UPDATE EXCLUSIVE")


class Lock(NamedTuple):
    """A lock that a statement has taken. `of_index`: it is on an index of the table."""

    relation: int
    mode: str
    of_index: bool = False


class Did(NamedTuple):
    """What one statement did to the tables that were there before the run, by their numbers.

    `transaction` counts those of the run; a statement `outside` is alone in its own.
    """

    filename: str
    location: Location
    kind: str
    text: bytes
    transaction: int
    outside: bool = False
    repeats: bool = False  # in batches, each a transaction
    path: tuple[str, ...] = ()  # where its unqualified names lead to
    locks: tuple[Lock, ...] = ()  # newly held
    released: frozenset[Lock] = frozenset()  # by a ROLLBACK TO
    read: frozenset[int] = frozenset()  # as a whole
    rewritten: frozenset[int] = frozenset()
    emptied: frozenset[int] = frozenset()
    indexed: frozenset[int] = frozenset()  # an index of it was built

    @property
    def head(self) -> str:
        """Return its beginning on one line, without comments."""
        text = re.sub(rb"/\*.*?\*/|--[^\n]*", b" ", self.text[: 4 * _HEAD], flags=re.DOTALL)
        return b" ".join(text.split()).decode(errors="replace")[:_HEAD]


class There:
    """The relations that were there before the run, and where each belongs."""

    def __init__(self, relations: Mapping[int, Relation], without: frozenset[int]) -> None:
        self.without = without
        self.relations = {
            oid: r
            for oid, r in relations.items()
            if r.persistence != "t" and r.table not in without and oid not in without
        }

        self.numbers = {self.name(oid): oid for oid in self.relations}

    def table(self, oid: int) -> int | None:
        """Return the table that a relation belongs to, if that was there before the run."""
        relation = self.relations.get(oid)
        return relation.table if relation and relation.table in self.relations else None

    def top(self, table: int) -> int:
        """Return the partitioned table that a partition is of, which people speak of; or itself."""
        root = self.relations[table].root
        return table if root not in self.relations or root is None else root

    def leaves(self, table: int) -> list[int]:
        """Return what holds the rows of a table: its partitions, or itself."""
        if self.relations[table].kind != "p":
            return [table]
        parts = (o for o, r in self.relations.items() if r.root == table and r.kind == "r")
        return sorted(parts)

    def name(self, oid: int) -> tuple[str, str]:
        """Return schema and name of a relation as they were before the run."""
        return self.relations[oid].schema, self.relations[oid].name


def did(base: Did, before: Seen, after: Seen, there: There) -> Did:
    """Return what a statement did. `base`: which one it is."""
    held = _locks(before, there)
    now = _locks(after, there)
    changed = {
        oid
        for oid, relation in after.relations.items()
        if oid in there.relations
        and oid in before.relations
        and before.relations[oid].file != relation.file
    }
    rewritten = {oid for oid in changed if there.relations[oid].table == oid}
    emptied = rewritten if _TRUNCATES.search(base.text) else set()
    rewritten = rewritten - emptied
    read = {
        table
        for oid, relation in after.relations.items()
        if (table := there.table(oid)) is not None
        and relation.scans > (before.relations[oid].scans if oid in before.relations else 0)
        and oid in there.relations
    }
    if base.kind in PLANNED | _OPAQUE:
        read &= {lock.relation for lock in now if strength(lock.mode) >= _LIKE_DDL}
    if base.kind in PLANNED - _OPAQUE:
        read = set()
    built = {
        relation.table
        for oid, relation in after.relations.items()
        if relation.is_index
        and relation.schema != "pg_toast"
        and (oid not in before.relations or oid in changed)
        and relation.table in there.relations
    }
    return base._replace(
        locks=tuple(sorted(now - held, key=lambda lock: -strength(lock.mode))),
        released=frozenset(held - now),
        read=frozenset(read - emptied | rewritten),
        rewritten=frozenset(rewritten),
        emptied=frozenset(emptied),
        indexed=frozenset(built - rewritten - emptied),
    )


def _locks(seen: Seen, there: There) -> set[Lock]:
    """Return the locks on tables that were there, and on their indexes; TOAST tables follow."""
    found = set()
    for oid, mode in seen.held | seen.waits:
        relation, table = there.relations.get(oid), there.table(oid)
        if relation is not None and table is not None and relation.kind != "t":
            found.add(Lock(table, mode, relation.is_index))
    return found
