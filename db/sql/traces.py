"""A file's statements -> what they may leave beside what they are written for. Bytes only.

It is read from their texts, so it is what they may do, not what they do: what is done about it must
be right, if slower, where they do not.
"""

from __future__ import annotations

import re
from functools import cache

# What `DISCARD ALL` does not take away: settings that a role or database gives to new sessions, a
# setting that somebody has invented (it is empty then, and was NULL), a library, random numbers,
# connections of dblink. As PostgreSQL reads regular expressions as well, for the functions of a
# database; each begins with a word, which is what makes them fast here.
_SETS = (
    r"set(?:_config\s*\(\s*(?!'[^'.]*'\s*[,:])"  # of a name that may have a dot
    r"""|\s+(?:local\s+|session\s+)?(?:["\w%]+\s*\.|')"""  # likewise, or put together
    r"|seed)"
)
_CHANGES = r"alter\s+(?:extension|(?:database|role|user)\s[^;]*set)\s"
KEPT = (_SETS, _CHANGES, r"create\s+extension\s", r"load\s+'", "dblink_connect")
# What defines something calls a function only where rows are made or looked at.
_DEFINES = ("CREATE", "ALTER", "DROP", "COMMENT", "GRANT", "REVOKE", "SET", "RESET", "SHOW")
_OF_ROWS = {
    "CREATE TABLE": (b"select", b"execute"),
    "CREATE MATERIALIZED VIEW": (b"select",),
    "ALTER TABLE": (b"default", b"using", b"check", b"generated"),
    "ALTER DOMAIN": (b"check",),
}

# By these a file may install what changes other servers; the rest cannot do it unseen.
_CONNECTORS = ("CREATE EXTENSION", "CREATE FOREIGN DATA", "CREATE LANGUAGE", "CREATE PROCEDURAL")
_OPAQUE = {"CALL", "EXECUTE", "SELECT", "WITH", "VALUES", "EXPLAIN", "TABLE"}
# ... and a DO block that runs what its text does not show, or shows that.
_IN_A_BLOCK = rb"\b(?:execute|perform|call|select|extension|wrapper|language)\b"

# Statements that take nothing away from a table that they do not name, and attach nothing.
_ADDS = {"INSERT", "COPY FROM STDIN"}
# Words of statements that may be about one without naming it: IN SCHEMA, CASCADE, OWNED BY.
_WIDE = (b"schema", b"cascade", b"owne")
_PLAIN = "[a-z_][a-z0-9_]*"

# Bytes of a statement that are looked at: of rows that are written down, the first tell enough.
_LOOKED_AT, _BEFORE_ROWS = 1 << 20, 1 << 12


class Traces:
    """What the statements that were looked at may leave. `table` is the ledger's name."""

    def __init__(self, table: str) -> None:
        self._named = table.encode() if re.fullmatch(_PLAIN, table) else b""  # in any statement
        self.kept = False  # in the session, whatever is discarded in it
        self.calls = False  # functions whose text is somewhere else
        self.connects = False  # another server may be changed from now on
        self.touches = False  # the ledger, or who may attach something to it

    def look(self, kind: str, text: bytes) -> None:
        """Look at a statement as well."""
        begin = text[: _BEFORE_ROWS if kind in _ADDS else _LOOKED_AT].lower()
        self.kept = self.kept or _is_kept(kind, begin)
        self.calls = self.calls or _may_call(kind, begin)
        connects = _may_connect(kind, begin)
        self.connects = self.connects or connects
        if kind not in _ADDS and not self.touches:
            self.touches = connects or self._named in begin or any(word in begin for word in _WIDE)


def _is_kept(kind: str, begin: bytes) -> bool:
    """Return whether a statement may leave something in its session."""
    if kind.startswith(("SET", "RESET")):  # whatever stands between the words
        return b"." in begin
    return kind == "LOAD" or any(pattern.search(begin) for pattern in _patterns())


@cache  # a run that finds nothing to do comes by here as well, and needs none
def _patterns() -> tuple[re.Pattern[bytes], ...]:
    return tuple(re.compile(pattern.encode()) for pattern in KEPT)


def _may_call(kind: str, begin: bytes) -> bool:
    """Return whether a statement may call functions that anybody has made."""
    return not kind.startswith(_DEFINES) or any(word in begin for word in _OF_ROWS.get(kind, ()))


def _may_connect(kind: str, begin: bytes) -> bool:
    """Return whether a statement may install what changes other servers."""
    if kind == "DO":
        return bool(re.search(_IN_A_BLOCK, begin))
    return kind in _OPAQUE or kind.startswith(_CONNECTORS)
