"""The catalog of a database → its tables and views, their columns, and the types of these.

What belongs to an extension is not the project's; partitions have the rows of their table.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from ..server import ours
from ..server.ours import Connection

_RELATIONS = """
SELECT c.oid, n.nspname::pg_catalog.text, c.relname::pg_catalog.text, c.relkind::pg_catalog.text,
       coalesce(pg_catalog.obj_description(c.oid, 'pg_class'), '')
FROM pg_catalog.pg_class AS c
JOIN pg_catalog.pg_namespace AS n ON n.oid OPERATOR(pg_catalog.=) c.relnamespace
WHERE c.relkind OPERATOR(pg_catalog.=) ANY (ARRAY['r', 'p', 'f', 'v', 'm']::pg_catalog."char"[])
  AND NOT c.relispartition
  AND n.nspname OPERATOR(pg_catalog.<>) 'information_schema'
  AND n.nspname OPERATOR(pg_catalog.!~) '^pg_'
  AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend AS d
                  WHERE d.classid OPERATOR(pg_catalog.=) 'pg_catalog.pg_class'::pg_catalog.regclass
                    AND d.objid OPERATOR(pg_catalog.=) c.oid
                    AND d.deptype OPERATOR(pg_catalog.=) 'e')"""
# Of a NOT NULL that is NOT VALID (PostgreSQL 18), old rows may know nothing.
_COLUMNS = """
SELECT a.attrelid, a.attname::pg_catalog.text, a.atttypid, a.attnotnull,
       a.attnotnull AND NOT EXISTS (
           SELECT FROM pg_catalog.pg_constraint AS k
           WHERE k.conrelid OPERATOR(pg_catalog.=) a.attrelid
             AND k.contype OPERATOR(pg_catalog.=) 'n' AND NOT k.convalidated
             AND k.conkey OPERATOR(pg_catalog.=) ARRAY[a.attnum]),
       (a.atthasdef AND a.attgenerated OPERATOR(pg_catalog.=) '')
           OR a.attidentity OPERATOR(pg_catalog.<>) '' OR t.typdefault IS NOT NULL,
       a.attgenerated OPERATOR(pg_catalog.<>) '',
       coalesce(pg_catalog.col_description(a.attrelid, a.attnum), '')
FROM pg_catalog.pg_attribute AS a
JOIN pg_catalog.pg_type AS t ON t.oid OPERATOR(pg_catalog.=) a.atttypid
WHERE a.attrelid OPERATOR(pg_catalog.=) ANY (%s::pg_catalog.oid[])
  AND a.attnum OPERATOR(pg_catalog.>) 0 AND NOT a.attisdropped
ORDER BY a.attrelid, a.attnum"""
_TYPES = """
WITH RECURSIVE used (oid) AS (
    SELECT given FROM pg_catalog.unnest(%s::pg_catalog.oid[]) AS given
    UNION
    SELECT more.oid FROM used
    JOIN pg_catalog.pg_type AS t ON t.oid OPERATOR(pg_catalog.=) used.oid
    CROSS JOIN LATERAL (VALUES (t.typbasetype), (t.typelem)) AS more (oid)
    WHERE more.oid OPERATOR(pg_catalog.<>) 0
)
SELECT t.oid, n.nspname::pg_catalog.text, t.typname::pg_catalog.text, t.typtype::pg_catalog.text,
       t.typbasetype, coalesce(e.oid, 0),
       ARRAY(SELECT l.enumlabel::pg_catalog.text FROM pg_catalog.pg_enum AS l
             WHERE l.enumtypid OPERATOR(pg_catalog.=) t.oid ORDER BY l.enumsortorder),
       coalesce(pg_catalog.obj_description(t.oid, 'pg_type'), '')
FROM used
JOIN pg_catalog.pg_type AS t ON t.oid OPERATOR(pg_catalog.=) used.oid
JOIN pg_catalog.pg_namespace AS n ON n.oid OPERATOR(pg_catalog.=) t.typnamespace
LEFT JOIN pg_catalog.pg_type AS e ON e.typarray OPERATOR(pg_catalog.=) t.oid"""


class Column(NamedTuple):
    """A column. `required`: an insert may not leave it NULL; `filled`: no row has NULL."""

    name: str
    type: int  # its number
    required: bool
    filled: bool
    has_default: bool
    generated: bool
    comment: str


class Relation(NamedTuple):
    """A table or view. `kind` is pg_class's letter for it."""

    schema: str
    name: str
    kind: str
    comment: str
    columns: tuple[Column, ...]

    @property
    def is_view(self) -> bool:
        return self.kind in ("v", "m")

    @property
    def keeps_rows(self) -> bool:
        """Return whether the server holds its rows to NOT NULL; of a foreign table it does not."""
        return self.kind in ("r", "p")


class Type(NamedTuple):
    """A type. `kind` is pg_type's letter; `base` is a domain's, `element` an array's."""

    schema: str
    name: str
    kind: str
    base: int
    element: int
    labels: tuple[str, ...]
    comment: str

    @property
    def has_labels(self) -> bool:
        """Return whether it is an enum, of which there are values."""
        return self.kind == "e" and bool(self.labels)


class Catalog(NamedTuple):
    """What is there, in an order that does not depend on when it was made."""

    first: str  # the schema whose names stand alone
    relations: tuple[Relation, ...]
    types: Mapping[int, Type]


def read(conn: Connection, first: str, without: Sequence[tuple[str, str]]) -> Catalog:
    """Return the catalog of the database, `without` these (schema, name). Reads only."""
    found = [row for row in ours.ask(conn, _RELATIONS) if (row[1], row[2]) not in without]
    found.sort(key=lambda row: (row[1] != first, row[1], row[2]))
    columns: dict[int, list[Column]] = {row[0]: [] for row in found}
    for relation, *column in ours.ask(conn, _COLUMNS, [_numbers(columns)]):
        columns[relation].append(Column(*column))
    used = {column.type for each in columns.values() for column in each}
    found_types = ours.ask(conn, _TYPES, [_numbers(used)])
    types = {
        number: Type(schema, name, kind, base, element, tuple(labels), comment)
        for number, schema, name, kind, base, element, labels, comment in found_types
    }
    relations = tuple(
        Relation(schema, name, kind, comment, tuple(columns[number]))
        for number, schema, name, kind, comment in found
    )
    return Catalog(first, relations, types)


def _numbers(found: Iterable[int]) -> str:
    """Return an array as a text: as a list it would be cast to a type without its schema."""
    return f"{{{','.join(map(str, sorted(found)))}}}"
