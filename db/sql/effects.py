"""A statement -> what of it a dump of the schema does not hold. Bytes only, as in `kinds`.

The rule: pg_dump writes what is made in a database, and the rights on that. What else a statement
leaves behind has a name here; of what calls or puts together something, the text does not tell.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

from . import kinds

ROWS, SEQUENCES, OWNERS, RIGHTS, SETTINGS, OUTSIDE, MAY = NAMES = (
    "rows", "sequences", "owners", "rights", "settings", "outside", "may"
)  # fmt: skip

_WRITES = frozenset({"INSERT", "UPDATE", "DELETE", "MERGE"})
_QUERIES = frozenset({"SELECT", "WITH", "VALUES", "TABLE", "EXPLAIN", "DECLARE"})
_DEFINES = frozenset({"CREATE", "ALTER", "DROP"})
# What belongs to the server, and not to a database; pg_dump leaves comments on extensions out.
_SERVERS = r"(?:DATABASE|ROLE|USER(?! MAPPING)|GROUP|TABLESPACE|SYSTEM|PARAMETER)\b"
_DESCRIBES_OTHERS = rf"(?i)(?:COMMENT|SECURITY LABEL(?: FOR \S+)?) ON (?:{_SERVERS}|EXTENSION\b)"
_PUBLIC = "(?i)DROP SCHEMA .*(?<!\\S)public(?: |$)|ALTER SCHEMA public RENAME"  # taken for granted
_RESTARTS = (
    r"(?i)ALTER SEQUENCE .* (?<!\. )RESTART(?: |$)"
    r"|ALTER TABLE .* ALTER (?:COLUMN )?\S+ (?:[^,]* )?RESTART(?: |$)"
)
_BECOMES = (
    r"(?i)SET (?:(?:SESSION|LOCAL) )?"
    r"(?:ROLE (?:TO |= )?(?!NONE\b)|SESSION AUTHORIZATION (?!DEFAULT\b))"
)
# They leave nothing behind, or what pg_dump writes: the first words of other statements.
_HELD = frozenset(
    {"BEGIN", "COMMIT", "ROLLBACK", "SAVEPOINT", "RELEASE", "PREPARE", "DEALLOCATE", "SET", "RESET",
     "SHOW", "DISCARD", "LOCK", "ANALYZE", "ANALYSE", "VACUUM", "REINDEX", "CLUSTER", "REPACK",
     "CHECKPOINT", "LOAD", "LISTEN", "UNLISTEN", "NOTIFY", "FETCH", "MOVE", "CLOSE", "REFRESH",
     "TRUNCATE", "IMPORT", "COMMENT", "SECURITY"}
)  # fmt: skip

_SETS_SEQUENCE = frozenset({"SETVAL", "NEXTVAL"})
# Before a parenthesis these call nothing: words of SQL, types, and what only looks or computes.
_NOTHING_CALLED = """
ALL AND ANY ARRAY AS BY CASE CAST COALESCE CUBE DISTINCT ELSE ELSIF EXCEPT EXISTS FILTER FROM
GREATEST GROUP GROUPING HAVING IF IN INTERSECT INTO IS JOIN LATERAL LEAST LIKE LIMIT
MATERIALIZED NOT NULLIF OFFSET ON OR ORDINALITY OVER RETURN RETURNING ROLLUP ROW SELECT SETS
SOME THEN UNION USING VALUES WHEN WHERE WHILE WITHIN
BIT BPCHAR CHAR CHARACTER DECIMAL FLOAT INTERVAL NUMERIC TIME TIMESTAMP TIMESTAMPTZ TIMETZ VARBIT
VARCHAR VARYING
ARRAY_AGG ARRAY_LENGTH BOOL_AND BOOL_OR CARDINALITY CLOCK_TIMESTAMP COL_DESCRIPTION CONCAT CONCAT_WS
COUNT CURRENT_DATABASE CURRENT_SCHEMA CURRENT_SCHEMAS CURRENT_SETTING EXTRACT FORMAT FORMAT_TYPE
GENERATE_SERIES HAS_COLUMN_PRIVILEGE HAS_DATABASE_PRIVILEGE HAS_FUNCTION_PRIVILEGE
HAS_SCHEMA_PRIVILEGE HAS_TABLE_PRIVILEGE LEFT LENGTH LOWER MAX MIN NOW OBJ_DESCRIPTION
PG_ADVISORY_LOCK PG_ADVISORY_UNLOCK PG_ADVISORY_XACT_LOCK PG_GET_CONSTRAINTDEF PG_GET_EXPR
PG_GET_FUNCTIONDEF PG_GET_INDEXDEF PG_GET_SERIAL_SEQUENCE PG_GET_VIEWDEF PG_HAS_ROLE PG_NOTIFY
PG_SLEEP PG_TABLE_IS_VISIBLE QUOTE_IDENT QUOTE_LITERAL QUOTE_NULLABLE REPLACE RIGHT SET_CONFIG
SPLIT_PART STRING_AGG STRPOS SUBSTR SUBSTRING SUM TO_REGCLASS TO_REGNAMESPACE TO_REGPROC
TO_REGPROCEDURE TO_REGROLE TO_REGTYPE TRIM UNNEST UPPER VERSION"""
_NO_CALL = frozenset(_NOTHING_CALLED.split())
_NAMES_FOLLOW = frozenset({"AS", "INTO", "RECURSIVE", "WITH"})

# Behind these a statement of a block begins.
_OPENS = frozenset({"BEGIN", "DECLARE", "THEN", "ELSE", "LOOP"})
_SQL_OF_BLOCKS = _WRITES | _DEFINES | _HELD | {"COPY", "GRANT", "REVOKE", "REASSIGN", "CALL", "DO"}
_STRING = re.compile(rb"[eE]?'|(?P<dollars>\$[^$]*\$)")


def of(sql: bytes, kind: str) -> Iterator[str]:
    """Yield which of `NAMES` a statement does."""
    first = kind.partition(" ")[0]
    if first in _WRITES:
        yield ROWS
    elif first == "COPY":
        if kinds.copies_from(sql):
            yield ROWS
    elif first == "DO":
        yield from _block(sql)
    elif first in ("CALL", "EXECUTE"):
        yield MAY
    elif first in _QUERIES:
        yield from _query(_upper(kinds.words_of(sql)))
    elif first in _DEFINES:
        yield from _definition(_bare(sql), kind)
    elif first in ("GRANT", "REVOKE"):
        on = re.search(r"(?i) ON (\w+ )?", _bare(sql))
        if not on or re.match(_SERVERS, (on[1] or "").upper()):
            yield RIGHTS
    elif first == "REASSIGN" or (first == "SET" and re.match(_BECOMES, _bare(sql))):
        yield OWNERS
    elif first not in _HELD or re.match(_DESCRIBES_OTHERS, _bare(sql)):
        yield OUTSIDE


def _definition(text: str, kind: str) -> Iterator[str]:
    """Yield what a CREATE, ALTER or DROP does; `text` is what stands outside of parentheses."""
    servers = re.match(rf"(?i)\w+ {_SERVERS}", text) or re.match(_PUBLIC, text)
    if kind == "CREATE TABLE":
        if re.search(r"(?i) AS (?!.* WITH NO DATA$)", text):
            yield ROWS
    elif re.match("(?i)CREATE SCHEMA .*AUTHORIZATION ", text):
        yield OWNERS
    elif text[:5].upper() == "ALTER":
        if re.match(_RESTARTS, text):
            yield SEQUENCES
        if re.search("(?i) OWNER TO ", text) and not re.search("(?i) RENAME ", text):
            yield OWNERS
            return
        if servers and re.search("(?i) (?:SET(?! TABLESPACE)|RESET) ", text):
            yield SETTINGS
            return
    if servers:
        yield OUTSIDE


def _query(words: Iterable[str], *, block: bool = False) -> Iterator[str]:
    """Yield what a query does, or any other statement of a `block`, whose INTO is a variable's."""
    before, is_named = "", False  # what stands before a list of columns calls nothing
    for word in words:
        if word == "INTO":
            if before in _WRITES or not block:
                yield ROWS
        elif (word == "FROM" and before == "DELETE") or (
            word == "UPDATE" and before in ("(", ")", "", "IN", "ANALYZE", "VERBOSE")
        ):
            yield ROWS
        elif word == "(" and not is_named and re.match(r'[\w$"]', before):
            name = before.strip('"')
            if name in _SETS_SEQUENCE:
                yield SEQUENCES
            elif name not in _NO_CALL:
                yield MAY
        is_named = word in _NAMES_FOLLOW or (
            is_named and (before in _NAMES_FOLLOW or "." in (word, before))
        )
        before = word


