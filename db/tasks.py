"""The database: set it up, migrate it, look at it."""

from __future__ import annotations

import os
import sys
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from invoke.context import Context
from invoke.exceptions import Exit
from invoke.tasks import Task, task

from . import command_line as line
from .errors import SettingsError
from .events import Note
from .files.plan import Goal
from .screen import stream

if TYPE_CHECKING:
    from .screen.report import Report

_JSON = {"json": "print one JSON object a line, as docs/events.md describes"}


def _reporting(c: Context, json: bool, *, markdown: bool = False) -> AbstractContextManager[Report]:
    names = {task.name for task in globals().values() if isinstance(task, Task)}
    return line.reporting(
        c, {name.replace("_", "-") for name in names}, json=json, markdown=markdown
    )


@task(help=_JSON)
def migrate(c: Context, json: bool = False) -> None:
    """Set up the database: base schema, then every pending migration.

    A missing database is created, and db/schema.sql is loaded if it is empty.
    """
    with _reporting(c, json) as report:
        line.run(report, line.settings(c, report), Goal("db.migrate", schema=True))


_TO = "the last file to run; the pending ones behind it stay pending"


@task(help={"to": _TO, **_JSON})
def migrate_run(c: Context, to: str = "", json: bool = False) -> None:
    """Run every pending migration."""
    with _reporting(c, json) as report:
        line.run(report, line.settings(c, report), _run_goal(line.given("--to", to)))


def _run_goal(to: str) -> Goal:
    return Goal(line.retyped("db.migrate-run", {"to": to}), to=to)


@task(help={"name": "the file's name, such as 002_add_index.sql", **_JSON})
def migrate_single(c: Context, name: str, json: bool = False) -> None:
    """Run one migration."""
    with _reporting(c, json) as report:
        if name.startswith("-"):
            raise SettingsError(f"{name} is no file name.", "invoke db.migrate-single --name FILE")
        line.run(report, line.settings(c, report), _single_goal(name))


def _single_goal(name: str) -> Goal:
    return Goal(line.retyped("db.migrate-single", {"name": name}), only=name)


@task(
    help={
        "targets": "a file with a URL a line, or name=URL",
        "targets-from": "a query that DATABASE_URL answers with URLs, or names of its databases",
        "schemas": "the schemas of DATABASE_URL's database that are LIKE this, such as tenant_%",
        "only": "a file with names of targets, or what --json has printed: what is left of it",
        "migrate": "what db.migrate does: base schemas, and databases that are missing",
        "to": _TO,
        "name": "what db.migrate-single --name NAME does",
        "workers": "how many targets at a time; 8 unless given",
        "canary": "how many targets before the others; 3 unless given",
        "stop-after": "begin no more after so many failures; 5 unless given, 0: never",
        "status": "show where each target stands; changes nothing",
        "check": "with --status: exit with 3 unless everything is executed on all",
        **_JSON,
    }
)
def fleet(  # noqa: PLR0917  # its arguments are the command's options
    c: Context,
    targets: str = "",
    targets_from: str = "",
    schemas: str = "",
    only: str = "",
    migrate: bool = False,
    to: str = "",
    name: str = "",
    workers: str = "8",
    canary: str = "3",
    stop_after: str = "5",
    status: bool = False,
    check: bool = False,
    json: bool = False,
) -> None:
    """Run every pending migration on many databases, or on many schemas of one.

    Each target has its own ledger, and nothing else is kept: running it again
    does what is left. Canaries come first; it stops after some failures. Ctrl-C
    ends what is under way in order.
    """
    with _reporting(c, json) as report:
        from .commands import fleet as command
        from .fleets.crew import Limits

        if sum(map(bool, (migrate, to, name, status))) > 1 or (check and not status):
            raise SettingsError("Say which one: --migrate, --to, --name or --status (--check).")
        source = command.Source(targets, targets_from, schemas, only)
        goal = Goal(
            line.retyped(
                "db.fleet", {**source.retyped, "migrate": migrate, "to": to, "name": name}
            ),
            schema=migrate,
            only=line.given("--name", name),
            to=line.given("--to", to),
        )
        limits = Limits(
            line.number("--workers", workers),
            line.number("--canary", canary),
            line.number("--stop-after", stop_after),
        )
        with command.members(
            source, lambda: line.settings(c, report), line.settings_of_many(c), report
        ) as members:
            if status:
                command.status(members, limits, report, check=check)
            else:
                command.migrate(members, goal, limits, report)


_YES = {"yes": "do not ask"}
_CHECK = {"check": "exit with 3 unless everything is executed"}


