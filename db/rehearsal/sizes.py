"""How large the target's tables are, and how many rows its planner expects a statement to change.

All of it is asked in read-only transactions with a short lock_timeout. No row is read.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from typing import Any, NamedTuple

import psycopg

from ..server import ours
from ..server.ours import Connection
from .measured import Did

_LOCK_MS = 200
Name = tuple[str, str]  # schema and table

# What the last VACUUM or ANALYZE has counted; of a table that had none yet the files tell.
_COUNTED = """
SELECT n.nspname, c.relname, c.relpages::pg_catalog.int8 OPERATOR(pg_catalog.*) block.size,
       coalesce(t.relpages, 0)::pg_catalog.int8 OPERATOR(pg_catalog.*) block.size,
       (SELECT coalesce(pg_catalog.sum(ic.relpages), 0)::pg_catalog.int8
               OPERATOR(pg_catalog.*) block.size
        FROM pg_catalog.pg_index AS i
        JOIN pg_catalog.pg_class AS ic ON ic.oid OPERATOR(pg_catalog.=) i.indexrelid
        WHERE i.indrelid OPERATOR(pg_catalog.=) c.oid),
       c.reltuples::pg_catalog.float8
FROM pg_catalog.pg_class AS c
JOIN pg_catalog.pg_namespace AS n ON n.oid OPERATOR(pg_catalog.=) c.relnamespace
LEFT JOIN pg_catalog.pg_class AS t ON t.oid OPERATOR(pg_catalog.=) c.reltoastrelid
CROSS JOIN (SELECT pg_catalog.current_setting('block_size')::pg_catalog.int8) AS block (size)
WHERE EXISTS (
    SELECT FROM ROWS FROM (pg_catalog.unnest(%s::pg_catalog.name[]),
                           pg_catalog.unnest(%s::pg_catalog.name[])) AS w (schema, name)
    WHERE w.schema OPERATOR(pg_catalog.=) n.nspname AND w.name OPERATOR(pg_catalog.=) c.relname)"""
_OF_FILES = """
SELECT pg_catalog.pg_relation_size(c.oid),
       CASE WHEN c.reltoastrelid OPERATOR(pg_catalog.=) 0 THEN 0
            ELSE pg_catalog.pg_relation_size(c.reltoastrelid) END,
       pg_catalog.pg_indexes_size(c.oid)
FROM pg_catalog.pg_class AS c
JOIN pg_catalog.pg_namespace AS n ON n.oid OPERATOR(pg_catalog.=) c.relnamespace
WHERE n.nspname OPERATOR(pg_catalog.=) %s AND c.relname OPERATOR(pg_catalog.=) %s"""
# In the session that a file would be given: its names are the file's.
_THEIRS = b"BEGIN ISOLATION LEVEL READ COMMITTED READ ONLY"
_PATH = "SELECT pg_catalog.set_config('search_path', %s, true)"
_EXPLAINED = frozenset({"UPDATE", "DELETE", "INSERT", "MERGE", "WITH"})


class Size(NamedTuple):
    """Of one table, in bytes and rows. `rows` is None where nobody has counted them."""

    heap: int
    toast: int = 0
    indexes: int = 0
    rows: int | None = None


class Plan(NamedTuple):
    """What the target's planner expects of a statement."""

    rows: int  # changed
    changed: tuple[Name, ...]
    read: tuple[Name, ...]  # as a whole


def sizes(conn: Connection, names: Collection[Name]) -> dict[Name, Size]:
    """Return the sizes of those of the tables that the target has.

    Of a table that somebody has locked, and of one that this role must not look at, it is what the
    catalog has.
    """
    if not names:
        return {}
    schemas, tables = zip(*names, strict=True)
    rows = ours.ask(conn, _COUNTED, [list(schemas), list(tables)], lock_timeout_ms=_LOCK_MS)
    return {
        (schema, name): _measured(conn, (schema, name), Size(heap, toast, indexes, _count(tuples)))
        for schema, name, heap, toast, indexes, tuples in rows
    }


def _count(tuples: float) -> int | None:
    return int(tuples) if tuples > 0 else None


def _measured(conn: Connection, name: Name, counted: Size) -> Size:
    with suppress(psycopg.Error):
        found = ours.ask(conn, _OF_FILES, name, lock_timeout_ms=_LOCK_MS)
        if found and found[0][0] is not None:
            heap, toast, indexes = map(int, found[0])
            rows = counted.rows
            if rows is not None and counted.heap and heap:  # grown since it was counted
                rows = round(rows * heap / counted.heap)
            return Size(heap, toast, indexes, rows)
    return counted


def plans(conn: Connection, statements: Collection[Did]) -> Iterator[tuple[Did, Plan]]:
    """Yield what the target expects of each statement that changes rows, where it can plan it.

    It is planned and not executed. What refers to what a file has yet to make cannot be.
    """
    for did in statements:
        if did.kind in _EXPLAINED:
            with suppress(psycopg.Error):
                yield did, _plan(conn, did)


def _plan(conn: Connection, did: Did) -> Plan:
    conn.execute(_THEIRS)
    try:
        conn.execute(f"SET LOCAL lock_timeout = {_LOCK_MS}".encode())
        conn.execute(_PATH, [", ".join(map(_quoted, did.path))])
        # A parameter, though none, makes it the extended protocol: one statement and no other.
        with conn.cursor() as cursor:
            cursor.execute(b"EXPLAIN (VERBOSE, FORMAT JSON) " + did.text, binary=True)
            found: Any = cursor.fetchall()[0][0]
    finally:
        conn.rollback()
    tree = json.loads(found) if isinstance(found, str | bytes) else found
    nodes = list(_nodes(tree[0]["Plan"]))
    changes = [node for node in nodes if node["Node Type"] == "ModifyTable"]
    rows = sum(
        child["Plan Rows"]
        for node in changes
        for child in node.get("Plans", ())
        if child.get("Parent Relationship") in ("Outer", "Member")
    )
    return Plan(
        rows,
        tuple(_name(node) for node in changes if "Relation Name" in node),
        tuple(_name(node) for node in nodes if node["Node Type"] == "Seq Scan"),
    )


def _nodes(node: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    yield node
    for child in node.get("Plans", ()):
        yield from _nodes(child)


def _name(node: Mapping[str, Any]) -> Name:
    return node["Schema"], node["Relation Name"]


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
