"""Who does what: workers in threads, canaries first, no more than the servers have room for.

Only what executes something is a canary: the other workers look meanwhile, since most targets of a
fleet may have nothing to do.

The main thread looks on and shows: it is the one that a signal interrupts. Threads are enough, as
libpq waits without Python's lock.
"""

from __future__ import annotations

import queue
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable
from functools import partial
from typing import NamedTuple, TypeAlias

from .. import pauses
from ..errors import MigrationsError, listed
from ..events import Applied, Event, Fleet, Note, Progress, Retrying, Standing, Target, Waiting
from . import capacity, tally
from .roster import Member

Record: TypeAlias = "Target | Standing"
Show = Callable[[Event], None]
Begin = Callable[[], None]  # asked before something is executed: it waits, or raises `NotBegun`
# Does the work at one target, telling events, and returns what became of it, and its error.
Act = Callable[[Member, Show, Begin], "tuple[Record, MigrationsError | None]"]

MOST = 64  # workers
_LOOK_S = 0.25
_SAY_S = 1.0
_ALIKE = 3  # the first ones, if all fail alike
_WARNINGS = 20  # different ones, that are kept


class NotBegun(Exception):
    """A target had something to execute, and nothing is begun any more."""


class Limits(NamedTuple):
    """`workers` at a time; so many `canary` targets before the others; none begun after so many
    failures (0: however many)."""

    workers: int = 8
    canary: int = 3
    stop_after: int = 5


class _Server:
    """A server's targets that are not begun, and how many workers it has room for."""

    def __init__(self) -> None:
        self.waiting: deque[Member] = deque()
        self.under_way = set[str]()  # names
        self.room: int | None = None  # not asked yet


