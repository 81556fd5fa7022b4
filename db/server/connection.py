"""Connections: where to, waiting for a server, and never a password in an error."""

from __future__ import annotations

import math
import os
import random
import re
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager

import psycopg
from psycopg import pq, sql
from psycopg.conninfo import make_conninfo

from .. import pauses
from ..errors import ConnectionFailed, listed, one_line
from ..events import Event, Waiting, placed
from ..pauses import pause
from ..settings import Settings
from . import ours, pooler
from .ahead import Ahead
from .ours import Connection

# What one of our sessions is called in pg_stat_activity, up to its own name or file.
PREFIX = "migrations "
_ATTEMPT_S = 10  # for one try; libpq's own default is to wait for ever
_SHORTEST_S = 2  # that libpq keeps
_PING_S = 3
_PAUSE_S = 0.25
# What a server says that will take connections later. A ping cannot tell if it has become ready
# since ("the database system is starting up"), nor that it is full.
_NOT_NOW = ("the database system is", "too many", "remaining connection slots")
_SURROGATE = re.compile("[\ud800-\udfff]")
_NO_NAME = "a part of the host's name is empty or longer than 63 bytes"
# A link that swallows packets is noticed within half a minute, on either side of a pooler.
_KEEPALIVE: dict[str, str | int] = {
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 4,
    "tcp_user_timeout": 30_000,  # milliseconds
}

_DATABASE = "SELECT 1 FROM pg_catalog.pg_database WHERE datname OPERATOR(pg_catalog.=) %s"


