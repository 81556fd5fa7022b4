"""How large the target's tables are, and how many rows its planner expects a statement to change.

All of it is asked in read-only transactions with a short lock_timeout. No row is read.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

import psycopg

from ..server import ours
from ..server.ours import Connection
from .measured import Did

_LOCK_MS = 200
Name = tuple[str, str]  # schema and table

_AMONG = """
EXISTS (SELECT FROM ROWS FROM (pg_catalog.unnest(%s::pg_catalog.name[]),
                               pg_catalog.unnest(%s::pg_catalog.name[])) AS w (schema, name)
        WHERE w.schema OPERATOR(pg_catalog.=) n.nspname
          AND w.name OPERATOR(pg_catalog.=) c.relname)"""
# Who plans a query on a table calls, with rights of his own, what its indexes and the like call.
_CALLS_OTHERS = """
EXISTS (SELECT FROM pg_catalog.pg_depend AS uses
        JOIN pg_catalog.pg_depend AS has ON has.classid OPERATOR(pg_catalog.=) uses.classid
         AND has.objid OPERATOR(pg_catalog.=) uses.objid
        WHERE has.refclassid OPERATOR(pg_catalog.=) 'pg_catalog.pg_class'::pg_catalog.regclass
          AND has.refobjid OPERATOR(pg_catalog.=) c.oid
          AND has.classid OPERATOR(pg_catalog.=) ANY (
              ARRAY['pg_catalog.pg_class', 'pg_catalog.pg_constraint',
                    'pg_catalog.pg_statistic_ext']::pg_catalog.regclass[])
          AND uses.refclassid OPERATOR(pg_catalog.=) ANY (
              ARRAY['pg_catalog.pg_proc', 'pg_catalog.pg_operator']::pg_catalog.regclass[]))"""
# What the last VACUUM or ANALYZE has counted.
_COUNTED = f"""
SELECT n.nspname, c.relname, c.relpages::pg_catalog.int8 OPERATOR(pg_catalog.*) block.size,
       coalesce(t.relpages, 0)::pg_catalog.int8 OPERATOR(pg_catalog.*) block.size,
       (SELECT coalesce(pg_catalog.sum(ic.relpages), 0)::pg_catalog.int8
               OPERATOR(pg_catalog.*) block.size
        FROM pg_catalog.pg_index AS i
        JOIN pg_catalog.pg_class AS ic ON ic.oid OPERATOR(pg_catalog.=) i.indexrelid
        WHERE i.indrelid OPERATOR(pg_catalog.=) c.oid),
       c.reltuples::pg_catalog.float8,
       c.relkind OPERATOR(pg_catalog.=) ANY ('{{r,m}}'::pg_catalog."char"[])
           AND NOT {_CALLS_OTHERS}
FROM pg_catalog.pg_class AS c
JOIN pg_catalog.pg_namespace AS n ON n.oid OPERATOR(pg_catalog.=) c.relnamespace
LEFT JOIN pg_catalog.pg_class AS t ON t.oid OPERATOR(pg_catalog.=) c.reltoastrelid
CROSS JOIN (SELECT pg_catalog.current_setting('block_size')::pg_catalog.int8) AS block (size)
WHERE {_AMONG}"""
_OF_FILES = f"""
SELECT n.nspname, c.relname, pg_catalog.pg_relation_size(c.oid),
       CASE WHEN c.reltoastrelid OPERATOR(pg_catalog.=) 0 THEN 0
            ELSE pg_catalog.pg_relation_size(c.reltoastrelid) END,
       pg_catalog.pg_indexes_size(c.oid)
FROM pg_catalog.pg_class AS c
JOIN pg_catalog.pg_namespace AS n ON n.oid OPERATOR(pg_catalog.=) c.relnamespace
WHERE {_AMONG}"""
# Policies would be planned as well: where they hold for this role, it is an error.
_WHOLE = b"SET LOCAL row_security = off"
_ROWS = "EXPLAIN (FORMAT JSON) SELECT FROM ONLY {}"
# In the session that a file would be given: its names are the file's.
_THEIRS = b"BEGIN ISOLATION LEVEL READ COMMITTED READ ONLY"
_PATH = "SELECT pg_catalog.set_config('search_path', %s, true)"
_EXPLAINED = frozenset({"UPDATE", "DELETE", "INSERT", "MERGE", "WITH"})


class Size(NamedTuple):
    """Of one table, in bytes and rows. `rows` is None where nobody can tell."""

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
    counted, planned = dict[Name, Size](), list[Name]()
    rows = ours.ask(conn, _COUNTED, _listed(names), lock_timeout_ms=_LOCK_MS)
    for schema, name, heap, toast, indexes, tuples, has_rows in rows:
        counted[schema, name] = Size(heap, toast, indexes, int(tuples) if tuples > 0 else None)
        planned += [(schema, name)] if has_rows else []
    return {**counted, **_measured(conn, counted, planned)}


def _measured(
    conn: Connection, counted: Mapping[Name, Size], planned: Collection[Name]
) -> dict[Name, Size]:
    """Return what the files of tables say, and the planner, which knows how they have grown.

    All are asked at once; if that fails, each alone, and one that fails then is left out.
    """
    queries: list[ours.Query] = [(_WHOLE, ()), (_OF_FILES, _listed(counted))]
    queries += [(_ROWS.format(".".join(map(_quoted, name))), ()) for name in planned]
    try:
        files, *plans = ours.asks(conn, queries, lock_timeout_ms=_LOCK_MS)
    except psycopg.Error:
        alone = counted.items() if len(counted) > 1 else ()
        each = (_measured(conn, {n: size}, [n] if n in planned else []) for n, size in alone)
        return {name: size for found in each for name, size in found.items()}
    rows = {n: int(_tree(plan)["Plan Rows"]) for n, plan in zip(planned, plans, strict=True)}
    found = dict[Name, Size]()
    for schema, name, heap, toast, indexes in files:
        if heap is not None:  # it has not just been dropped
            known = rows.get((schema, name), counted[schema, name].rows)
            empty = not heap and (schema, name) in rows  # where the planner expects some pages
            found[schema, name] = Size(heap, toast, indexes, 0 if empty else known)
    return found


def _listed(names: Collection[Name]) -> list[list[str]]:
    return [[name[at] for name in names] for at in (0, 1)]


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
            found = cursor.fetchall()
    finally:
        conn.rollback()
    nodes = list(_nodes(_tree(found)))
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


def _tree(explained: Sequence[Sequence[Any]]) -> Mapping[str, Any]:
    found = explained[0][0]
    tree: Mapping[str, Any] = (json.loads(found) if isinstance(found, str | bytes) else found)[0]
    plan: Mapping[str, Any] = tree["Plan"]
    return plan


def _nodes(node: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    yield node
    for child in node.get("Plans", ()):
        yield from _nodes(child)


def _name(node: Mapping[str, Any]) -> Name:
    return node["Schema"], node["Relation Name"]


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
