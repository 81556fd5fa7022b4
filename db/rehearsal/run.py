"""A run of the real engine on the copy, with a question between two statements.

Nothing else differs: the same frames, settings and errors, and what is sent for a file is sent in
the same order. The question goes through the same pipeline, so nothing waits for its answer.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator
from typing import TYPE_CHECKING, cast

from ..engine.runner import Run
from ..engine.running import Running
from ..engine.session import Session
from ..events import Event
from ..server.pipeline import Arrival, Command, CommandFailed
from . import measured, outside, seen
from .measured import Did, There
from .outside import Gate
from .seen import Seen

if TYPE_CHECKING:
    from ..files.plan import Goal
    from ..server.connection import Target
    from ..server.ours import Connection
    from ..settings import Settings
    from ..sql.lexer import Statement

_ROLE = "measured "
_FIRST = -1
# PostgreSQL takes it before any query only.
_BEFORE_QUERIES = "SET TRANSACTION"


class Measuring(Session):
    """A session that asks before the first statement of a transaction, and behind each."""

    there: There | None = None
    gate: Gate | None = None
    _inside = _asked = False

    def __init__(self, target: Target, settings: Settings, conn: Connection, name: str) -> None:
        super().__init__(target, settings, conn, name)
        self.asked_of: dict[tuple[str, int], Statement] = {}  # by file and place

    def send(self, commands: Iterable[Command]) -> Iterator[Arrival | None]:
        """Send commands, and the questions between them."""
        return super().send(self._between(commands))

    def close(self) -> None:
        """Close all three connections."""
        self.open_gate()
        super().close()

    def open_gate(self) -> None:
        """Let whatever waits at the gate pass."""
        if self.gate is not None:
            self.gate.close()
            self.gate = None

    def _between(self, commands: Iterable[Command]) -> Iterator[Command]:
        for command in commands:
            found = cast("Statement | None", command.statement)
            if found is None:
                if command.sql.startswith((b"BEGIN", b"COMMIT")):
                    self._inside, self._asked = command.sql.startswith(b"BEGIN"), False
                yield command
            elif found.kind == _BEFORE_QUERIES:
                yield command
            elif self._inside:
                if not self._asked:
                    yield _question(command.about, _FIRST, everything=True)
                self._asked = True
                self.asked_of[command.about.filename, found.start] = found
                yield command
                yield _question(command.about, found.start, everything=False)
            else:
                self.open_gate()
                without = self.there.without if self.there else ()
                self.gate = Gate(self.target, self.conn.info.backend_pid, without)
                yield command


def _question(running: Running, start: int, *, everything: bool) -> Command:
    return Command(seen.question(everything=everything), f"{_ROLE}{start}", running)


class Rehearsal(Run):
    """One run on the copy. `did`: what each statement did, in order."""

    _sessions = Measuring

    def __init__(self, target: Target, settings: Settings, goal: Goal, there: There) -> None:
        super().__init__(target, settings, goal)
        self._there = there
        self._before: Seen
        self._transactions = 0
        self._did: dict[tuple[str, int], Did] = {}  # a file that is tried again does it again

    @property
    def did(self) -> tuple[Did, ...]:
        """Return what was done so far."""
        return tuple(self._did.values())

    def _settle(self, arrivals: Iterable[Arrival | None]) -> Iterator[Event]:
        session = cast("Measuring", self._session)
        session.there = self._there
        return super()._settle(self._noted(session, arrivals))

    def _noted(
        self, session: Measuring, arrivals: Iterable[Arrival | None]
    ) -> Generator[Arrival | None, None, None]:
        try:
            for arrival in arrivals:
                if arrival is not None:
                    command, result = arrival
                    if command.role.startswith(_ROLE):
                        key = command.about.filename, int(command.role.removeprefix(_ROLE))
                        now = seen.answer(result.get_value(0, 0))
                        self._inside(command.about, session.asked_of.get(key), now)
                    elif command.statement is not None and session.gate is not None:
                        gate, session.gate = session.gate, None
                        self._outside(command.about, command.statement, gate.before, gate.end())
                yield arrival
        except CommandFailed:
            session.open_gate()
            raise

    def _inside(self, running: Running, found: Statement | None, now: Seen) -> None:
        if found is None:  # before the first one
            self._transactions += 1
            self._before = now
            return
        # What is not locked has not changed.
        now = now._replace(relations={**self._before.relations, **now.relations})
        self._note(running, found, self._before, now)
        self._before = now

    def _outside(self, running: Running, found: Statement, before: Seen, after: Seen) -> None:
        self._transactions += 1
        self._note(running, found, before, after, outside=True)

    def _note(
        self,
        running: Running,
        found: Statement,
        before: Seen,
        after: Seen,
        *,
        outside: bool = False,
    ) -> None:
        script = running.script
        base = Did(
            running.filename,
            script.location(found.start),
            found.kind,
            script.sql(found),
            self._transactions,
            outside,
            found.mark is not None and found.mark.repeats,
            after.path,
        )
        done = measured.did(base, before, after, self._there)
        self._did[running.filename, found.start] = _documented(done) if outside else done


def _documented(did: Did) -> Did:
    """Add what it has read, which no counter of another session tells."""
    if did.kind not in outside.READS:
        return did
    return did._replace(read=did.rewritten | {lock.relation for lock in did.locks})