class Target:
    """Where to connect, by libpq's parameters. No dataclass, whose repr would show the password.

    `schema`: what is migrated, where that is one of many in the database. `origin`: what names it,
    in words.
    """

    def __init__(
        self,
        parameters: Mapping[str, str],
        timeout_s: float,
        schema: str = "",
        *,
        origin: str = "",
    ) -> None:
        self.parameters = parameters
        self.timeout_s = timeout_s
        self.schema = schema
        self.origin = origin
        self._ahead: Ahead[Connection] | None = None

    @property
    def place(self) -> str:
        """Return host and port as people read them."""
        host = self.parameters.get("host") or self.parameters.get("hostaddr") or "the local socket"
        port = self.parameters.get("port", "5432")
        return host if " " in host else placed(host, port)

    @property
    def shown(self) -> str:
        """Return the database and where it is, as people read them."""
        name = self.parameters.get("dbname")
        return f"{name} on {self.place}" if name else self.place

    def once(self, application: str, within_s: float | None = None) -> Connection:
        """Return an autocommit connection of one attempt; raise psycopg's error if it fails.

        The attempt takes no longer than all of them may, or `within_s`, what is left of that. In a
        thread that is told to stop, raise `KeyboardInterrupt`: nothing interrupts libpq there.
        """
        left_s = math.ceil(self.timeout_s if within_s is None else within_s)
        attempt_s = max(_SHORTEST_S, min(_ATTEMPT_S, left_s))
        if not pauses.heeds():
            return self._attempt(application, attempt_s)
        return _taken(Ahead(application, lambda: self._attempt(application, attempt_s)))

    def _attempt(self, application: str, attempt_s: int) -> Connection:
        """Return a connection.

        Statements are never prepared by name: those of another client would be met behind a
        transaction pooler. https://www.psycopg.org/psycopg3/docs/advanced/prepare.html
        """
        where = self._conninfo(connect_timeout=attempt_s, **_KEEPALIVE)
        try:
            return Connection.connect(
                where,
                autocommit=True,
                prepare_threshold=None,
                application_name=application,
                client_encoding="utf8",
            )
        except UnicodeError:  # Python's, where it would look the host up
            raise psycopg.OperationalError(_NO_NAME) from None

    def begin(self) -> None:
        """Begin to connect, while there is other work to do: `connect` takes it from there."""
        application = self.session_name()
        self._ahead = Ahead(application, lambda: self.once(application))

    def give_up(self) -> None:
        """Close what was begun, if nobody has taken it."""
        if self._ahead is not None:
            self._ahead.close()

    def session_name(self) -> str:
        """Return the name of the connection that was begun, or a new one: each has its own."""
        return self._ahead.name if self._ahead else f"{PREFIX}{random.randrange(16**6):06x}"

    def _next(self, application: str, left_s: float) -> Connection:
        ahead, self._ahead = self._ahead, None
        if ahead is None or ahead.name != application:
            return self.once(application, left_s)
        return _taken(ahead)

    def connect(self, application: str) -> Generator[Event, None, Connection]:
        """Return a connection, waiting for a server that is not there yet.

        Yield `Waiting` once while it is not. Raise `ConnectionFailed` when it refuses us, or is
        not there after `timeout_s` seconds.
        """
        started = time.monotonic()
        said = False
        while True:
            try:
                left_s = self.timeout_s - (time.monotonic() - started)
                return self._next(application, left_s)
            except psycopg.OperationalError as error:
                refused = error
            # Raised out here: libpq's own error, which may quote the password, is no __context__.
            waited = time.monotonic() - started
            left_s, silent = self.timeout_s - waited, _is_silent(refused)
            over = left_s <= 0 or (silent and left_s < _SHORTEST_S)  # it would take longer
            if over or not (silent or self._may_come(str(refused))):
                raise self.failed(refused, waited)
            if not said:
                yield Waiting(f"the server of {self.shown}", waited)
                said = True
            pause(min(_PAUSE_S, left_s))

    def accepts(self) -> Generator[Event, None, bool]:
        """Wait until the server accepts connections; return whether it does within `timeout_s`.

        Yield `Waiting` once while it does not. Neither role nor database need to exist for that.
        """
        started = time.monotonic()
        said = False
        while self._ping() != pq.Ping.OK:
            waited = time.monotonic() - started
            if waited >= self.timeout_s:
                return False
            if not said:
                yield Waiting(f"the server of {self.shown}", waited)
                said = True
            pause(_PAUSE_S)
        return True

    def _ping(self) -> int:
        return pq.PGconn.ping(self._conninfo(connect_timeout=_PING_S).encode())

    def _conninfo(self, **defaults: str | int) -> str:
        parameters: dict[str, str | int] = {**defaults, **self.parameters}
        # What the environment has in another encoding; Python's error would hold the password.
        odd = [name for name, value in self.parameters.items() if _SURROGATE.search(value)]
        if odd:
            raise ConnectionFailed(
                f"The connection's {listed(odd)} is not UTF-8, as the environment has it.",
                "Nothing was executed. Set it in a terminal or a file whose encoding is UTF-8.",
            )
        return make_conninfo("", **parameters)

    def _may_come(self, message: str) -> bool:
        """Return whether a later attempt may succeed: PQping() tells it in every language."""
        if any(words in message for words in _NOT_NOW):
            return True
        if any(words in message for words in (_NO_NAME, "certificate", "does not support SSL")):
            return False  # which a ping does not tell from silence
        if self._ping() in (pq.Ping.NO_RESPONSE, pq.Ping.REJECT):
            return True
        return self._has_no_primary()

    def _has_no_primary(self) -> bool:
        """Return whether a host takes us, though none is what `target_session_attrs` demands.

        That is how a failover looks until the standby is promoted.
        """
        if self.parameters.get("target_session_attrs", "any") == "any":
            return False
        either = {**self.parameters, "target_session_attrs": "any"}
        try:
            Target(either, self.timeout_s).once("migrations").close()
        except psycopg.OperationalError:
            return False
        return True

    def failed(self, error: psycopg.Error, waited: float = 0.0) -> ConnectionFailed:
        """Return the error of a connection that could not be made."""
        said = one_line(str(error).removeprefix("connection failed: "))
        for_long = f" (waited {waited:.0f} s)" if waited >= 1 else ""
        check = f" Check {self.origin}." if self.origin else ""
        advice = [f"Nothing was executed.{check}"]
        if pooler.had_none(error):
            advice = ["Nothing was executed.", *pooler.NONE_FREE]
        if f'database "{self.parameters.get("dbname")}" does not exist' in said:
            advice.append("If it is still to be made: invoke db.create, or invoke db.migrate")
        if self.schema and "startup parameter" in said:  # so PgBouncer says it
            advice = [
                "Nothing was executed. --schemas needs the server itself: a pooler does not pass "
                "on the search_path that each session begins with. Name its own host and port."
            ]
        return ConnectionFailed(f"Cannot connect to {self.shown}{for_long}: {said}", *advice)

    def of_schema(self, schema: str, path: Sequence[str]) -> Target:
        """Return the same with a schema in front of this search_path.

        The parameters that begin a session set it, so that DISCARD ALL does not take it away.
        """
        names = ", ".join(sql.Identifier(name).as_string(None) for name in (schema, *path))
        escaped = re.sub(r"([\\\s])", r"\\\1", names)
        before = self.parameters.get("options", os.environ.get("PGOPTIONS", ""))
        options = f"{before} -c search_path={escaped}".strip()
        there = {**self.parameters, "options": options}
        return Target(there, self.timeout_s, schema, origin=self.origin)

    @property
    def maintenance(self) -> Target:
        """The same server, where the target's database need not exist."""
        name = "template1" if self.parameters.get("dbname") == "postgres" else "postgres"
        return Target({**self.parameters, "dbname": name}, self.timeout_s)

    def create_database(self) -> bool:
        """Create the target's database if the server says that it is missing.

        Return whether it was. Raise `ConnectionFailed` if the role may not.
        """
        name = self.parameters.get("dbname", "")
        if not name:
            return False
        try:
            conn = self.maintenance.once("migrations")
        except psycopg.OperationalError:  # the first error says more than this one would
            return False
        try:
            with conn:
                if is_there(conn, name):
                    return False
                conn.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
                return True
        except psycopg.errors.DuplicateDatabase:
            return False
        except psycopg.errors.InsufficientPrivilege:
            user = self.parameters.get("user", "the role")
            raise ConnectionFailed(
                f"The database {name} is not on {self.place}, and {user} may not create it.",
                f'Let an administrator run: CREATE DATABASE "{name}" OWNER "{user}";',
            ) from None
        except psycopg.errors.UniqueViolation:  # two runs at once
            return False
        except psycopg.Error as error:  # template1 is in use, the disk is full, …
            said = " ".join(filter(None, (error.diag.message_primary, error.diag.message_detail)))
            raise ConnectionFailed(
                f"The database {name} cannot be created on {self.place}: "
                f"{said or str(error)} ({error.sqlstate})",
                "Nothing was executed. See to that on the server, and try again.",
            ) from None