# DO


def _block(sql: bytes) -> Iterator[str]:
    """Yield what a DO block does. What it says in another language than PL/pgSQL, nobody reads."""
    words = list(kinds.words_of(sql))
    body = _texts(words)[:1]
    outside = [word.lower().strip(b'"') for word in words if not _STRING.match(word)]
    if not body or (b"language" in outside and b"plpgsql" not in outside):
        yield MAY
        return
    for words in _parts(kinds.words_of(body[0], 0, len(body[0])), _OPENS):
        yield from _part(words)


def _parts(words: Iterable[bytes], opens: frozenset[str]) -> Iterator[list[bytes]]:
    """Yield the statements; words that open a block end one, but not inside of a CASE … END."""
    part, depth, cases = list[bytes](), 0, 0
    for word in words:
        upper = word.decode(errors="replace").upper()
        if not depth and (upper == ";" or (upper in opens and not cases)):
            if part:
                yield part
            part, cases = [], 0
            continue
        depth += (upper == "(") - (upper == ")")
        if upper == "CASE" and part:  # alone it is a statement of PL/pgSQL
            cases += 1
        elif upper == "END" and cases:
            cases -= 1
        part.append(word)
    if part:
        yield part


def _part(words: Sequence[bytes]) -> Iterator[str]:
    """Yield what a statement of a block does."""
    upper = list(_upper(words))
    runs = [
        n for n, word in enumerate(upper)
        if word == "EXECUTE" and (not n or upper[n - 1] in ("IN", "FOR", "QUERY"))
    ]  # fmt: skip
    if runs and upper[0] not in _SQL_OF_BLOCKS:
        yield from _executed(words[runs[0] + 1 :])
    elif upper[0] in _SQL_OF_BLOCKS and upper[1:2] != [":"]:  # no variable of that name
        text = b" ".join(words)
        yield from of(text, kinds.kind(text, 0, len(text)))
    else:
        yield from _query(upper, block=True)