@task(help={**_CHECK, **_JSON})
def status(c: Context, check: bool = False, json: bool = False) -> None:
    """Show which files are executed and which are not.

    executed: done, whole. pending: db.migrate-run runs it. out of order: pending,
    though a later file is executed. unfinished: a no-transaction file that is
    done in part. changed: edited since it was executed. missing: executed, and no
    longer in the folder. renamed: a missing one under another name. Changes
    nothing.
    """
    with _reporting(c, json) as report:
        from .commands import status as command

        command.status(line.settings(c, report), report, check=check)


@task(
    help={
        "run": "what db.migrate-run would do",
        "to": "what db.migrate-run --to NAME would do",
        "name": "what db.migrate-single --name NAME would do",
        "sql": "print the SQL that would be sent, as psql could run it",
        **_JSON,
    }
)
def plan(  # noqa: PLR0917  # its arguments are the command's options
    c: Context,
    run: bool = False,
    to: str = "",
    name: str = "",
    sql: bool = False,
    json: bool = False,
) -> None:
    """Show what db.migrate would do. Changes nothing.

    Files in order, what they consist of, and which do not run in a transaction.
    What would be refused is shown as db.migrate would show it, with exit code 2.
    """
    with _reporting(c, json) as report:
        from .commands import plan as command

        if sum(map(bool, (run, to, name))) > 1:
            raise SettingsError("Say which one: --run, --to or --name.")
        goal = Goal("db.migrate", schema=True)
        if name:
            goal = _single_goal(line.given("--name", name))
        elif run or to:
            goal = _run_goal(line.given("--to", to))
        if sql:
            command.show_sql(
                line.settings(c), report, goal, partial(stream.write_whole, sys.stdout)
            )
            return
        otherwise = Goal("db.migrate-run") if goal.schema else None
        made = command.plan(line.settings(c, report), report, goal, otherwise=otherwise)
        command.show(made, report, goal)


_LONGEST = "1s"


@task(
    help={
        "name": "the one file to rehearse",
        "to": "the last file to rehearse",
        "replay": "no target: on what the files before make; sizes are unknown",
        "check": "exit with 3 if others may wait for longer than --longest",
        "longest": f"how long others may wait: {_LONGEST} unless given",
        "markdown": "print Markdown, for a pull request",
        **_JSON,
    }
)
def rehearse(  # noqa: PLR0917  # its arguments are the command's options
    c: Context,
    name: str = "",
    to: str = "",
    replay: bool = False,
    check: bool = False,
    longest: str = _LONGEST,
    markdown: bool = False,
    json: bool = False,
) -> None:
    """Show what each pending statement would do to the target: locks, reads, time.

    The files run on a copy of the target's schema. Of the target itself only the
    catalog is read. Each .down.sql is tried on the copy as well.
    """
    with _reporting(c, json, markdown=markdown) as report:
        from .commands import rehearse as command
        from .settings import duration

        if name and to:
            raise SettingsError("Say which one: --name or --to.")
        longest_ms = duration("--longest", line.given("--longest", longest), "s")
        given: dict[str, str | bool] = {"name": name, "to": to, "replay": replay, "check": check}
        given["longest"] = "" if longest == _LONGEST else longest
        again = line.retyped("db.rehearse", given)
        goal = Goal(again, only=line.given("--name", name), to=line.given("--to", to))
        settings = line.settings(c, report, required=not replay)
        outcome = command.rehearse(settings, report, goal, replayed=replay, longest_ms=longest_ms)
        if check:
            command.check(outcome, longest)


@task(
    help={
        "description": 'what it does, in words: "add index to campaigns"',
        "no-transaction": "for CREATE INDEX CONCURRENTLY and the like",
    }
)
def new(c: Context, description: str, no_transaction: bool = False) -> None:
    """Write a new migration file, and print its path.

    It gets the next number and the header. No database is needed.
    """
    with _reporting(c, json=False):
        from .files import new as drafts
        from .settings import offline

        settings = offline(line.root(c), c.config.get("db"))
        shown = settings.shown(settings.folder)
        given = line.given("The description", description)
        path = drafts.write(settings.folder, shown, given, transaction=not no_transaction)
        path = os.path.relpath(settings.root / path)  # from where it was asked for
        stream.write(sys.stdout, f"{path}\n")  # nothing else, for $(invoke db.new …)


@task(help={"tasks": "a tasks.py as well, for invoke", **_JSON})
def init(c: Context, tasks: bool = False, json: bool = False) -> None:
    """Make what a project needs: migrations/, .env.example.

    What exists is left as it is. No database is needed.
    """
    with _reporting(c, json) as report:
        from .commands import init as command
        from .settings import offline

        command.init(offline(line.root(c), c.config.get("db")), report, tasks=tasks)


