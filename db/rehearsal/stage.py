"""Files on a copy: run by the engine, measured, held against the target's sizes, and undone."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from typing import NamedTuple, TypeVar

from ..engine import place
from ..errors import Interrupted, StatementFailed
from ..events import (
    Event,
    Finding,
    Progress,
    Rehearsed,
    Rehearsing,
    Retrying,
    Undone,
    Waiting,
)
from ..files.folder import Migration
from ..files.plan import SCHEMA, Goal
from ..scratch import objects
from ..scratch.database import Scratch
from ..scratch.objects import Object
from ..server import ours
from ..server.ours import Connection
from ..sql.script import Script
from . import charges, findings, seen, sizes, told, undone
from .measured import Did, There
from .run import Rehearsal

T = TypeVar("T")
_NAME = "migrations rehearsal"
LASTS = (Progress, Retrying, Waiting)  # what is shown of a run on the copy
_COPY = "This was on a copy. Nothing was executed on the target."
_REPLAY = "This was on a disposable database, which is gone."


class Outcome(NamedTuple):
    """What the files would do, in order, what is wrong with that, and what undoes them."""

    statements: tuple[Rehearsed, ...] = ()
    findings: tuple[Finding, ...] = ()
    undone: tuple[Undone, ...] = ()


class Stage:
    """The copy, and the `target` whose sizes are asked for; without one they are unknown."""

    def __init__(
        self, scratch: Scratch, target: Connection | None, show: Callable[[Event], None]
    ) -> None:
        self._scratch, self._target, self._show = scratch, target, show
        self._nothing = _COPY if target else _REPLAY
        self._own: set[sizes.Name] = set()  # the runner's tables
        self._there = self._look()

    def play(self, goal: Goal, todo: Sequence[Migration], longest_s: float) -> Outcome:
        """Run the files, and then their companions. `longest_s`: what may last so long is well.

        Raise what a run of them would raise.
        """
        before = dict[str, dict[Object, str]]()
        statements, found, tried = list[Rehearsed](), list[Finding](), list[Undone]()
        names = [migration.filename for migration in todo]
        later = undone.undoable(self._scratch.settings, names)
        first = [migration for migration in todo if migration.filename not in later]
        for part in filter(None, [first, *([m] for m in todo if m.filename in later)]):
            if (name := part[0].filename) in later:
                before[name] = self._dumped()
            ran = self._executed(goal, part, longest_s)
            statements += ran.statements
            found += ran.findings
        for name in reversed(later):
            tried.append(self._undo(goal, name, before[name]))
            self._show(tried[-1])
        return Outcome(tuple(statements), tuple(found), tuple(tried))

    def _look(self) -> There:
        """Return what is there before the run, without the runner's own tables."""
        with self._scratch.target.once(_NAME) as conn:
            found = seen.answer(ours.ask(conn, seen.question(everything=True))[0][0])
            book = place.find(conn, self._scratch.settings.ledger)
        self._own = {(book.schema, name) for name in (book.table, f"{book.table}_unfinished")}
        without = {o for o, r in found.relations.items() if (r.schema, r.name) in self._own}
        return There(found.relations, frozenset(without))

    def _executed(self, goal: Goal, part: Sequence[Migration], longest_s: float) -> Outcome:
        """Run these files, and show what they do; also what was done before one has failed."""
        names = frozenset(migration.filename for migration in part)
        wanted = Goal(goal.command, schema=SCHEMA in names, among=names)
        run = Rehearsal(self._scratch.target, self._scratch.settings, wanted, self._there)
        try:
            self._drive(run.events())
        except StatementFailed as failed:
            self._tell(part, run.did, longest_s)
            failed.outcome = self._nothing
            failed.advice = (self._nothing, *failed.advice[1:])
            raise
        return self._tell(part, run.did, longest_s)

    def _drive(self, events: Generator[Event, None, T]) -> T:
        try:
            while True:
                event = next(events)
                if isinstance(event, LASTS):
                    self._show(event)
        except StopIteration as done:
            value: T = done.value
            return value
        except Interrupted as stop:
            number = stop.exit_code - 128
            raise Interrupted(f"Interrupted. {self._nothing}", signal_number=number) from None
        except KeyboardInterrupt as stop:
            events.throw(stop)
            raise

    def _tell(self, part: Sequence[Migration], did: Sequence[Did], longest_s: float) -> Outcome:
        """Show what was measured, file by file, with what was found in it."""
        charged = self._charged(did)
        found = [
            told.finding(each, self._there)
            for each in findings.find(charged, self._there, longest_s)
        ]
        statements = list(told.statements(charged, self._there))
        for migration in part:
            name = migration.filename
            with Script.open(migration.path, migration.shown) as script:
                whole = script.directives.transaction
            own = [each for each in statements if each.filename == name]
            if own:
                self._show(Rehearsing(name, migration.shown, whole))
            for each in own:
                self._show(each)
            for one in found:
                if one.filename == name:
                    self._show(one)
        return Outcome(tuple(statements), tuple(found))

    def _charged(self, did: Sequence[Did]) -> list[charges.Charge]:
        there, target = self._there, self._target
        if target is None:
            return [charges.charge(each, there, {}, None) for each in did]
        touched = {t for each in did for t in (*each.read, *each.rewritten, *each.indexed)}
        for table in {table for each in did for table in charges.changed(each, there)}:
            touched |= set(there.leaves(table))
        sized = sizes.sizes(target, {there.name(table) for table in touched})
        planned = {id(each): plan for each, plan in sizes.plans(target, did)}
        read = {name for plan in planned.values() for name in plan.read} - sized.keys()
        sized |= sizes.sizes(target, read)
        return [charges.charge(each, there, sized, planned.get(id(each))) for each in did]

    def _dumped(self) -> dict[Object, str]:
        target = self._scratch.target
        with target.once(_NAME) as conn, ours.transaction(conn, ours.LOOKING):
            book = place.find(conn, self._scratch.settings.ledger)
            role = self._scratch.settings.role
            return objects.dumped(target, conn, book, state=self._nothing, role=role)

    def _undo(self, goal: Goal, filename: str, before: dict[Object, str]) -> Undone:
        """Undo a file, and return how the schema differs from what it was `before` that."""
        try:
            down = self._drive(undone.undo(self._scratch, filename, goal.command))
            differing = objects.compare(before, self._dumped())
            return Undone(filename, down.shown, tuple(map(undone.said, differing)))
        except StatementFailed as failed:
            failed.outcome = self._nothing
            failed.advice = (self._nothing, *failed.advice[1:])
            raise