def _executed(words: Sequence[bytes]) -> Iterator[str]:
    """Yield what an EXECUTE does by its literals; where there is more than one literal, it may."""
    ends = (n for n, word in enumerate(_upper(words)) if word in ("INTO", "USING"))
    words = words[: next(ends, len(words))]
    composed = not all(map(_STRING.match, words))
    begins = words[2:3] if list(_upper(words[:2])) == ["FORMAT", "("] else words[:1]
    if not begins or not _STRING.match(begins[0]):
        yield MAY
        return
    text = b" x ".join(_texts(words))  # in the place of what stands between them
    found = set[str]()
    for part in _parts(kinds.words_of(text, 0, len(text)), frozenset()):
        sql = b" ".join(part)
        found |= set(of(sql, kinds.kind(sql, 0, len(sql))))
    yield from found or ({MAY} if composed else ())


# Words


def _upper(words: Iterable[bytes]) -> Iterator[str]:
    return (word.decode(errors="replace").upper() for word in words)


def _bare(sql: bytes) -> str:
    """Return what stands outside of parentheses, without what is in strings."""
    words = (
        b"''" if _STRING.match(word) else word for word in kinds.outermost(kinds.words_of(sql))
    )
    return b" ".join(words).decode(errors="replace")


def _texts(words: Iterable[bytes]) -> list[bytes]:
    """Return what is in the strings; two that touch are one, with a quote in it."""
    texts, before = list[bytes](), False
    for word in words:
        found = _STRING.match(word)
        if found and found["dollars"]:
            texts.append(word[found.end() : -found.end()])
        elif found and before:
            texts[-1] += b"'" + word[found.end() : -1]
        elif found:
            texts.append(word[found.end() : -1])
        before = bool(found and not found["dollars"])
    return texts
