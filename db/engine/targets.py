"""What a statement is about, asked of the catalog: by number, so that no name is read twice.

The names of a statement are resolved once, in the file's own session, as the server reads them:
folded, cut to 63 bytes, looked up on the file's search_path.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from ..server import watch
from ..server.pipeline import Command
from ..sql.kinds import IndexTarget
from .resume import DETACH, REINDEX, Index

_Rows = Sequence[Sequence["bytes | None"]]

_RESOLVE = b"""
SELECT pg_catalog.to_regclass($1)::pg_catalog.oid, pg_catalog.encode(pg_catalog.convert_to(
    (pg_catalog.parse_ident($2))[1]::pg_catalog.name::pg_catalog.text, 'UTF8'), 'hex')"""
# An index being built is INVALID as well; its builder holds this lock on the table meanwhile.
_INDEX = """
SELECT c.oid, pg_catalog.format('%I.%I', n.nspname, c.relname), coalesce(i.indisvalid, true),
       coalesce({ours}, false),
       EXISTS (SELECT FROM pg_catalog.pg_locks AS l
               JOIN pg_catalog.pg_stat_activity AS a ON a.pid OPERATOR(pg_catalog.=) l.pid
               WHERE l.relation OPERATOR(pg_catalog.=) i.indrelid
                 AND l.mode OPERATOR(pg_catalog.=) 'ShareUpdateExclusiveLock'
                 AND coalesce(a.backend_type OPERATOR(pg_catalog.=) 'client backend', true)
                 AND l.pid OPERATOR(pg_catalog.<>) pg_catalog.pg_backend_pid()
                 AND a.datname OPERATOR(pg_catalog.=) pg_catalog.current_database()),
       coalesce(pg_catalog.pg_get_indexdef(i.indexrelid), 'not an index')
FROM pg_catalog.pg_class AS c
JOIN pg_catalog.pg_namespace AS n ON n.oid OPERATOR(pg_catalog.=) c.relnamespace
LEFT JOIN pg_catalog.pg_index AS i ON i.indexrelid OPERATOR(pg_catalog.=) c.oid
"""
_BY_NAME = (
    _INDEX.format(ours="i.indrelid OPERATOR(pg_catalog.=) $1::pg_catalog.oid")
    + """
JOIN pg_catalog.pg_class AS t ON t.relnamespace OPERATOR(pg_catalog.=) c.relnamespace
WHERE t.oid OPERATOR(pg_catalog.=) $1::pg_catalog.oid
  AND c.relname OPERATOR(pg_catalog.=) $2::pg_catalog.name"""
)
_LEFTOVERS = (
    _INDEX.format(ours="true")
    + """
WHERE NOT i.indisvalid AND c.relname OPERATOR(pg_catalog.~) '_cc(new|old)[0-9]*$'"""
)
# Of the tables that a REINDEX goes over, and of their TOAST tables, which it takes along.
_OF_TABLES = """
  AND EXISTS (SELECT FROM pg_catalog.pg_class AS t
              WHERE (i.indrelid OPERATOR(pg_catalog.=) t.oid
                     OR i.indrelid OPERATOR(pg_catalog.=) t.reltoastrelid) AND {these})"""
_LEFT_IN_SCHEMA = _LEFTOVERS + _OF_TABLES.format(
    these="t.relnamespace OPERATOR(pg_catalog.=) $1::pg_catalog.oid"
)
_LEFT_OF_RELATION = _LEFTOVERS + _OF_TABLES.format(
    these="""t.oid OPERATOR(pg_catalog.=) ANY (
        SELECT coalesce(x.indrelid, named.oid)
        FROM (SELECT $1::pg_catalog.oid UNION
              SELECT p.relid::pg_catalog.oid
              FROM pg_catalog.pg_partition_tree($1::pg_catalog.oid::pg_catalog.regclass) AS p
             ) AS named (oid)
        LEFT JOIN pg_catalog.pg_index AS x ON x.indexrelid OPERATOR(pg_catalog.=) named.oid)"""
)
_SCHEMA = b"SELECT pg_catalog.to_regnamespace($1)::pg_catalog.oid"
# The column came with the command.
_ATTACHED = b"""
SELECT pg_catalog.format(
    CASE WHEN pg_catalog.jsonb_object_field_text(
        pg_catalog.to_jsonb(i), 'inhdetachpending')::pg_catalog.bool
    THEN 'ALTER TABLE %I.%I DETACH PARTITION %I.%I FINALIZE' ELSE '' END,
    pn.nspname, p.relname, cn.nspname, c.relname)
