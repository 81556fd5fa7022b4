"""What a no-transaction file has set for its session: seen, put aside for our own SQL, set again.

The session's settings are looked at, not the text of the file: a function may have set them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from ..server import ours
from ..server.described import VANISHED
from ..server.pipeline import Command

BEGIN = ours.WRITING

# Kept in a setting of the transaction, because it has to be read before ours are set, and can be
# written only then. `$1`: what is not the file's doing; `$2`: further names, which no view lists.
_SEE = b"""
SELECT pg_catalog.set_config('migrations.session', coalesce((
    SELECT pg_catalog.jsonb_object_agg(s.name, s.value)::pg_catalog.text FROM (
        SELECT p.name, p.setting FROM pg_catalog.pg_settings AS p
        WHERE p.source OPERATOR(pg_catalog.=) 'session'
        UNION ALL SELECT 'role', pg_catalog.current_setting('role')
        UNION ALL SELECT 'session_authorization', session_user::pg_catalog.text
        UNION ALL SELECT n.name, pg_catalog.current_setting(n.name, true)
        FROM pg_catalog.unnest($2::pg_catalog.text[]) AS n (name)) AS s (name, value)
    WHERE s.value IS NOT NULL
      AND NOT s.name OPERATOR(pg_catalog.=) ANY ($3::pg_catalog.text[])
      AND NOT coalesce(pg_catalog.jsonb_object_field_text($1::pg_catalog.jsonb, s.name)
                       OPERATOR(pg_catalog.=) s.value, false)), '{}'), true)"""
_SET = b"SELECT pg_catalog.set_config($1, $2, $3::pg_catalog.bool)"
# Of the transaction, and of each statement that runs outside of one.
_NEVER = ("transaction_isolation", "transaction_read_only", "transaction_deferrable", *VANISHED)

# What our own statements need to be theirs, in the order in which it can be set back.
_OURS = {
    "session_authorization": b"SET LOCAL session_authorization TO DEFAULT",
    "role": b"SET LOCAL role TO DEFAULT",
    "search_path": ours.SETTINGS,
    "row_security": b"SET LOCAL row_security = on",
    "statement_timeout": b"SET LOCAL statement_timeout = 0",
    # Nothing of ours waits for a standby. What the file itself commits does, and says so.
    "synchronous_commit": b"SET LOCAL synchronous_commit = local",
    "client_encoding": b"SET LOCAL client_encoding = 'UTF8'",
}

_DURABLE = b"SET LOCAL synchronous_commit TO DEFAULT"
_GIVEN = ("role", "statement_timeout")  # by MIGRATIONS_ROLE and by a directive of the file
_DIFFERENT = ("search_path", "row_security", "statement_timeout")  # from what a new session has


class State:
    """The settings of one file's session; `given` are those that are not the file's doing."""

    def __init__(self, known: frozenset[str], about: object) -> None:
        self.given: dict[str, str] = {}
        self.set: dict[str, str] = {}
        self.names: set[str] = set()  # of settings that extensions and applications invent
        self._known = known  # of those that some engines lack
        self._about = about

    def see(self) -> Command:
        """Return what keeps the file's settings, for as long as the transaction lasts."""
        lists = (f"{{{','.join(names)}}}" for names in (sorted(self.names), _NEVER))
        params = (text.encode() for text in (told(self.given), *lists))
        return self._command(_SEE, *params)._replace(role="seen")

    def ours(self, *, waiting: bool = False) -> Iterator[Command]:
        """Yield what lets our own statements mean the same in any session, in a transaction.

        `waiting`: its commit is the file's, and waits for what the role's commits wait for.
        """
        for name, text in _OURS.items():
            if name != "synchronous_commit":
                yield self._command(text)
            elif name in self._known:
                yield self._command(_DURABLE if waiting else text)

    def theirs(self) -> Iterator[Command]:
        """Yield what gives the rest of the transaction back to the file."""
        for name in ("lock_timeout", *_OURS):  # a transaction begins with a lock_timeout of ours
            value = self.set.get(name, self.given.get(name) if name in _GIVEN else None)
            if value is not None:
                yield self._setting(name, value, local=True)
            elif name in _DIFFERENT:
                yield self._command(f"SET LOCAL {name} TO DEFAULT".encode())

    @property
    def modes(self) -> bytes:
        """Return what a transaction of the file is, unless it says otherwise."""
        return b"READ ONLY" if self.set.get("default_transaction_read_only") == "on" else b""

    def again(self, session: Mapping[str, str]) -> Iterator[Command]:
        """Yield what sets for the session what it had been set to."""
        self.set = dict(session)
        last = ("session_authorization", "role", "client_encoding")
        for name in (*sorted(set(session) - {*last}), *(n for n in last if n in session)):
            yield self._setting(name, session[name], local=False)

    def _setting(self, name: str, value: str, *, local: bool) -> Command:
        return self._command(_SET, name.encode(), value.encode(), b"t" if local else b"f")

    def _command(self, text: bytes, *params: bytes) -> Command:
        return Command(text, about=self._about, params=params or None)


def told(value: object) -> str:
    """Return JSON in the characters themselves: SQL_ASCII knows no escapes of others."""
    return json.dumps(value, ensure_ascii=False)


def parsed(value: bytes | None) -> Any:
    """Return what a column or setting of JSON holds."""
    return None if value is None else json.loads(value)
