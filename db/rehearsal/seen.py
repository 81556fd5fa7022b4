"""What a session holds and what its relations are like, asked between two statements of a file.

The question runs in the file's own transaction, whatever the file has set in it: so its names are
qualified, and its answer is ASCII, which no setting of the encoding changes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import NamedTuple

from .locks import spelled

_FIRST_OF_USERS = 16384  # FirstNormalObjectId: what is below came with the server
_LOCKS = f"""
SELECT pg_catalog.json_agg(pg_catalog.json_build_array(l.relation::pg_catalog.int8, l.mode,
                                                       l.granted))
FROM pg_catalog.pg_locks AS l WHERE l.pid OPERATOR(pg_catalog.=) {{pid}}
  AND l.locktype OPERATOR(pg_catalog.=) 'relation'
  AND l.relation::pg_catalog.int8 OPERATOR(pg_catalog.>=) {_FIRST_OF_USERS}
  AND l.database OPERATOR(pg_catalog.=) (
      SELECT d.oid FROM pg_catalog.pg_database AS d
      WHERE d.datname OPERATOR(pg_catalog.=) pg_catalog.current_database())"""
# Of an index its table, of a TOAST table and its index the one that it belongs to.
_RELATIONS = f"""
SELECT pg_catalog.json_agg(pg_catalog.json_build_array(
    c.oid::pg_catalog.int8, n.nspname, c.relname, c.relkind, c.relpersistence,
    pg_catalog.concat(c.relfilenode, ' ', c.reltablespace),
    coalesce(owner.oid, i.indrelid, c.oid)::pg_catalog.int8,
    CASE WHEN c.relispartition THEN pg_catalog.pg_partition_root(c.oid)::pg_catalog.int8 END,
    pg_catalog.pg_stat_get_xact_numscans(c.oid)))
FROM pg_catalog.pg_class AS c
JOIN pg_catalog.pg_namespace AS n ON n.oid OPERATOR(pg_catalog.=) c.relnamespace
LEFT JOIN pg_catalog.pg_index AS i ON i.indexrelid OPERATOR(pg_catalog.=) c.oid
LEFT JOIN pg_catalog.pg_class AS owner ON owner.reltoastrelid OPERATOR(pg_catalog.=)
     coalesce(i.indrelid, c.oid)
WHERE c.oid::pg_catalog.int8 OPERATOR(pg_catalog.>=) {_FIRST_OF_USERS}
  AND c.relkind OPERATOR(pg_catalog.<>) ALL ('{{{{c,S}}}}'::pg_catalog."char"[])"""
_HELD_ONLY = """
  AND EXISTS (SELECT FROM pg_catalog.pg_locks AS l
              WHERE l.pid OPERATOR(pg_catalog.=) pg_catalog.pg_backend_pid()
                AND l.relation OPERATOR(pg_catalog.=) c.oid)"""
_ASKED = """
SELECT pg_catalog.encode(pg_catalog.convert_to(pg_catalog.json_build_object(
    'path', pg_catalog.current_schemas(true), 'locks', ({locks}), 'relations', ({relations})
)::pg_catalog.text, 'UTF8'), 'hex')"""


class Relation(NamedTuple):
    """A relation at one moment. `file` changes when it is written anew.

    `table`: the table that an index or a TOAST table belongs to, otherwise itself; `root`: the
    partitioned table at the top, None for what is no partition. `scans` so far, in the transaction.
    """

    oid: int
    schema: str
    name: str
    kind: str  # as in pg_class.relkind
    persistence: str
    file: str
    table: int
    root: int | None
    scans: int

    @property
    def is_index(self) -> bool:
        """Return whether it is an index, of a partitioned table as well."""
        return self.kind in ("i", "I")


class Seen(NamedTuple):
    """What was seen. `waits`: what is asked for and not granted yet."""

    path: tuple[str, ...]
    held: frozenset[tuple[int, str]]  # relation and mode
    waits: frozenset[tuple[int, str]]
    relations: Mapping[int, Relation]


def question(pid: int | None = None, *, everything: bool) -> bytes:
    """Return the query: of the session itself, or of the one with this pid.

    `everything`: all relations, and not only those that it has locked.
    """
    whose = "pg_catalog.pg_backend_pid()" if pid is None else str(pid)
    relations = _RELATIONS.format() + ("" if everything else _HELD_ONLY)
    return _ASKED.format(locks=_LOCKS.format(pid=whose), relations=relations).encode()


def answer(value: bytes | str | None) -> Seen:
    """Return what the query has found."""
    text = value.decode() if isinstance(value, bytes) else value or ""
    found = json.loads(bytes.fromhex(text))
    held, waits = set[tuple[int, str]](), set[tuple[int, str]]()
    for oid, mode, granted in found["locks"] or ():
        (held if granted else waits).add((int(oid), spelled(mode)))
    relations = {int(row[0]): Relation(*row) for row in found["relations"] or ()}
    return Seen(tuple(found["path"]), frozenset(held), frozenset(waits), relations)