@task(help=_JSON)
def verify(c: Context, json: bool = False) -> None:
    """Check that executed files have not changed since.

    Exit code 3 if one has changed or is missing.
    """
    with _reporting(c, json) as report:
        from .commands import verify as command

        command.verify(line.settings(c, report), report)


@task(help=_JSON)
def drift(c: Context, json: bool = False) -> None:
    """Compare the database with what its files make.

    The executed files are replayed on a disposable database, and the two schemas
    are compared object by object. Exit code 3 if they differ. Changes nothing.
    docs/drift.md says what counts.
    """
    with _reporting(c, json) as report:
        from .commands import drift as command

        command.drift(line.settings(c, report), report)


@task(help={"to": "the last file that the database already has; otherwise all", **_YES, **_JSON})
def baseline(c: Context, to: str = "", yes: bool = False, json: bool = False) -> None:
    """Record files as executed without running them.

    For a database that already has them: db/schema.sql, and every migration up to
    --to. Files that are recorded already stay as they are.
    """
    with _reporting(c, json) as report:
        from .commands import baseline as command

        command.baseline(
            line.settings(c, report), report, line.asking(yes, json), line.given("--to", to)
        )


@task(
    help={
        "name": "the file",
        "accept": "it was edited since, and that is right: record its checksum",
        "forget": "remove its row, or what is finished of it if it is half done, so that it runs "
        "again (schema.sql only into an empty database); its file may be gone",
        "mark": "record it as executed without running it",
        "renamed-from": "its name when it was executed, or begun: its rows get the new one",
        **_YES,
        **_JSON,
    }
)
def repair(  # noqa: PLR0917  # its arguments are the command's options
    c: Context,
    name: str,
    accept: bool = False,
    forget: bool = False,
    mark: bool = False,
    renamed_from: str = "",
    yes: bool = False,
    json: bool = False,
) -> None:
    """Put right what the ledger says about one file.

    One of --accept, --forget, --mark and --renamed-from says how.
    """
    with _reporting(c, json) as report:
        from .commands import repair as command

        ways = {"accept": accept, "forget": forget, "mark": mark, "renamed-from": renamed_from}
        chosen = [way for way, given in ways.items() if given]
        if len(chosen) != 1:
            raise SettingsError("Say which one: --accept, --forget, --mark or --renamed-from.")
        way = command.Way(chosen[0], line.given("--renamed-from", renamed_from))
        command.repair(
            line.settings(c, report),
            report,
            line.asking(yes, json),
            line.given("--name", name),
            way,
        )


@task(
    help={
        "steps": "how many files, the latest first; 1 unless given",
        "to": "undo all that was executed after this file",
        **_YES,
        **_JSON,
    }
)
def rollback(
    c: Context, steps: str = "1", to: str = "", yes: bool = False, json: bool = False
) -> None:
    """Undo the latest files by their .down.sql companions.

    002_add_index.sql is undone by 002_add_index.down.sql, in the transaction that
    removes its row; it is pending again then. If a companion is missing, or
    another file is half done, nothing runs.
    """
    with _reporting(c, json) as report:
        from .commands import rollback as command

        number, after = line.number("--steps", steps), line.given("--to", to)
        command.rollback(line.settings(c, report), report, line.asking(yes, json), number, after)


@task(
    iterable=["data"],
    help={
        "file": "where to; MIGRATIONS_SCHEMA (db/schema.sql) unless given",
        "data": "a table whose rows go into it; may be repeated",
        "privileges": "what GRANT and ALTER DEFAULT PRIVILEGES have given goes into it",
        "force": "replace a file that db.dump has not written",
        "check": "exit with 3 unless the file is what the migrations make; needs no database",
        **_JSON,
    },
)
def dump(  # noqa: PLR0917  # its arguments are the command's options
    c: Context,
    data: list[str],
    file: str = "",
    privileges: bool = False,
    force: bool = False,
    check: bool = False,
    json: bool = False,
) -> None:
    """Write the database's schema to db/schema.sql.

    It is what pg_dump says, made the same for the same schema, and ends with the
    names of the executed migrations: db.migrate sets up a new database from it
    with nothing left to run. What they did to rows, and privileges, are not in it
    unless they are asked for; what else they did besides the schema is not in it
    either. It says which of them did what.
    """
    with _reporting(c, json) as report:
        from .commands import dump as command
        from .commands import dump_check

        settings = line.settings(c, report, required=not check)
        path = Path(line.given("--file", file)) if file else settings.schema
        if check and (data or privileges or force):
            raise SettingsError("--check writes nothing: it goes with --file only.")
        if check:
            dump_check.check(settings, report, path)
            return
        tables = [line.given("--data", table) for table in data]
        wanted = command.Wanted(path, tables, privileges=privileges, force=force)
        command.dump(settings, report, wanted)