def is_there(conn: Connection, name: str) -> bool:
    """Return whether the server of this connection has a database of that name."""
    return bool(ours.ask(conn, _DATABASE, [name]))


def _is_silent(error: psycopg.Error) -> bool:
    """Return whether nobody has answered in time: a ping would take as long again."""
    return isinstance(error, psycopg.errors.ConnectionTimeout)


def _taken(ahead: Ahead[Connection]) -> Connection:
    """Return the connection when it is there; what is not taken is closed."""
    try:
        return ahead.get()
    except BaseException:
        ahead.close()
        raise


@contextmanager
def target(settings: Settings) -> Iterator[Target]:
    """Yield where to connect; an embedded server runs for as long as this is used."""
    if settings.embedded is None:
        yield from _used(outside(settings))
        return
    from . import embedded

    with embedded.running(settings.embedded) as server:
        place = {"host": server.host, "port": str(server.port), "user": server.user}
        yield from _used(_named(settings, {**settings.parameters, **place}))


def _used(target: Target) -> Iterator[Target]:
    try:
        yield target
    finally:
        target.give_up()


def outside(settings: Settings) -> Target:
    """Return where to connect, if that is no embedded server. Not for several threads at once."""
    named = _of_service(settings.parameters)
    return _named(settings, {**named, **settings.parameters})


def _named(settings: Settings, parameters: Mapping[str, str]) -> Target:
    return Target(parameters, settings.connect_timeout_s, origin=settings.origin)


def _of_service(parameters: Mapping[str, str]) -> dict[str, str]:
    """Return what a connection service file says of the place, so that it can be named.

    https://www.postgresql.org/docs/current/libpq-pgservice.html
    """
    wanted = {"PGSERVICE": parameters.get("service", "")}
    wanted["PGSERVICEFILE"] = parameters.get("servicefile", os.environ.get("PGSERVICEFILE", ""))
    if not wanted["PGSERVICE"]:
        return {}
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update({name: value for name, value in wanted.items() if value})
    try:
        known = {o.keyword.decode(): o.val for o in pq.Conninfo.get_defaults()}
    except psycopg.Error:  # there is no such service: libpq says so when it connects
        return {}
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
    place = {name: known.get(name) for name in ("host", "port", "user", "dbname")}
    return {name: value.decode() for name, value in place.items() if value}
