"""A statement's words -> what it is. Bytes only: nothing here knows where a statement ends."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache
from itertools import islice, pairwise
from typing import NamedTuple

_COMMENT = re.compile(rb"/\*|\*/")
_PIECE = re.compile(
    rb"""\s*(?:(--[^\r\n]*)|(/\*)|((?:[eE]'[^'\\]*(?:\\.[^'\\]*)*'|'[^']*')
    |(?:[uU]&)?"[^"]*"(?:"[^"]*")*|(?P<tag>\$(?:[A-Za-z_\x80-\xff][\w\x80-\xff]*)?\$).*?(?P=tag)
    |[\w$\x80-\xff]+|\S))""",
    re.S | re.X,
)
_FIRST = re.compile(rb"[\s(]*([A-Za-z]+)(?![\w$\x80-\xff])")
_FEW, _MANY = 6, 32  # words: of commands whose kind is their first ones, and of the others

_NAME = r"""(?:(?:U&)?"(?:[^"]|"")*"(?: UESCAPE '.')?|[^\s"().,]+)"""
_NAMES = rf"{_NAME}(?: \. {_NAME})*"
_COPY = rf"COPY (?:BINARY )?(?:{_NAMES} )?"
_YES = r" \([^)]*\bCONCURRENTLY(?! (?:FALSE|OFF|0))"
# The first words of a command -> its kind; "" is these words themselves. Strings, as are the other
# patterns that few files need: `re` compiles them at their first use, and keeps them.
_KINDS = {
    "START": {"START TRANSACTION": "BEGIN"},
    "COMMIT": {"COMMIT PREPARED": ""},
    "END": {"END": "COMMIT"},
    "ROLLBACK": {"ROLLBACK PREPARED": "", r"ROLLBACK (?:\w+ )?TO": "ROLLBACK TO"},
    "ABORT": {"ABORT": "ROLLBACK"},
    "PREPARE": {"PREPARE TRANSACTION": ""},
    "DISCARD": {r"DISCARD \w+": ""},
    "SET": {
        "SET (?:(?:LOCAL|SESSION) )?TRANSACTION(?:_ISOLATION|_READ_ONLY|_DEFERRABLE)?":
            "SET TRANSACTION",
        "SET (?:LOCAL|CONSTRAINTS)": "",
    },
    "CREATE": {"CREATE (?:UNIQUE )?INDEX CONCURRENTLY": "CREATE INDEX CONCURRENTLY"},
    "DROP": {"DROP INDEX CONCURRENTLY": ""},
    "ALTER": {
        rf"ALTER TABLE (?:IF EXISTS )?(?:ONLY )?{_NAMES}(?: \*)? DETACH PARTITION {_NAMES} "
        "CONCURRENTLY": "ALTER TABLE DETACH PARTITION CONCURRENTLY",
        rf"ALTER DATABASE {_NAME} SET TABLESPACE": "ALTER DATABASE SET TABLESPACE",
    },
    "REINDEX": {
        rf"REINDEX(?:{_YES}| (?:\([^)]*\) )?\w+ CONCURRENTLY)": "REINDEX CONCURRENTLY",
        r"REINDEX (?:\([^)]*\) )?DATABASE": "REINDEX DATABASE",
        r"REINDEX (?:\([^)]*\) )?SYSTEM": "REINDEX SYSTEM",
        r"REINDEX (?:\([^)]*\) )?SCHEMA": "REINDEX SCHEMA",
    },
    "CLUSTER": {r"CLUSTER(?: VERBOSE)?(?: \([^)]*\))?$": "CLUSTER ALL"},
    "REPACK": {
        f"REPACK{_YES}": "REPACK CONCURRENTLY",
        r"REPACK(?: \([^)]*\))?(?: USING INDEX)?$": "REPACK ALL",
    },
    "COPY": {
        f"{_COPY}FROM (?:STDIN|STDOUT)": "COPY FROM STDIN",
        f"{_COPY}TO (?:STDIN|STDOUT)": "COPY TO STDOUT",
    },
}  # fmt: skip
_MODIFIER = (
    "(?:OR|REPLACE|GLOBAL|LOCAL|TEMP|TEMPORARY|UNLOGGED|UNIQUE|TRUSTED|RECURSIVE|CONSTRAINT)"
)
_OBJECT = re.compile(
    rf"(?i)(CREATE|ALTER|DROP) (?:{_MODIFIER} )*"
    r"((?:MATERIALIZED|FOREIGN|EVENT|ACCESS|DEFAULT) \w+|\w+)"
)
# What PostgreSQL's source calls PreventInTransactionBlock() for.
NOT_IN_TRANSACTION = frozenset(
    {"CREATE INDEX CONCURRENTLY", "DROP INDEX CONCURRENTLY", "REINDEX CONCURRENTLY",
     "REINDEX DATABASE", "REINDEX SYSTEM", "REINDEX SCHEMA", "VACUUM", "CLUSTER ALL",
     "REPACK ALL", "REPACK CONCURRENTLY", "ALTER TABLE DETACH PARTITION CONCURRENTLY",
     "ALTER SYSTEM", "CREATE DATABASE", "DROP DATABASE", "ALTER DATABASE SET TABLESPACE",
     "CREATE TABLESPACE", "DROP TABLESPACE", "DISCARD ALL", "COMMIT PREPARED",
     "ROLLBACK PREPARED"}
)  # fmt: skip
# ... and only with some of their options: the server decides, where a file leaves it the choice.
_SOMETIMES = frozenset({"CREATE SUBSCRIPTION", "ALTER SUBSCRIPTION", "DROP SUBSCRIPTION", "CALL"})
_COMMITS = re.compile(rb"(?i)\b(?:commit|rollback)\b")

_INDEX = (  # ON cannot be a name: it is a reserved word
    rf"(?i)CREATE (?:UNIQUE )?INDEX CONCURRENTLY (?:ON|(?:IF NOT EXISTS )?"
    rf"(?P<name>{_NAMES}) ON) (?:ONLY )?(?P<table>{_NAMES})"
    rf"|DROP INDEX CONCURRENTLY (?:IF EXISTS )?(?P<dropped>{_NAMES})"
    rf"|REINDEX (?:\([^)]*\) )?(?:INDEX (?:CONCURRENTLY )?(?P<index>{_NAMES})"
    rf"|TABLE (?:CONCURRENTLY )?(?P<of>{_NAMES})|SCHEMA (?:CONCURRENTLY )?(?P<schema>{_NAME})"
    r"|(?P<all>DATABASE|SYSTEM)(?!\w))"
    rf"|ALTER TABLE .*? DETACH PARTITION (?P<partition>{_NAMES}) CONCURRENTLY"
)
_SWITCH = re.compile(
    '(?i)SET (?:(?:LOCAL|SESSION) )?"?standard_conforming_strings"? (?:=|TO) \'?(?P<value>\\w+)'
)
_CHANGED = rf"(?i)(?:UPDATE|(?:INSERT|MERGE) INTO|DELETE FROM) (?:ONLY )?(?P<name>{_NAMES})"
_MOVES = {("(", "delete"), ("(", "update"), ("(", "merge")}
_READS = ("from", "join", "only", ",", ".", "table")  # what stands before a table that is read
_UNICODE = r"""(?i)U&("(?:[^"]|"")*")(?: UESCAPE '(.)')?"""