FROM pg_catalog.pg_inherits AS i
JOIN pg_catalog.pg_class AS p ON p.oid OPERATOR(pg_catalog.=) i.inhparent
JOIN pg_catalog.pg_namespace AS pn ON pn.oid OPERATOR(pg_catalog.=) p.relnamespace
JOIN pg_catalog.pg_class AS c ON c.oid OPERATOR(pg_catalog.=) i.inhrelid
JOIN pg_catalog.pg_namespace AS cn ON cn.oid OPERATOR(pg_catalog.=) c.relnamespace
WHERE i.inhrelid OPERATOR(pg_catalog.=) $1::pg_catalog.oid"""
_GONE = b"""
SELECT NOT EXISTS (SELECT FROM pg_catalog.pg_class AS c
                   WHERE c.oid OPERATOR(pg_catalog.=) $1::pg_catalog.oid)"""
# A session is known by its name, and a statement by the comment before it: a pooler's sessions have
# other names, or keep one. What it executes is hidden from other roles, but not that it does.
_ALIVE = b"""
SELECT EXISTS (
    SELECT FROM pg_catalog.pg_stat_activity AS a
    WHERE a.datname OPERATOR(pg_catalog.=) pg_catalog.current_database()
      AND a.pid OPERATOR(pg_catalog.<>) pg_catalog.pg_backend_pid()
      AND (pg_catalog.starts_with(a.application_name, $1)
           AND (NOT $2::pg_catalog.bool OR a.state OPERATOR(pg_catalog.<>) 'idle')
        OR a.state OPERATOR(pg_catalog.=) 'active' AND pg_catalog.starts_with(a.query, $3)
        OR a.state IS NULL AND a.pid OPERATOR(pg_catalog.=) $4::pg_catalog.int4
           AND EXISTS (SELECT FROM pg_catalog.pg_locks AS l
                       WHERE l.pid OPERATOR(pg_catalog.=) a.pid
                         AND l.locktype OPERATOR(pg_catalog.=) 'virtualxid')))"""

# A session and the number of its transaction, of which each gets the next one.
_BEGAN = b"""
SELECT l.virtualtransaction FROM pg_catalog.pg_locks AS l
WHERE l.pid OPERATOR(pg_catalog.=) pg_catalog.pg_backend_pid()
  AND l.virtualxid OPERATOR(pg_catalog.=) l.virtualtransaction"""


class Target(NamedTuple):
    """The relation that a statement names, by number, and the index's own name, where it has one.

    `existed`: what had that name already when the statement was announced, or was a partition.
    """

    relation: int | None = None
    name: str | None = None
    existed: int | None = None
    schema: int | None = None


def mark(run: str) -> bytes:
    """Return the comment by which others know whose statement it is that a server executes."""
    return f"{watch.mark(run)}*/ ".encode()


def began(about: object) -> Command:
    """Return the question which transaction of its session it is in."""
    return Command(_BEGAN, "began", about)


def commits(before: _Rows, after: _Rows) -> int | None:
    """Return how often a statement has committed that failed between two transactions of ours.

    Its own was the next one, and the second of ours the one behind that. None: it was not the same
    session, or the server does not say.
    """
    numbers = [(row[0] or b"").decode().split("/") for row in (*before, *after)]
    if len(numbers) != 2 or numbers[0][0] != numbers[1][0]:
        return None
    return max(0, int(numbers[1][1]) - int(numbers[0][1]) - 2)


def resolve(kind: str, named: IndexTarget, about: object) -> Command:
    """Return the question what the names mean, for a session as the file has it."""
    if named.schema is not None:
        return Command(_SCHEMA, "resolved", about, [named.schema.encode()])
    if kind == REINDEX:
        relation, name = named.name or named.table, None
    elif named.table is not None:
        relation, name = named.table, named.name
    else:
        relation, name = named.name, None
    params = [text.encode() if text else None for text in (relation, name)]
    return Command(_RESOLVE, "resolved", about, params)


def resolved(values: Sequence[bytes | None]) -> Target:
    """Return the answer."""
    if len(values) == 1:
        return Target(schema=int(values[0]) if values[0] else None)
    relation, name = values
    return Target(
        int(relation) if relation else None, bytes.fromhex(name.decode()).decode() if name else None
    )


def look(kind: str, named: IndexTarget, target: Target, about: object) -> Iterator[Command]:
    """Yield the questions what is there of it now."""
    if named.database:
        yield Command(_LEFTOVERS.encode(), "index", about)
    if target.schema is not None:
        yield Command(_LEFT_IN_SCHEMA.encode(), "index", about, [str(target.schema).encode()])
    if target.relation is None:
        return
    relation = str(target.relation).encode()
    yield Command(_GONE, "gone", about, [relation])
    if kind == REINDEX:
        yield Command(_LEFT_OF_RELATION.encode(), "index", about, [relation])
    elif kind == DETACH:
        yield Command(_ATTACHED, "attached", about, [relation])
    elif target.name is not None:
        yield Command(_BY_NAME.encode(), "index", about, [relation, target.name.encode()])


def index(values: Sequence[bytes | None]) -> Index:
    """Return one of the indexes that are there."""
    oid, name, valid, ours, building, definition = ((v or b"").decode() for v in values)
    return Index(int(oid), name, valid == "t", ours == "t", building == "t", definition)


def alive(run: str, pid: int | None, about: object, *, pooled: bool) -> Command:
    """Return the question whether the run that announced a statement, or its statement, goes on."""
    params = [run.encode(), b"t" if pooled else b"f", mark(run).rstrip(), str(pid or 0).encode()]
    return Command(_ALIVE, "alive", about, params)
