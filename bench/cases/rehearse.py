"""A rehearsal of 20 statements on a schema of 200 tables, and where its time goes."""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial

from db.commands.opened import read_only
from db.engine.survey import survey
from db.events import Event
from db.files.plan import Goal
from db.rehearsal.stage import Stage
from db.scratch.database import database
from db.scratch.fill import copy
from db.server import connection, described
from db.settings import Settings

from ..case import Case, Column, Program, Sample, Samples, Target
from ..results import Results
from ..session import Bench

NAME, ROW = "rehearse", "db.rehearse"
_TABLES, _STATEMENTS, _LIMIT_S = 200, 20, 3.0
_SCHEMA = "".join(
    f"CREATE TABLE t{n} (id int PRIMARY KEY, a int, v text, t_id int REFERENCES t{max(n - 1, 0)});"
    f"CREATE INDEX ON t{n} (a);\n"
    for n in range(_TABLES)
)
_PENDING = "".join(
    f"ALTER TABLE t{n} ADD COLUMN c int;\nALTER TABLE t{n} ALTER COLUMN a SET NOT NULL;\n"
    if n % 2
    else f"UPDATE t{n} SET v = 'x' WHERE a = 7;\nCREATE INDEX ON t{n} (v);\n"
    for n in range(_STATEMENTS // 2)
)


def measure(bench: Bench, _: Sequence[Program]) -> Samples:
    folder = bench.folder / NAME / "migrations"
    folder.mkdir(parents=True)
    (folder / "001_tables.sql").write_text(_SCHEMA)
    name = bench.cluster.create_database()
    with bench.cluster.connect(name) as conn:
        conn.execute(_SCHEMA.encode())
        conn.execute("CREATE TABLE migrations (id serial PRIMARY KEY, filename text UNIQUE, "
                     "executed_at timestamptz DEFAULT now())")  # fmt: skip
        conn.execute("INSERT INTO migrations (filename) VALUES ('001_tables.sql')")
    (folder / "002_pending.sql").write_text(_PENDING)
    once = partial(_once, Settings.of(bench.url(name), folder))
    once(0)  # initdb, the file cache, the bytecode
    return bench.turns(NAME, 5, {ROW: once})


def _once(settings: Settings, _: int) -> Sample:
    """Do what the command does, from a connection on; Python's start is told by other cases."""
    marks, statements = [time.perf_counter()], list[Event]()
    goal = Goal("db.rehearse")
    with ExitStack() as stack:
        target = stack.enter_context(connection.target(settings))
        conn = stack.enter_context(target.once("bench"))
        with read_only(conn, described.describe(conn, writing=False)):
            found = survey(conn, settings, goal)
            scratch = stack.enter_context(database(settings, conn))
            marks.append(time.perf_counter())
            copy(target, conn, found.ledger, scratch)
        marks.append(time.perf_counter())
        outcome = Stage(scratch, conn, statements.append).play(goal, found.todo, 1.0)
        marks.append(time.perf_counter())
    marks.append(time.perf_counter())
    parts = [round(end - begin, 4) for begin, end in itertools.pairwise(marks)]
    figures = dict(zip(("made", "copied", "files", "removed"), parts, strict=True))
    error = "" if len(outcome.statements) == _STATEMENTS else "a statement is missing"
    return Sample({"seconds": round(marks[-1] - marks[0], 4), **figures}, error)


def targets(results: Results) -> Sequence[Target]:
    return results.at_most(NAME, ROW, _LIMIT_S, f"a rehearsal in {_LIMIT_S:.0f} s", "seconds")


CASES = [
    Case(
        NAME,
        f"a rehearsal of {_STATEMENTS} statements on {_TABLES} tables",
        measure,
        [Program(ROW, "the whole command without Python's start")],
        {
            "seconds": Column("whole, s"),
            "made": Column("server started, s"),
            "copied": Column("schema copied, s"),
            "files": Column("files run and measured, s"),
            "removed": Column("removed, s"),
        },
        targets,
        about="On a disposable server of this machine whose folder initdb has filled before.",
    )
]
