"""A schema as objects, each with the SQL that pg_dump makes it with; and where two differ."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from difflib import SequenceMatcher
from typing import NamedTuple

from ..engine import ledger
from ..engine.place import Ledger
from ..events import Difference
from ..server import pg_dump
from ..server.connection import Target
from ..server.ours import Connection

PRIVILEGES = ("ACL", "DEFAULT ACL")
_NAME = re.compile(
    r"-- Name: (.*); Type: ([A-Z ]+); Schema: (.*); Owner: -(?:; Tablespace: .*)?", re.DOTALL
)
# A subscription is seen by superusers only; where on a disk a table is, is the server's matter.
_WITHOUT = ("--schema-only", "--no-subscriptions", "--no-tablespaces")
_METHOD = re.compile(rb"SET default_table_access_method = (.*);")
# Others than its role and superusers do not see what it holds, such as a password.
_MAPPING = re.compile(r" OPTIONS \(.*\)(?=;)", re.DOTALL)
# Between the items of a CREATE TABLE, as pg_dump writes them, and between statements.
_ITEMS = re.compile(r",\n    |\(\n    |\n\)|;\n")
_UNORDERED = {"TABLE", "FOREIGN TABLE", "TYPE"}
# What the server keeps as it was said: there is no expression in it.
_AS_SAID = {*PRIVILEGES, "COMMENT", "DATABASE SETTING", "EXTENSION", "FK CONSTRAINT",
            "ROLE SETTING", "SEQUENCE"}  # fmt: skip
# What no expression of another object refers to.
_APART = {*PRIVILEGES, "COMMENT", "FK CONSTRAINT", "INDEX", "INDEX ATTACH", "POLICY",
          "PUBLICATION", "PUBLICATION TABLE", "ROW SECURITY", "STATISTICS", "TRIGGER"}  # fmt: skip
# What may hold a password is never shown.
_SECRET = {"SERVER", "FOREIGN DATA WRAPPER"}
_SETTINGS = {"DATABASE SETTING", "ROLE SETTING"}
THE_SERVERS = ", which the server brings"  # behind an extension's version


class Object(NamedTuple):
    """An object as pg_dump names it. `schema` is empty for what is in none."""

    kind: str
    schema: str
    name: str

    def __str__(self) -> str:
        place = f"{self.schema}." if self.schema else ""
        return f"{self.kind} {place}{self.name}"


def dumped(
    target: Target, conn: Connection, book: Ledger, *, state: str, role: str = ""
) -> dict[Object, str]:
    """Return the objects of a database but the ledger's, as the transaction of `conn` sees it.

    Raise `MigrationsError` if pg_dump fails; `state` is what became of the command then. `role`:
    that of the files.
    """
    return parted(text(target, conn, book, state=state, role=role))


def text(
    target: Target, conn: Connection, book: Ledger | None, *, state: str, role: str = ""
) -> bytes:
    """Return what pg_dump writes about the database. Raise as `dumped` does."""
    names = ledger.relations(conn, book) if book else []
    without = [f"--exclude-table={name}" for name in names]
    return pg_dump.run(target, conn, *_WITHOUT, *without, state=state, role=role)


def stands_apart(said: pg_dump.Said, kinds: Collection[str]) -> bool:
    """Return whether a statement of a dump says nothing about how objects of these kinds are."""
    kind = _object(said.name.decode(errors="replace")).kind
    return kind in _APART and kind not in kinds


def parted(dump: bytes) -> dict[Object, str]:
    """Return what a dump makes, object by object, with the statements of each."""
    entries: list[tuple[Object, list[str]]] = []
    method = "heap"
    for said in pg_dump.statements(dump):
        found = _METHOD.fullmatch(said.sql)
        if found:
            method = found[1].decode()
        if said.named_here:
            entries.append((_object(said.name.decode(errors="replace")), []))
        if not entries or said.found.kind == "SET":
            continue
        key, statements = entries[-1]
        statements.append(said.sql.decode(errors="replace"))
        if method != "heap" and statements[0].startswith(("CREATE TABLE", "CREATE UNLOGGED")):
            statements[0] = statements[0].removesuffix(";") + f"\nUSING {method};"
    objects: dict[Object, list[str]] = {}
    for key, statements in entries:
        objects.setdefault(key, []).append(_settled(key.kind, statements))
    # Operators of one name have one name, whatever they take: in an order that is always the same.
    return {key: "\n".join(sorted(texts)) for key, texts in objects.items()}


def _object(comment: str) -> Object:
    parts = _NAME.fullmatch(comment)
    if not parts:
        return Object("", "", comment)
    return Object(parts[2], "" if parts[3] == "-" else parts[3], parts[1])


def _settled(kind: str, statements: list[str]) -> str:
    """Return the statements as one text, whoever looks, and whichever of them came first."""
    if kind in PRIVILEGES:
        return "\n".join(sorted(statements))
    said = "\n".join(statements)
    return _MAPPING.sub("", said) if kind == "USER MAPPING" else said


def compare(
    expected: Mapping[Object, str],
    found: Mapping[Object, str],
    *,
    without: Collection[str] = (),
) -> list[Difference]:
    """Return where two schemas differ, by the objects' schemas and names. `without`: kinds."""
    keys = sorted(expected.keys() | found.keys(), key=lambda k: (k.schema, k.name, k.kind))
    pairs = ((key, expected.get(key, ""), found.get(key, "")) for key in keys)
    return [
        _difference(key, *pair)
        for key, *pair in pairs
        if key.kind not in without and not _same(key.kind, *pair)
    ]


