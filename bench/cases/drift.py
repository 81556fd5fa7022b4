"""A schema of 500 tables held against a replay of its files."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial

import db
from db.settings import Settings

from ..case import Case, Column, Program, Sample, Samples, Target
from ..results import Results
from ..session import Bench

NAME, ROW, DIFFERS = "drift", "db.drift", "db.drift, with a difference"
_TABLES, _FILES = 500, 50
_LIMITS_S = {ROW: 5.0, DIFFERS: 8.0}


def _file(number: int) -> str:
    return "".join(
        f"CREATE TABLE t{n} (id int PRIMARY KEY, a int, v text,"
        f" t_id int REFERENCES t{max(n - 1, 0)});"
        f"CREATE INDEX ON t{n} (a);\n"
        for n in range(number * _TABLES // _FILES, (number + 1) * _TABLES // _FILES)
    )


def measure(bench: Bench, _: Sequence[Program]) -> Samples:
    folder = bench.folder / NAME / "migrations"
    folder.mkdir(parents=True)
    for number in range(_FILES):
        (folder / f"{number:03}_tables.sql").write_text(_file(number))
    plain, other = (
        Settings.of(bench.url(bench.cluster.create_database()), folder) for _ in range(2)
    )
    db.migrate(plain)
    db.migrate(other)
    with bench.cluster.connect(other.parameters["dbname"]) as conn:
        conn.execute("ALTER TABLE t7 ALTER v TYPE varchar(9)")
    once = {ROW: partial(_once, plain, 0), DIFFERS: partial(_once, other, 1)}
    once[ROW](0)  # initdb, the file cache, the bytecode
    return bench.turns(NAME, 5, once)


def _once(settings: Settings, differences: int, _: int) -> Sample:
    """Do what the command does, without Python's start, which other cases tell."""
    began = time.perf_counter()
    found = db.drift(settings)
    seconds = round(time.perf_counter() - began, 4)
    error = "" if len(found) == differences else f"{len(found)} differences"
    return Sample({"seconds": seconds}, error)


def targets(results: Results) -> Sequence[Target]:
    said = {ROW: f"{_TABLES} tables", DIFFERS: "with a difference"}
    return [
        target
        for row, limit in _LIMITS_S.items()
        for target in results.at_most(NAME, row, limit, f"{said[row]} in {limit:.0f} s", "seconds")
    ]


CASES = [
    Case(
        NAME,
        f"{_TABLES} tables of {_FILES} files held against a replay",
        measure,
        [Program(ROW, "the whole command without Python's start")],
        {"seconds": Column("whole, s")},
        targets,
        about="On a disposable server of this machine whose folder initdb has filled before. A "
        "difference has both schemas loaded and dumped once more, but for what no expression "
        "refers to.",
    )
]