@task(
    iterable=["file"],
    help={"file": "a file to look at instead of all pending ones; may be repeated", **_JSON},
)
def lint(c: Context, file: list[str], json: bool = False) -> None:
    """Look for dangerous statements in pending files (squawk).

    Exit code 1 if there are some. Without a database, all files are looked at.
    .squawk.toml says which rules hold.
    """
    with _reporting(c, json) as report:
        from .commands import opened
        from .engine import survey
        from .files import folder
        from .files import lint as command

        settings = line.settings(c, report, required=False)
        migrations = folder.discover(settings.folder, settings.shown(settings.folder))
        if file:
            migrations = tuple(command.chosen(migrations, line.given("--file", f)) for f in file)
        elif settings.parameters:
            with opened.reading(settings, report) as conn:
                migrations = survey.stand(conn, settings).plan.pending
        found = list(command.lint(migrations, settings.root)) if migrations else []
        if found and not json:
            report.table(("place", "rule", "message"), [finding.row for finding in found])
        if found:
            raise command.summary(found, len(migrations))
        report.event(Note(f"nothing found; files looked at: {len(migrations)}"))


@task(
    help={
        "out": "the file, instead of db/models.py or what the settings name",
        "style": "dataclass, pydantic or typeddict",
        "enums": "literal, or class: with what registers them",
        "live": "from the target as it is, instead of from the files",
        "check": "write nothing; exit with 3 unless the file is what would be written",
        **_JSON,
    }
)
def models(  # noqa: PLR0917  # its arguments are the command's options
    c: Context,
    out: str = "",
    style: str = "",
    enums: str = "",
    live: bool = False,
    check: bool = False,
    json: bool = False,
) -> None:
    """Write the tables and views as typed Python.

    From what the base schema and the migrations make of a disposable database: no
    target is needed. docs/models.md says what is in the file.
    """
    with _reporting(c, json) as report:
        from .commands import models as command

        settings = line.settings(c, report, required=live)
        given = (line.given("--style", style), line.given("--enums", enums))
        settings = settings._replace(styles=settings.styles.chosen(*given))
        path = Path.cwd() / line.given("--out", out) if out else settings.models
        if not check:
            command.write(settings, report, path, live=live)
            return
        said = (("--out", out), ("--style", style), ("--enums", enums))
        again = ["db.models", *(f"{name} {value}" for name, value in said if value)]
        again += ["--live"] if live else []
        command.check(settings, report, path, live=live, again=" ".join(again))


@task(help={"timeout": "seconds, or such as 5min; 30 unless given", **_JSON})
def wait(c: Context, timeout: str = "30", json: bool = False) -> None:
    """Wait until the server accepts connections.

    Exit code 2 if it does not in time. The database need not exist.
    """
    with _reporting(c, json) as report:
        from .commands import database
        from .settings import duration

        timeout_s = duration("--timeout", timeout, "s") / 1000
        database.wait(line.settings(c, report), report, timeout_s)


@task(help=_JSON)
def create(c: Context, json: bool = False) -> None:
    """Create the database.

    If it exists, nothing happens. db.migrate creates it as well.
    """
    with _reporting(c, json) as report:
        from .commands import database

        database.create(line.settings(c, report), report)


_DROP = {
    "yes": "do not ask; with the database's name also where the server is not shown to be here",
    "yes-really-drop": "the database's name: the same as --yes NAME",
}


@task(optional=["yes"], help={**_DROP, **_JSON})
def drop(c: Context, yes: str | None = None, yes_really_drop: str = "", json: bool = False) -> None:
    """Drop the database (for development).

    Open connections are closed. A server that is not shown to be this machine's
    needs --yes NAME.
    """
    with _reporting(c, json) as report:
        from .commands import database

        really = line.named(yes, yes_really_drop)
        database.drop(line.settings(c, report), report, line.asking(bool(yes), json), really)


@task(optional=["yes"], help={**_DROP, **_JSON})
def reset(
    c: Context, yes: str | None = None, yes_really_drop: str = "", json: bool = False
) -> None:
    """Drop the database and set it up again (for development).

    It is created and migrated as by db.migrate. A server that is not shown to be
    this machine's needs --yes NAME.
    """
    with _reporting(c, json) as report:
        from .commands import database
        from .server import connection

        settings, really = line.settings(c, report), line.named(yes, yes_really_drop)
        with connection.target(settings):  # one for both, should it be embedded
            database.drop(settings, report, line.asking(bool(yes), json), really)
            line.run(report, settings, Goal("db.migrate", schema=True))


@task
def console(c: Context) -> None:
    """Open psql on the database."""
    with _reporting(c, json=False):
        from .server import programs

        code = programs.console(line.settings(c))
    raise Exit(code=code)
