"""db.fleet: the same folder on many targets, and where each of them stands."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from ..engine.runner import Run
from ..engine.survey import stand
from ..errors import (
    CheckFailed,
    FilesError,
    FleetFailed,
    Interrupted,
    MigrationsError,
    SettingsError,
    counted,
    listed,
)
from ..events import Finished, Note, Standing, Target
from ..files import folder
from ..files import plan as plans
from ..files.folder import Migration
from ..files.plan import SCHEMA, STRAY, Goal, Plan
from ..fleets import ledgers, roster, tally
from ..fleets.crew import MOST, Act, Begin, Crew, Limits, Show
from ..fleets.roster import Member, Of
from ..server import connection, described
from ..settings import Settings
from .opened import Cell, Listener, Screen, drive, explained, read_only

_LOOKS = Limits(canary=0, stop_after=0)
_NOTHING = "nothing is left to be done on any target that --only names"
_AGAIN = "(the same query)"


class Source(NamedTuple):
    """Where the targets come from: one of the first three; and `only` those that a file names."""

    targets: str = ""
    targets_from: str = ""
    schemas: str = ""
    only: str = ""

    @property
    def retyped(self) -> dict[str, str]:
        """Return the options to be typed again, without a query that may hold a password."""
        hidden = roster.may_hold_password(self.targets_from)
        return {**self._asdict(), **({"targets_from": _AGAIN} if hidden else {})}


@contextmanager
def members(
    source: Source, base: Callable[[], Settings], of: Of, screen: Screen
) -> Iterator[list[Member]]:
    """Yield the targets. `base` are the settings of DATABASE_URL, where that is asked.

    Raise `SettingsError` for what is not understood, and `ConnectionFailed`.
    """
    if sum(map(bool, source[:3])) != 1:
        one = "Say one of these" if any(source[:3]) else "Say which targets"
        raise SettingsError(f"{one}: --targets, --targets-from or --schemas.")
    if source.targets:
        yield _only(roster.of_file(Path(source.targets), of), source.only)
        return
    settings = base()
    with connection.target(settings) as target:
        with drive(target.connect("migrations fleet"), screen) as conn:
            screen.event(described.describe(conn, writing=False).connected)
            if source.targets_from:
                found = roster.of_query(source.targets_from, conn, target, settings, of)
            else:
                found = roster.of_schemas(source.schemas, conn, target, settings)
        yield _only(found, source.only)


def _only(found: list[Member], path: str) -> list[Member]:
    return roster.only(found, Path(path)) if path else found


def migrate(
    targets: Sequence[Member], goal: Goal, limits: Limits, screen: Screen
) -> tuple[Target, ...]:
    """Do it on all targets, and return what became of each.

    Raise `FleetFailed` if any failed, and `Interrupted` with what stands.
    """
    _check(limits)
    if not targets:
        screen.event(Note(_NOTHING))
        screen.event(Finished((), 0))
        return ()
    if goal.schema and any(member.target.schema for member in targets):
        raise SettingsError(
            "A base schema is that of a database, and --schemas are many in one.",
            "Leave --migrate out: the migrations alone make what is in each schema.",
        )
    files = _files(targets)
    for name in filter(None, (goal.to, goal.only)):
        folder.find(files, name)  # one that there is not is said once
    done = set[str]() if goal.only else _done(targets, files)
    crew = Crew(targets, _migrating(goal, files, done), limits)
    screen.event(Note(_where(targets)))
    crew.run(screen.event)
    records = tuple(each for each in crew.records if isinstance(each, Target))
    for message, number in crew.warned.items():
        screen.event(Note(f"{message} ({counted(number, 'target')})", "warning"))
    said = tally.summary(records, crew.total)
    again = f"Go on with what is left: invoke {goal.command}"
    if crew.stop.told.is_set():
        left = [f"{each.name}: {each.message}" for each in records if each.state == "interrupted"]
        broken = [f"{listed(names)}: {error.message}" for error, names in _kinds(crew)]
        message = f"Interrupted. {said}."
        raise Interrupted(message, *left, *broken, again, signal_number=crew.stop.number)
    if crew.failures:
        because = f", because {crew.stopped}" if crew.stopped and "not begun" in said else ""
        # What is wrong with the files, or with the command, is so for all targets.
        everywhere = all(isinstance(e, FilesError | SettingsError) for _, e in crew.failures)
        without = (
            ["To begin all the same: --canary 0"] if "canar" in because and not everywhere else []
        )
        raise FleetFailed(
            f"{said}{because}.", *without, again, failures=_kinds(crew), outcomes=records
        )
    executed = dict.fromkeys(sorted({name for each in records for name in each.executed}))
    idle = sum(each.state == "nothing to do" for each in records)
    sums = [(len(records) - idle, "migrated"), (idle, "with nothing to do")]
    each = (f"{counted(number, 'target')} {what}" for number, what in sums if number)
    screen.event(Note(", ".join(each)))
    screen.event(Finished(tuple(executed), round(1000 * crew.elapsed_s)))
    return records


def _done(targets: Sequence[Member], files: tuple[Migration, ...]) -> set[str]:
    """Return the names of schemas whose ledgers have these files, and nothing else."""
    wanted = {file.filename: file.checksum for file in files}
    return {
        seen.member.name
        for seen in ledgers.read(targets, writing=True)
        if seen.book.complete
        and not seen.progress
        and {row.filename: row.checksum for row in seen.executed.values()} == wanted
    }


def _migrating(goal: Goal, files: tuple[Migration, ...], done: set[str]) -> Act:
    def act(member: Member, tell: Show, begin: Begin) -> tuple[Target, MigrationsError | None]:
        started, failed = time.monotonic(), None
        if member.name in done:
            return tally.record(member.name, (), 0, None), None
        if goal.schema:  # then connecting may make a database
            begin()
        run = Run(member.target, member.settings, goal, files, sparing=True, begin=begin)
        try:
            drive(run.events(), Listener(tell))
        except MigrationsError as error:
            failed = error
        ms = round(1000 * (time.monotonic() - started))
        return tally.record(member.name, run.executed, ms, failed), failed

    return act


def status(
    targets: Sequence[Member], limits: Limits, screen: Screen, *, check: bool = False
) -> tuple[Standing, ...]:
    """Show where the targets stand, and return it. Nothing is written.

    Raise `FleetFailed` if some cannot be looked at; with `check`, `CheckFailed` unless everything
    is executed on all.
    """
    _check(limits)
    if not targets:
        screen.event(Note(_NOTHING))
        return ()
    files = _files(targets)
    looking = _looking(files, _seen(targets, files))
    crew = Crew(targets, looking, _LOOKS._replace(workers=limits.workers))
    screen.event(Note(_where(targets)))
    crew.run(screen.event)
    if crew.stop.told.is_set():
        raise Interrupted("Interrupted.", signal_number=crew.stop.number)
    records = tuple(each for each in crew.records if isinstance(each, Standing))
    seen = [each for each in records if each.state != "failed"]
    places = Counter((each.last or "nothing is executed", len(each.pending)) for each in seen)
    rows: list[Sequence[Cell]] = [
        (last, pending, number) for (last, pending), number in sorted(places.items(), reverse=True)
    ]
    if rows:
        screen.table(("executed_up_to", "pending", "targets"), rows)
    for state in ("behind", "unfinished", "changed", "missing"):
        names = sorted(each.name for each in seen if _is(each, state))
        if names:
            screen.event(Note(f"{state}: {counted(len(names), 'target')}: {listed(names)}"))
    if crew.failures:
        said = f"{len(crew.failures):,} of {counted(crew.total, 'target')} cannot be looked at"
        if left := crew.total - len(crew.failures) - len(seen):
            said += f", {left:,} were not looked at, because {crew.stopped}"
        raise FleetFailed(f"{said}.", failures=_kinds(crew), outcomes=records)
    if check and any(each.state != "executed" for each in seen):
        ready = sum(each.state == "executed" for each in seen)
        all_of = counted(crew.total, "target")
        raise CheckFailed(f"Everything is executed on {ready:,} of {all_of}.")
    return records


def _seen(targets: Sequence[Member], files: tuple[Migration, ...]) -> dict[str, Standing]:
    """Return where schemas stand, by name, as far as one connection can read that."""
    without = not targets[0].settings.schema.is_file()
    found = dict[str, Standing]()
    for seen in ledgers.read(targets, writing=False):
        with suppress(FilesError):
            made = plans.make(files, seen.executed, seen.progress, without_schema=without)
            found[seen.member.name] = _standing(seen.member, made, seen.executed)
    return found


def _looking(files: tuple[Migration, ...], seen: dict[str, Standing]) -> Act:
    def act(member: Member, tell: Show, _: Begin) -> tuple[Standing, MigrationsError | None]:
        if member.name in seen:
            return seen[member.name], None
        try:
            return _stands(member, files, Listener(tell)), None
        except MigrationsError as error:
            return Standing(member.name, "failed", message=error.message), error
        except KeyboardInterrupt:
            return Standing(member.name, "interrupted"), None

    return act


def _stands(member: Member, files: tuple[Migration, ...], screen: Screen) -> Standing:
    with (
        explained("Nothing was read."),
        drive(member.target.connect("invoke db.fleet"), screen) as conn,
    ):
        server = described.describe(conn, writing=False)
        with read_only(conn, server):
            found = stand(conn, member.settings, files=files)
    return _standing(member, found.plan, found.executed)


def _standing(member: Member, plan: Plan, executed: Collection[str]) -> Standing:
    named, last = plan.named, max((n for n in executed if n != SCHEMA), default="")
    made = Standing(
        member.name,
        "executed",
        last or (SCHEMA if SCHEMA in executed else ""),
        tuple(migration.filename for migration in plan.pending),
        named("unfinished", STRAY),
        named("changed", "renamed"),
        named("missing"),
    )
    states = [state for state in ("changed", "unfinished", "behind", "missing") if _is(made, state)]
    return made._replace(state=states[0] if states else "executed")


def _is(standing: Standing, state: str) -> bool:
    return bool(standing.pending if state == "behind" else getattr(standing, state))


def _files(targets: Sequence[Member]) -> tuple[Migration, ...]:
    """Return the folder's files, which are the same for all, read once."""
    settings = targets[0].settings
    return folder.shared(folder.discover(settings.folder, settings.shown(settings.folder)))


def _where(targets: Sequence[Member]) -> str:
    places = {member.target.place for member in targets}
    where = places.pop() if len(places) == 1 else f"{len(places):,} servers"
    return f"{counted(len(targets), 'target')} on {where}"


def _kinds(crew: Crew) -> list[tuple[MigrationsError, list[str]]]:
    return tally.grouped(crew.failures)


def _check(limits: Limits) -> None:
    if not 1 <= limits.workers <= MOST:
        raise SettingsError(f"--workers is a number from 1 to {MOST}.")
    if limits.canary < 0 or limits.stop_after < 0:
        raise SettingsError("--canary and --stop-after are numbers; 0: none.")