_ROWS = frozenset({"INSERT", "UPDATE", "DELETE", "MERGE"})

# pg_dump writes these, and what they mean holds anyway; every other psql command is refused.
_PASSED = re.compile(
    rb"\\(?:restrict|unrestrict)\b|\\\.|\\set[ \t]+ON_ERROR_STOP"
    rb"(?:[ \t]+'?(?i:on|1|true|yes)'?)?\s*$"
)
_INSTEAD = {
    r"\copy": r"Write COPY … FROM stdin; with the data on the lines below it, and \. at its end.",
    r"\i \ir \include \include_relative": "Put that SQL in a migration file of its own.",
    r"\c \connect": "Delete the line: the database is the one that DATABASE_URL names.",
    r"\unset": "Delete the line: psql variables are not expanded, so there is none to unset.",
    r"\set \gset \getenv \prompt": "psql variables are not expanded: write the value "
    "itself, or keep it in a DO block or a temporary table.",
    r"\gexec": "Use a DO block with EXECUTE format(…).",
    r"\if \elif \else \endif": "Use a DO block with IF … THEN … END IF.",
    r"\g \gx \; \gdesc \watch \crosstabview": "End the statement with ; instead.",
    r"\! \o \out \w": "Do it outside the migration: only SQL is executed.",
}