class Crew:
    """The workers of one command. `run()` does it."""

    def __init__(self, members: Iterable[Member], act: Act, limits: Limits) -> None:
        self._act = act
        self._limits = limits
        self._servers: dict[str, _Server] = {}
        self.total = 0
        for member in members:
            self._servers.setdefault(member.target.place, _Server()).waiting.append(member)
            self.total += 1
        self._changed = threading.Condition()
        self._news: queue.SimpleQueue[Record] = queue.SimpleQueue()
        self._lasting: dict[str, str] = {}
        self._done = 0
        self._looked = 0  # targets of which it is known whether there is something to do
        self._begun = set[str]()  # those that execute something now
        self._proven = 0  # those that have done so
        self._broken: BaseException | None = None
        self._said = self._started = time.monotonic()
        self.stop = pauses.Stop()
        self.records: list[Record] = []
        self.failures: list[tuple[Member, MigrationsError]] = []
        self.stopped = ""  # why no more are begun
        self.warned: Counter[str] = Counter()

    @property
    def elapsed_s(self) -> float:
        """Return how long ago it began."""
        return time.monotonic() - self._started

    def run(self, show: Show) -> None:
        """Do it, showing records as they come. An interrupt ends what is under way, and returns.

        Raise `KeyboardInterrupt` at the second one: then nobody waits for those.
        """
        number = min(self._limits.workers, self.total)
        workers = [threading.Thread(target=self._work, daemon=True) for _ in range(number)]
        try:
            for worker in workers:
                worker.start()
            self._look_on(workers, show)
        except KeyboardInterrupt as stop:
            self.stop.tell(int(stop.args[0]) if stop.args else self.stop.number)
            self._look_on(workers, show)
        for server in self._servers.values():
            for member in server.waiting:
                record = Target(member.name, "not begun")
                self.records.append(record)
                show(record)

    def _look_on(self, workers: list[threading.Thread], show: Show) -> None:
        while True:
            over = not any(worker.is_alive() for worker in workers)
            try:
                while True:
                    show(self._news.get(block=not over, timeout=_LOOK_S))
                    self._say(show)
            except queue.Empty:
                self._say(show)
            if over:
                break
        if self._broken is not None:
            raise self._broken

    def _say(self, show: Show) -> None:
        now = time.monotonic()
        if now - self._said < _SAY_S:
            return
        self._said = now
        with self._changed:
            names = sorted(name for s in self._servers.values() for name in s.under_way)
            waiting = next(iter(list(self._lasting.values())), "")
        if names and self.stop.told.is_set():
            waiting = f"waiting for the end of {listed(names, _ALIKE)}"
        failed, elapsed_s = len(self.failures), round(self.elapsed_s, 1)
        show(Fleet(self.total, self._done, failed, len(names), elapsed_s, waiting))

    def _work(self) -> None:
        with pauses.heeding(self.stop):
            while (chosen := self._next()) is not None:
                server, member = chosen
                try:
                    if server.room is None:
                        several = len(server.waiting) > 0
                        wanted = self._limits.workers
                        server.room = capacity.workers(member.target, wanted) if several else 1
                    told, begin = partial(self._told, member), partial(self._begin, member)
                    record, error = self._act(member, told, begin)
                except (NotBegun, KeyboardInterrupt):  # told to stop, before the run began
                    self._put_back(server, member)
                    continue
                except BaseException as broken:  # raised by the main thread
                    self._broken = broken
                    self.stop.tell(self.stop.number)
                    return
                if record.state == "interrupted" and member.name not in self._begun:
                    self._put_back(server, member)
                else:
                    self._finished(server, member, record, error)

    def _next(self) -> tuple[_Server, Member] | None:
        """Return what to do next, when there is room for it; None if there is nothing more."""
        with self._changed:
            while not (self.stopped or self.stop.told.is_set()):
                waiting = [server for server in self._servers.values() if server.waiting]
                if not waiting:
                    break
                under_way = sum(len(server.under_way) for server in self._servers.values())
                missing = self._missing
                server = next((s for s in waiting if len(s.under_way) < (s.room or 1)), None)
                # As many more may be looked at as could be: where none can, few are tried.
                if server is not None and (missing <= 0 or under_way < missing + self._looked):
                    member = server.waiting.popleft()
                    server.under_way.add(member.name)
                    return server, member
                self._changed.wait(_LOOK_S)
            self._changed.notify_all()
            return None

    def _begin(self, member: Member) -> None:
        """Wait until the member may execute something.

        Raise `NotBegun` if a canary has failed meanwhile, or all are told to stop.
        """
        with self._changed:
            if member.name in self._begun:
                return
            self._looked += 1
            self._changed.notify_all()
            while (missing := self._missing) > 0:
                if self.stopped or self.stop.told.is_set():
                    raise NotBegun
                if len(self._begun) < missing:
                    break
                self._changed.wait(_LOOK_S)
            self._begun.add(member.name)

    @property
    def _missing(self) -> int:
        """Return how many more targets are to execute something before the others may."""
        return self._limits.canary - self._proven

    def _put_back(self, server: _Server, member: Member) -> None:
        """Let a target on which nothing was executed be one that is not begun."""
        with self._changed:
            self._lasting.pop(member.name, None)
            server.under_way.discard(member.name)
            server.waiting.append(member)

    def _finished(
        self, server: _Server, member: Member, record: Record, error: MigrationsError | None
    ) -> None:
        with self._changed:
            self._lasting.pop(member.name, None)
            server.under_way.discard(member.name)
            began = member.name in self._begun
            self._begun.discard(member.name)
            self.records.append(record)
            if error is not None and record.state == "failed":
                error.__traceback__ = error.__context__ = None  # which hold the connection
                self.failures.append((member, error))
                self.stopped = self.stopped or self._why_stop(began=began)
            elif record.state != "interrupted":
                self._done += 1
                self._proven += record.state == "executed"
                self._looked += record.state == "nothing to do"
            self._changed.notify_all()
        self._news.put(record)

    def _why_stop(self, *, began: bool) -> str:
        """Return why no more targets are to be begun, if that is so.

        `began`: the one that has failed had something to execute. Whether others fail as it did is
        told by those that have executed something too, and else by all that were looked at.
        """
        failed, others = len(self.failures), self._proven if began else self._done
        if began and self._missing > 0:
            return "one of the canaries failed"
        if self._limits.stop_after and failed >= self._limits.stop_after:
            return f"{failed} failed"
        alike = {tally.kind(member, error) for member, error in self.failures}
        if not others and failed >= _ALIKE and len(alike) == 1:
            return "the first ones all failed alike"
        return ""

    def _told(self, member: Member, event: Event) -> None:
        """Keep what is worth knowing of one target's events: what it waits for, and warnings."""
        pauses.check()
        match event:
            case Note(message, "warning"):
                with self._changed:
                    if message in self.warned or len(self.warned) < _WARNINGS:
                        self.warned[message] += 1
            case Waiting(what):
                self._lasting[member.name] = f"{member.name}: waiting for {what}"
            case Retrying() | Progress():
                verb = "runs" if isinstance(event, Progress) else "waits for a lock"
                blocked = f", blocked by {event.blockers[0]}" if event.blockers else ""
                self._lasting[member.name] = f"{member.name}: {event.filename} {verb}{blocked}"
            case Applied():
                self._lasting.pop(member.name, None)
            case _:
                pass