def _same(kind: str, one: str, other: str) -> bool:
    if one == other:
        return True
    if kind != "EXTENSION":
        return False
    both = [text.removesuffix(THE_SERVERS) for text in (one, other)]
    if one.endswith(THE_SERVERS) and other.endswith(THE_SERVERS):
        # Two servers may bring two versions, and nobody has asked for one.
        both = [text.rpartition("\n")[0] for text in both]
    return both[0] == both[1]


def _difference(key: Object, expected: str, found: str) -> Difference:
    state = "differs"
    if not (expected and found):
        state = "missing" if expected else "unexpected"
    elif key.kind in _UNORDERED and "AS ENUM" not in expected and _in_order(expected, found):
        state = "order"
    one, other = _lines(expected), _lines(found)
    if key.kind in _SECRET or (key.kind in _SETTINGS and "." in key.name):
        one, other = (["(not shown)"] if lines else [] for lines in (one, other))
    elif state in ("differs", "order"):
        one, other = _differing(one, other)
    return Difference(key.kind, key.schema, key.name, state, tuple(one), tuple(other))


def may_be_spelling(difference: Difference) -> bool:
    """Return whether both may be the same, by expressions that two servers write in two ways."""
    return difference.state == "differs" and difference.kind not in _AS_SAID


def _in_order(one: str, other: str) -> bool:
    """Return whether two texts have the same columns and constraints, in whatever order."""
    return sorted(_ITEMS.split(one)) == sorted(_ITEMS.split(other))


def _lines(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.strip()]


def _differing(one: list[str], other: list[str]) -> tuple[list[str], list[str]]:
    """Return the lines that only one of the two has; if all are there, those that have moved."""
    plain = [[line.rstrip(",") for line in lines] for lines in (one, other)]
    left, right = (Counter(lines) for lines in plain)
    only = (list(_among(plain[0], left - right)), list(_among(plain[1], right - left)))
    if any(only):
        return only
    moved: tuple[list[str], list[str]] = ([], [])
    for tag, a, b, c, d in SequenceMatcher(None, plain[0], plain[1], autojunk=False).get_opcodes():
        if tag != "equal":
            moved[0].extend(plain[0][a:b])
            moved[1].extend(plain[1][c:d])
    return moved


def _among(lines: list[str], wanted: Counter[str]) -> Iterator[str]:
    for line in lines:
        if wanted[line] > 0:
            wanted[line] -= 1
            yield line