class IndexTarget(NamedTuple):
    """What a … CONCURRENTLY is about; names are as written, quotes included.

    `name`: of the index, or of a partition that is detached. `schema`, `database`: of a REINDEX.
    """

    name: str | None
    table: str | None
    schema: str | None = None
    database: bool = False


def kind(text: bytes, start: int = 0, end: int | None = None) -> str:
    """Return the command of the statement that starts there, as PostgreSQL names it.

    Without an `end` it is read up to the next `;`, and a COPY is only a COPY.
    """
    first = _FIRST.match(text, start)
    if not first:
        return ""
    word = _upper(first[1])
    if word not in _KINDS or (word == "COPY" and end is None):
        return word
    words = words_of(text, first.start(1), end)
    few = _FEW if word in ("CREATE", "DROP") else _MANY
    head = _joined(outermost(words) if word == "COPY" else words, few)
    for pattern, named in _KINDS[word].items():
        if found := re.match(rf"(?i){pattern}(?!\w)", head):
            return named or found[0].upper()
    made = _OBJECT.match(head)
    return f"{made[1]} {made[2]}".upper() if made else word


def is_passed(sql: bytes) -> bool:
    """Return whether a command of psql may be passed over."""
    return bool(_PASSED.match(sql))


def instead(command: str, otherwise: str) -> str:
    """Return what to do instead of a command of psql."""
    known = (advice for commands, advice in _INSTEAD.items() if command in commands.split())
    return next(known, otherwise)


def modes(begin: bytes) -> bytes:
    """Return the modes that a BEGIN names."""
    opened = r"(?i)^(BEGIN( WORK| TRANSACTION)?|START TRANSACTION) ?"
    return re.sub(opened, "", _joined(words_of(begin))).encode()


def chains(commit: bytes) -> bool:
    """Return whether a COMMIT begins the next transaction."""
    return bool(re.search("(?i) AND CHAIN", _joined(words_of(commit))))


def needs_outside(sql: bytes, kind: str) -> bool:
    """Return whether a statement has to run outside a transaction, or may have to."""
    if kind == "DO":  # a block may commit as it goes; a procedure always may
        return bool(_COMMITS.search(sql))
    return kind in NOT_IN_TRANSACTION or kind in _SOMETIMES


def rewrites(sql: bytes) -> bool:
    """Return whether a VACUUM is a VACUUM FULL."""
    full = r"(?i)VACUUM (?:FULL|\([^)]*\bFULL(?! '?(?:FALSE|OFF|0)))(?!\w)"
    return bool(re.match(full, _joined(words_of(sql))))


def concurrent_index(sql: bytes) -> IndexTarget | None:
    """Return what a … INDEX or DETACH PARTITION … CONCURRENTLY is about; None if it is neither."""
    if not kind(sql, 0, len(sql)).endswith(("INDEX CONCURRENTLY", "PARTITION CONCURRENTLY")):
        return None
    found = re.match(_INDEX, _joined(words_of(sql)))
    if not found:
        return IndexTarget(None, None)
    name = found["name"] or found["dropped"] or found["index"] or found["partition"]
    table, schema = found["table"] or found["of"], found["schema"]
    name, table, schema = (text and _plain(text) for text in (name, table, schema))
    return IndexTarget(name, table, schema, bool(found["all"]))


def changed(sql: bytes) -> tuple[str, str | None]:
    """Return what a statement does behind its WITH, and the table that it changes, as written.

    Such as ("UPDATE", "app.contacts"); no table for a SELECT.
    """
    words = [word.decode(errors="replace") for word in outermost(words_of(sql))]
    starts = (n for n, word in enumerate(words) if word.upper() in _ROWS | {"SELECT", "VALUES"})
    head = " ".join(words[next(starts, 0) :][:_MANY])
    found = re.match(_CHANGED, head)
    name = found["name"] if found else None
    return head.split(" ")[0].upper(), name and _plain(name)


def changed_within(sql: bytes) -> Iterator[tuple[str, str]]:
    """Yield what the UPDATEs, MERGEs and DELETEs in a WITH change, as `changed()` does."""
    words = [word.decode(errors="replace") for word in words_of(sql)]
    for n, word in enumerate(words):
        if words[n - 1] == "(" and word.upper() in ("UPDATE", "MERGE", "DELETE"):
            found = re.match(_CHANGED, " ".join(words[n : n + _MANY]))
            if found:
                yield word.upper(), _plain(found["name"])


def skips_locked(sql: bytes) -> bool:
    """Return whether a statement passes over rows that others have locked."""
    return b" SKIP LOCKED " in b" %s " % b" ".join(words_of(sql)).upper()


def inserts_again(sql: bytes, table: str) -> bool:
    """Return whether nothing in an INSERT tells what it has inserted into the table before.

    That tells: a DELETE, UPDATE or MERGE in its WITH, what reads the table, and an ON CONFLICT that
    does nothing, or not each time.
    """
    words = [word.decode(errors="replace").strip('"').lower() for word in words_of(sql)]
    last = re.split(r"\.", table)[-1].strip('"').lower()
    pairs = list(pairwise(words))
    if any(pair in pairs for pair in _MOVES):
        return False
    if ("do", "update") in pairs:
        at = pairs.index(("do", "update"))
        if b"where" in outermost(word.encode() for word in words[at:]):
            return False
    elif "conflict" in words:
        return False
    if last not in words:  # written as U&"…"
        return True
    into = words.index(last, words.index("into"))  # which is no reading, also behind a schema's .
    return not any(
        (before, last) in pairwise(words[:into] + words[into + 1 :]) for before in _READS
    )


def sets_blindly(sql: bytes) -> bool:
    """Return whether an UPDATE sets columns that nothing behind its SET names."""
    words = [word.decode(errors="replace").strip('"').lower() for word in words_of(sql)]
    if not words or words[0] != "update" or {"delete", "insert", "merge"} & set(words):
        return False
    depth, columns, at = 0, set[str](), len(words)
    for n, word in enumerate(words[:-1]):
        depth += (word == "(") - (word == ")")
        if not depth and word in ("where", "from"):
            at = n
            break
        if not depth and words[n - 1] in ("set", ",") and words[n + 1] == "=":
            columns.add(word)
    return bool(columns) and not columns & set(words[at:])


def switches(sql: bytes) -> bool | None:
    """Return what a SET sets standard_conforming_strings to; None if it is about something else."""
    found = _SWITCH.match(_joined(words_of(sql)))
    return found and not re.match("(?i)of|f|n|0", found["value"])


def escapes(sql: bytes) -> bool:
    r"""Return whether a plain string has a \ before a ': it does not end there for a server with
    standard_conforming_strings = off."""
    return b"\\'" in sql and any(w[:1] == b"'" and b"\\'" in w for w in words_of(sql))


def copies_from(sql: bytes) -> bool:
    """Return whether a COPY reads into a table."""
    return bool(re.match(rf"(?i){_COPY}FROM\b", _joined(outermost(words_of(sql)))))


@lru_cache(1000)
def _upper(word: bytes) -> str:
    return word.decode().upper()


def _joined(words: Iterator[bytes], many: int = _MANY) -> str:
    return b" ".join(islice(words, many)).decode(errors="replace")


def words_of(text: bytes, pos: int = 0, end: int | None = None) -> Iterator[bytes]:
    """Yield the words, quotes and signs of a statement, without its comments.

    Without an `end` up to the next `;`.
    """
    last = len(text) if end is None else end
    while piece := _PIECE.match(text, pos, last):
        pos = piece.end()
        if piece[2]:
            depth = 0
            for mark in _COMMENT.finditer(text, piece.start(2), last):
                depth, pos = depth + (1 if mark[0] == b"/*" else -1), mark.end()
                if not depth:
                    break
        elif piece[3] == b";" and end is None:
            return
        elif piece[3]:
            yield piece[3]


def outermost(words: Iterator[bytes]) -> Iterator[bytes]:
    """Yield what is outside of parentheses."""
    depth = 0
    for word in words:
        depth += word == b"("
        if not depth:
            yield word
        depth -= word == b")"


def _plain(name: str) -> str:
    """Return a name as the server's functions take it."""
    return re.sub(_UNICODE, _unescaped, name).replace(" . ", ".")


def _unescaped(found: re.Match[str]) -> str:
    r"""Return a U&"d\0061t" as the quoted name that it is.

    https://www.postgresql.org/docs/current/sql-syntax-lexical.html#SQL-SYNTAX-IDENTIFIERS-UESCAPE
    """
    mark = re.escape(found[2] or "\\")
    code = rf"{mark}(?:({mark})|\+([0-9a-fA-F]{{6}})|([0-9a-fA-F]{{4}}))"
    name = re.sub(code, lambda c: c[1] or chr(int(c[2] or c[3], 16)), found[1])
    return name.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
